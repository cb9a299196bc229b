"""All that is outstanding of a shard and needs the model, from one pass over its sequences instead of one each."""

from collections.abc import Sequence

from influence_assets.capture.correction import CorrectionTotals
from influence_assets.capture.covariance import CovarianceTotals
from influence_assets.capture.one_pass import Wanted, measure
from influence_assets.capture.scores import ScoreTotals
from influence_assets.capture.sketches import SketchRows
from influence_assets.pipeline import factors, passes
from influence_assets.pipeline.attribution import (
    SketchRecorder,
    eigenbases_of,
    layer_curvatures,
    methods_of,
    record_scores,
)
from influence_assets.pipeline.curvature import record_corrections, record_covariances
from influence_assets.pipeline.queries import Preconditioned, bases_of
from influence_assets.pipeline.steps import Work


def compute(works: Sequence[Work]) -> None:
    """Fill the drafts of several steps of one shard.

    Args:
        works: of `covariances`, `corrected_eigenvalues`, `gradient_sketches` and `influence_scores`, the last one for
            any number of query sets. Those of them that are inputs of others need not stand yet.
    """
    of = {work.key.asset: work for work in works}
    fitting, sketching = of.get("covariances"), of.get("gradient_sketches")
    correcting = of.get("corrected_eigenvalues")
    first = works[0]
    sequences = passes.shard_sequences(first.open("token_sequences"))
    runner = passes.runner(first.workspace, first.open("language_model"), first.progress, len(sequences))
    layers = layer_curvatures(sketching, runner) if sketching is not None else {}
    rotating = next((work for work in works if work.key.asset in ("corrected_eigenvalues", "influence_scores")), None)
    bases = bases_of(layers) if layers or rotating is None else eigenbases_of(rotating, runner)
    recorder = SketchRecorder(sketching, runner, sequences, layers) if sketching is not None else None
    asked = [
        (work, Preconditioned(work.open("query_gradients"), runner.device))
        for work in works
        if work.key.asset == "influence_scores"
    ]
    wanted = Wanted(
        bases,
        passes.labels(first.study.curvature),
        CovarianceTotals(first.study.curvature.blocks) if fitting is not None else None,
        CorrectionTotals() if correcting is not None else None,
        SketchRows(runner, layers, recorder.coordinates, recorder.probes) if recorder is not None else None,
        tuple(
            ScoreTotals(methods_of(work, queries, queries.all), len(sequences), queries.N, runner.device)
            for work, queries in asked
        ),
    )
    for whitened in measure(runner, sequences, wanted):
        if recorder is not None and whitened is not None:
            recorder.add(whitened)
    if recorder is not None:
        recorder.finish()
    for (work, queries), scores in zip(asked, wanted.scores, strict=True):
        work.draft.summarise(rotated=scores.contractions())
        record_scores(work, queries, sequences.keys, scores.totals())
    covariances = wanted.covariances.totals(runner) if wanted.covariances is not None else {}
    if fitting is not None:
        record_covariances(fitting, runner, sequences, len(sequences), covariances)
    if correcting is not None and wanted.corrections is not None:
        stored = None if covariances else correcting.open("covariances")
        record_corrections(
            correcting,
            bases,
            wanted.corrections.totals(runner),
            lambda layer: covariances[layer] if stored is None else factors.read_covariances(stored, layer),
        )
