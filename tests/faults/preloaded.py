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
    "influence_assets.assets.influence_scores",
    "influence_assets.engine.catalogue",
    "influence_assets.assets.shared_pass",
    "influence_assets.capture.one_pass",
    "influence_assets.capture.details",
    "influence_assets.layouts.drift",
    "influence_assets.layouts.model",
    "influence_assets.layouts.queries",
    "influence_assets.layouts.sketches",
    "influence_assets.models.training",
    "tests.faults.working",
):
    importlib.import_module(name)
