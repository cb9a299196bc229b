"""Jobs named by what a person wants done; each covers assets of one kind of partition."""

from collections.abc import Mapping, Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from influence_assets.study import Study

JOBS: Mapping[str, tuple[Sequence[str], str]] = {
    "read_documents": (["documents"], "Read a source file again."),
    "prepare_model": (["language_model"], "Look at the model's weights, or train the study's own model."),
    "measure_curvature": (["token_sequences", "covariances"], "Tokenize a shard and measure its covariances."),
    "fit_generation": (["eigenbases"], "Freeze the eigenbasis of a generation."),
    "correct_eigenvalues": (["corrected_eigenvalues"], "Measure a shard in the frozen eigenbasis."),
    "finish_generation": (["curvature"], "Merge the corrected eigenvalues of a generation and damp them."),
    "measure_drift": (["curvature_drift"], "See how far the corpus has moved from the generation."),
    "ask_queries": (["query_gradients"], "Take the gradients of a query set."),
    "sketch_shard": (["gradient_sketches"], "Sketch a shard's gradients, for new questions."),
    "score_shard": (["influence_scores"], "Score a shard for a query set."),
    "explain_strongest": (["influence_details"], "Split a query set's strongest scores over layers and tokens."),
    "publish_catalogue": (["influence_catalogue"], "Load the DuckDB file and check it."),
}


def build_jobs(study: Study) -> list[UnresolvedAssetJobDefinition]:
    """All jobs of a study."""
    return [
        dg.define_asset_job(
            f"{study.name}_{name}",
            dg.AssetSelection.assets(*(dg.AssetKey([study.name, asset]) for asset in assets)),
            description=description,
        )
        for name, (assets, description) in JOBS.items()
    ]
