"""Source formats, one a file: each defines `FORMAT`, a `SourceFormat` (the contract is in `corpus.source_format`)."""
