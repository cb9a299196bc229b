"""A shard's own A, S and Λ in a study's generation, measured directly and not read from the store."""

from pathlib import Path

from influence_assets.capture.one_pass import measure
from influence_assets.capture.shard_statistics import ShardStatistics
from influence_assets.layouts import factors, model
from influence_assets.layouts.sequences import shard_sequences
from tests import studies


def shard_statistics(study: Path, shard: str) -> tuple[dict[str, dict], int]:
    """Return A, S and Λ of each layer as numpy totals over a shard, and the number of its sequences."""
    workspace = studies.versions_of(study).workspace
    sequences = shard_sequences(studies.artifact(study, "token_sequences", shard=shard)).with_loss()
    runner = model.runner(workspace, studies.artifact(study, "language_model"), lambda *_: None)
    bases = factors.bases_on(runner, studies.artifact(study, "eigenbases"))
    measured = ShardStatistics(workspace.study.curvature.blocks)
    measure(runner, sequences, [measured], bases, model.label_sampler(workspace.study.curvature))
    totals = {}
    for layer in runner.modules:
        covariances = measured.covariances.of(layer)
        parts = {"A": covariances.A, "S": covariances.S, "Λ": measured.corrections.of(layer)}
        totals[layer.name] = {letter: moment.total.numpy() for letter, moment in parts.items()}
    return totals, len(sequences)
