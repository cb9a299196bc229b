"""Pure functions on tensors, in the papers' letters. They know no model, no file and no Dagster."""
