"""Media of a store, one a file: each defines `BACKEND`, a `BackendKind` (the contract is in `storage.backend`)."""
