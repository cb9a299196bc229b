"""What every step that runs the model needs: the runner, the sequences of a shard, the labels to fit with."""

from collections.abc import Sequence

import numpy as np

from influence_assets.capture.batches import Sequences
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.runner import Runner
from influence_assets.models.layers.rule import LinearModule
from influence_assets.models.layers.selection import select_modules
from influence_assets.pipeline.model import model_folder
from influence_assets.pipeline.steps import Progress
from influence_assets.pipeline.workspace import Workspace
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Curvature


def runner(workspace: Workspace, language_model: Artifact, progress: Progress, total: int | None = None) -> Runner:
    """The loaded model with the study's attributed layers; `progress` is told of sequences, `total` in all."""
    folder = model_folder(workspace, language_model)
    model = workspace.load_model(folder, str(language_model.manifest.summary["weights_hash"]))
    done = 0

    def count(sequences: int) -> None:
        nonlocal done
        done += sequences
        progress(done, total)

    modules: Sequence[LinearModule] = select_modules(model, workspace.study.curvature.modules)
    return Runner(model, modules, workspace.study.compute.batch_sequences, count)


def shard_sequences(token_sequences: Artifact) -> Sequences:
    """All sequences of a shard."""
    ids = token_sequences.table("sequences").select("sequence_id").collect()["sequence_id"].to_numpy()
    return Sequences(token_sequences.array("tokens"), token_sequences.array("lengths"), ids)


def fit_sequences(sequences: Sequences, curvature: Curvature) -> Sequences:
    """The sequences of a shard that the curvature is fitted on: all, or a draw that depends on the seed alone."""
    if curvature.fit_sequences is None or len(sequences) <= curvature.fit_sequences:
        return sequences
    # The complement of the seed: the labels' generators have the seed itself.
    keys = (np.array([~curvature.seed % 2**64, key], np.uint64) for key in sequences.keys.tolist())
    drawn = [np.random.Generator(np.random.Philox(key=key)).random() for key in keys]
    return sequences.take(np.sort(np.argsort(drawn)[: curvature.fit_sequences]))


def labels(curvature: Curvature) -> LabelSampler | None:
    """How labels are drawn: from the model for the true Fisher, the data's own for the empirical one."""
    return LabelSampler(curvature.seed) if curvature.fisher == "true" else None
