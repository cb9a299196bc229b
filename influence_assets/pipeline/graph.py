"""The graph: every step with its inputs, its settings, the version of its code and what it is for."""

from collections.abc import Mapping
from typing import Any

from influence_assets.pipeline.steps import Step
from influence_assets.study import Study


def _documents(study: Study) -> Mapping[str, Any]:
    return study.corpus.model_dump(include={"text_column", "id_column"})


def _model(study: Study) -> Mapping[str, Any]:
    # The length matters to a model that is brought too: one that is too short for it is refused.
    train = study.model.train
    length = {"length": study.sequences.length}
    return length if train is None else {"train": train.model_dump(), **length}


def _fitted(study: Study) -> Mapping[str, Any]:
    later = {"damping_scale", "drift_threshold", "new_generation"}
    return {"dtype": study.model.dtype, **study.curvature.model_dump(mode="json", exclude=later)}


STEPS: tuple[Step, ...] = (
    Step(
        "documents", "corpus", "shard", (), "2", "corpus.documents", frozenset({"polars", "parquet"}),
        "The shard's documents with their metadata. Identical ones are kept once and counted, withdrawn ones are left "
        "out; a document's id is the hash of its text.",
        _documents,
    ),
    Step(
        "language_model", "model", "none", ("documents",), "1", "model.language_model",
        frozenset({"torch", "huggingface"}),
        "The model's weights and tokenizer, known by their content. A model that the study brings stays where it is "
        "and is loaded once to see that it is whole. One that the study trains is trained on all the documents there "
        "are and kept: shards that come later do not change it.",
        _model, heavy=True,
    ),
    Step(
        "token_sequences", "corpus", "shard", ("documents", "language_model"), "1", "corpus.token_sequences",
        frozenset({"zarr", "parquet"}),
        "The shard's documents as tokens, packed into sequences of fixed length. Every token remembers the document "
        "and the characters that it came from.",
        lambda study: {"length": study.sequences.length},
    ),
    Step(
        "covariances", "curvature", "shard", ("token_sequences", "language_model"), "1", "curvature.covariances",
        frozenset({"torch", "zarr"}),
        "Totals of a·aᵀ and Ds·Dsᵀ of every attributed layer over the shard's tokens, with sampled labels by default. "
        "They add up over shards; positions without a loss are not counted.",
        _fitted, heavy=True,
    ),
    Step(
        "eigenbases", "curvature", "none", ("covariances",), "1", "curvature.eigenbases",
        frozenset({"torch", "zarr"}),
        "A numbered generation: the eigenvectors of the merged covariances of every layer, decomposed in float64 and "
        "then frozen. Shards that come later are scored in it, so that scores stay comparable. Set `new_generation` in "
        "the launchpad to fit another one.",
    ),
    Step(
        "corrected_eigenvalues", "curvature", "shard",
        ("token_sequences", "language_model", "covariances", "eigenbases"), "2",
        "curvature.corrected_eigenvalues", frozenset({"torch", "zarr"}),
        "Totals of the squared, rotated sequence gradients Λ over the shard, in the generation's frozen eigenbasis, "
        "and how far the shard's own covariances are from being diagonal in it.",
        _fitted, heavy=True,
    ),
    Step(
        "curvature", "curvature", "none", ("language_model", "eigenbases", "corrected_eigenvalues"), "1",
        "curvature.curvature", frozenset({"torch", "zarr"}),
        "The generation's curvature, ready to be inverted: merged Λ and the damping of each layer, with their spectra.",
        lambda study: {"damping_scale": study.curvature.damping_scale},
    ),
    Step(
        "curvature_drift", "curvature", "none", ("corrected_eigenvalues", "eigenbases", "curvature"), "1",
        "drift.curvature_drift", frozenset({"torch", "parquet"}),
        "How far the statistics of all shards that there are now have moved from the frozen generation, layer by "
        "layer. Past the study's threshold a new generation is due.",
        lambda study: {"drift_threshold": study.curvature.drift_threshold},
    ),
    Step(
        "query_gradients", "queries", "query_set", ("language_model", "eigenbases", "curvature"), "2",
        "queries.query_gradients", frozenset({"torch", "zarr"}),
        "(G+λI)⁻¹ ∇ log p(completion given prompt) of every query of the set, layer by layer, in the eigenbases.",
        lambda study: {"dtype": study.model.dtype, "baselines": sorted(study.scores.baselines)}, heavy=True,
    ),
    Step(
        "gradient_sketches", "attribution", "shard",
        ("token_sequences", "language_model", "eigenbases", "curvature"), "1", "attribution.gradient_sketches",
        frozenset({"torch", "zarr"}),
        "The signs of each sequence's whitened gradient where most of its expected energy is, one bit each. Their "
        "inner product with a query's gradient estimates its score, so that `influence ask` needs no pass over the "
        "corpus. How well they agree with exact scores is measured with a few of the shard's own sequences taken as "
        "questions.",
        lambda study: {"dtype": study.model.dtype, "coordinates": study.sketches.coordinates}, heavy=True,
    ),
    Step(
        "influence_scores", "attribution", "pair",
        ("token_sequences", "language_model", "eigenbases", "query_gradients"), "2",
        "attribution.influence_scores", frozenset({"torch", "parquet"}),
        "One exact score for each query of the set and each sequence of the shard, in nats per added copy. Positive: "
        "adding the sequence once more to the training set would raise the completion's log-probability.",
        lambda study: {"dtype": study.model.dtype, "baselines": sorted(study.scores.baselines)}, heavy=True,
    ),
    Step(
        "influence_details", "attribution", "query_set",
        (
            "token_sequences", "language_model", "eigenbases", "curvature", "query_gradients", "gradient_sketches",
            "influence_scores",
        ), "2",
        "details.influence_details", frozenset({"torch", "parquet"}),
        "How the highest and lowest scores of each query split over layers and over training tokens; both splits add "
        "up to the score. The sketches' estimates are compared with the exact scores here too.",
        lambda study: {"details_per_query": study.scores.details_per_query}, heavy=True,
    ),
    Step(
        "influence_catalogue", "catalogue", "none",
        (
            "documents", "token_sequences", "curvature", "curvature_drift", "query_gradients", "influence_scores",
            "influence_details",
        ), "2",
        "catalogue.influence_catalogue", frozenset({"duckdb"}),
        "The DuckDB file that answers in SQL: documents, sequences, queries, scores and the lineage of every row. "
        "Loaded in one transaction and published without blocking a reader. The scores of the generation before stand "
        "beside the current ones, to be compared.",
    ),
)  # fmt: skip

BY_NAME: Mapping[str, Step] = {step.name: step for step in STEPS}
