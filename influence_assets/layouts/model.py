"""Loads the language model of a study, from its artifact or from the folder that the study names."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from transformers import PreTrainedModel

from influence_assets.capture.batches import Sequences
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.rehearsal import rehearse
from influence_assets.capture.runner import Runner
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError
from influence_assets.layouts.attributed import modules_of
from influence_assets.models.adapters import Adaptation
from influence_assets.models.freed_memory import keep_freed_memory
from influence_assets.models.kernels import use_fastest
from influence_assets.models.layers.rule import AttributedLayer
from influence_assets.models.layers.selection import select_modules
from influence_assets.models.loading import load_model as load_from_folder
from influence_assets.models.weights import model_hash
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Curvature, LanguageModel

Progress = Callable[[int, int | None], None]


def runner(workspace: Workspace, language_model: Artifact, progress: Progress, total: int | None = None) -> Runner:
    """Return the loaded model with the study's attributed layers.

    Args:
        workspace: the study and its store.
        language_model: the model's artifact.
        progress: called with the number of sequences that are done, and `total`.
        total: the number of all sequences, if known.
    """
    compute = workspace.study.compute
    keep_freed_memory(is_limited=compute.memory_bytes is not None)
    model = loaded_model(workspace, language_model)
    done = 0

    def count(sequences: int) -> None:
        nonlocal done
        done += sequences
        progress(done, total)

    modules = attributed_layers(model, modules_of(workspace.study, language_model.manifest.summary))
    if workspace.device == "cpu":
        use_fastest(workspace.kernels_cache, [layer.factor_shape for layer in modules])
    return Runner(model, modules, compute.batch_sequences, count, compute.memory_bytes)


def runner_in_float64(workspace: Workspace, language_model: Artifact) -> Runner:
    """Return the model in float64, whatever the study's precision is, loaded for the caller alone.

    Arguments as in `runner`; no progress is reported.

    Raises:
        InputError: the weights are not those of the artifact any more, or the device cannot compute in float64.
    """
    folder, compute = model_folder(workspace, language_model), workspace.study.compute
    _refuse_other_weights(workspace, folder, str(language_model.manifest.summary["weights_hash"]))
    precise = workspace.study.model.model_copy(update={"dtype": "float64"})
    model = _read_model(folder, workspace.device, precise, adaptation(workspace))
    modules = attributed_layers(model, modules_of(workspace.study, language_model.manifest.summary))
    return Runner(model, modules, compute.batch_sequences, memory_bytes=compute.memory_bytes)


def loaded_model(workspace: Workspace, language_model: Artifact) -> PreTrainedModel:
    """Return the loaded model, for what is measured of it without any layer's gradients.

    Args:
        workspace: the study and its store.
        language_model: the model's artifact.
    """
    folder = model_folder(workspace, language_model)
    return load_model(workspace, folder, str(language_model.manifest.summary["weights_hash"]))


def attributed_layers(model: PreTrainedModel, modules: str | Sequence[str]) -> Sequence[AttributedLayer]:
    """Return the layers that `curvature.modules` names, rehearsed once for each loaded model.

    Raises:
        InputError: they, or the model, cannot be attributed.
    """
    rehearsed = _rehearsed.setdefault(model, {})
    named = modules if isinstance(modules, str) else tuple(modules)
    if named not in rehearsed:
        layers = select_modules(model, modules)
        rehearse(model, layers)
        rehearsed[named] = layers
    return rehearsed[named]


_rehearsed: WeakKeyDictionary[PreTrainedModel, dict[str | tuple[str, ...], Sequence[AttributedLayer]]] = (
    WeakKeyDictionary()
)


def model_folder(workspace: Workspace, language_model: Artifact) -> Path:
    """Return the folder of the weights: in the artifact if they were trained, else where the study has them now.

    The manifest names the folder in which they were first seen, but they may have moved since, or changed there.
    """
    return workspace.model_folder if workspace.study.model.train is None else language_model.path("model")


def load_model(workspace: Workspace, folder: Path, expected_hash: str) -> PreTrainedModel:
    """Return the model, loaded once in each process unless its weights change.

    Raises:
        InputError: the weights do not, or no longer, have this hash.
    """
    _refuse_other_weights(workspace, folder, expected_hash)
    return _load_model(folder, expected_hash, workspace.device, workspace.study.model, adaptation(workspace))


def _refuse_other_weights(workspace: Workspace, folder: Path, expected_hash: str) -> None:
    if workspace.study.model.path is not None and _hash_now(workspace) != expected_hash:
        raise InputError(
            str(folder), "the weights changed during the run", "Wait until they are complete, then run again."
        )


def _hash_now(workspace: Workspace) -> str:
    return model_hash(workspace.model_folders, workspace.study.model.adapter_attribution, workspace.weights_cache)


def adaptation(workspace: Workspace) -> Adaptation | None:
    """Return the adapter of the study's model, and what of it is attributed."""
    if workspace.study.model.train is not None or workspace.model_folders.adapter is None:
        return None
    return Adaptation(workspace.model_folders.adapter, workspace.study.model.adapter_attribution)


@lru_cache(maxsize=1)
def _load_model(
    folder: Path,
    weights_hash: str,  # noqa: ARG001  # part of the cache's key: other weights under the same path are another model
    device: str,
    model: LanguageModel,
    adaptation: Adaptation | None,
) -> PreTrainedModel:
    return _read_model(folder, device, model, adaptation)


def _read_model(folder: Path, device: str, model: LanguageModel, adaptation: Adaptation | None) -> PreTrainedModel:
    return load_from_folder(
        folder,
        dtype=model.dtype,
        device=device,
        trust_remote_code=model.trust_remote_code,
        device_map=model.device_map,
        adaptation=adaptation,
    )


def fit_sequences(sequences: Sequences, share: float, seed: int) -> Sequences:
    """Return the sequences of a shard that the curvature is fitted on: all, or a share of them.

    Whether a sequence is drawn depends on its id and the seed alone. Sequences without a token that carries a loss are
    left out.
    """
    sequences = sequences.with_loss()
    if share >= 1:
        return sequences
    # The complement of the seed, because the labels' generators use the seed itself.
    keys = (np.array([~seed % 2**64, key], np.uint64) for key in sequences.keys.tolist())
    drawn = [np.random.Generator(np.random.Philox(key=key)).random() < share for key in keys]
    return sequences.take(np.flatnonzero(drawn))


def label_sampler(curvature: Curvature) -> LabelSampler | None:
    """Return the sampler of labels from the model (true Fisher); None for the data's own labels (empirical Fisher)."""
    return LabelSampler(curvature.seed) if curvature.fisher == "true" else None
