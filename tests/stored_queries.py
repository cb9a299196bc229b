"""Query gradients written to a store and read from it, without a study."""

import polars as pl

from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_outer_products
from influence_assets.layouts.outer_products import GradientWriter
from influence_assets.layouts.queries import StoredQueries
from influence_assets.maths.ekfac import LayerCurvature, damping, eigenbasis
from influence_assets.storage.artifacts import ArtifactStore
from influence_assets.storage.artifacts.manifest import ArtifactKey

KEY = ArtifactKey("query_gradients", "q.jsonl", "v1")
N = 40


def fitted(runner, sequences, blocks=1):
    """The curvature of every layer; experts that no token reaches have a damping of 0.1."""
    factors = covariances(runner, sequences, None, blocks=blocks)
    bases = {name: eigenbasis(c.A, c.S) for name, c in factors.items()}
    Λ = {name: m.mean() for name, m in eigenvalue_corrections(runner, sequences, bases, None).items()}
    return {n: LayerCurvature(bases[n], Λ[n], damping(float(Λ[n].mean()), 0.1) if Λ[n].any() else 0.1) for n in bases}


def write(folder, runner, chunks, curvature, rank=None):
    """Store the gradients of chunks of queries; return the artifact and its writer."""
    with ArtifactStore.open_or_create(folder, "topics").write(KEY, inputs=[], code_version="1") as draft:
        writer = GradientWriter(draft, curvature, rank)
        for queries in chunks:
            writer.append(query_outer_products(runner, queries, {n: layer.basis for n, layer in curvature.items()}))
        writer.finish()
        draft.table("queries", pl.DataFrame({"query_id": [f"q{n}" for n in range(sum(map(len, chunks)))]}))
        draft.summarise(layers=list(curvature), training_sequences=N, generation_id=1)
    return ArtifactStore.open_or_create(folder, "topics").open(KEY), writer


def stored(folder, runner, queries, curvature, rank=None):
    """Store the gradients of queries, and read them."""
    artifact, _ = write(folder, runner, [queries], curvature, rank)
    return StoredQueries(artifact, runner, curvature)
