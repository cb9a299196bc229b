"""All that a study's runs import, imported once by the server of forks instead of by each process."""

import importlib

for name in (
    "torch",
    "transformers.models.gpt2.modeling_gpt2",
    "polars",
    "pyarrow",
    "duckdb",
    "zarr",
    "influence_assets.storage.catalogue",
    "influence_assets.pipeline.attribution",
    "influence_assets.pipeline.catalogue",
    "influence_assets.pipeline.corpus",
    "influence_assets.pipeline.curvature",
    "influence_assets.pipeline.details",
    "influence_assets.pipeline.drift",
    "influence_assets.pipeline.model",
    "influence_assets.pipeline.queries",
    "tests.faults.working",
):
    importlib.import_module(name)
