"""Arrays, tables and the catalogue: the only place that knows Zarr and DuckDB."""
