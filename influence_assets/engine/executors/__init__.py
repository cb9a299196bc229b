"""Executors, one in each file: each defines `EXECUTOR`, an `Executor` (the contract is in `engine.executor`)."""
