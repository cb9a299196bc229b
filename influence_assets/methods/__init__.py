"""Attribution methods, one a file: each defines `METHOD`, an `AttributionMethod` (the contract is in `method.py`)."""
