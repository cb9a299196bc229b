"""What a study will take before it runs: what its assets say that they cost, added up beside what was measured."""
