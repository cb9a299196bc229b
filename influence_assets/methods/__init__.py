"""Attribution methods, one in each file, which defines `METHOD`, an `AttributionMethod` (see `method.py`)."""
