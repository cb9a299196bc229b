"""The layout of a followed training: weights at checkpoints, the moments at the end, and the learning rates."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import polars as pl

from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.drafts import Draft

if TYPE_CHECKING:
    from torch import Tensor, nn

    from influence_assets.models.trajectory import Checkpoint, Recorded

_FOLDER, _MOMENTS_FILE = "trajectory", "second_moments.safetensors"


def write_trajectory(draft: Draft, chosen: "list[Checkpoint]", rates: list[float], recorded: "Recorded") -> None:
    """Write what is kept of a training; its files are copied.

    Args:
        draft: where it goes.
        chosen: the checkpoints.
        rates: the learning rate of every step.
        recorded: the weights at the checkpoints' steps, and the last moments.
    """
    import shutil

    from safetensors.torch import save_file

    folder = draft.folder(_FOLDER)
    for step, path in recorded.weights.items():
        shutil.copy(path, folder / _weights_file(step))
    save_file(recorded.v, folder / _MOMENTS_FILE)
    steps, sums = [each.step for each in chosen], [each.rates for each in chosen]
    draft.table("checkpoints", pl.DataFrame({"step": steps, "learning_rate_sum": sums}))
    draft.table("steps", pl.DataFrame({"step": range(len(rates)), "learning_rate": rates}))


def stored_checkpoints(trajectory: Artifact, model: "nn.Module") -> "Iterator[tuple[Callable[[], None], float]]":
    """Yield for each checkpoint what gives a model its weights, and the sum of the learning rates it stands for.

    Args:
        trajectory: the artifact.
        model: a model of the same architecture, in any precision.
    """
    import torch
    from safetensors.torch import load_file

    folder = trajectory.path(_FOLDER)
    for step, rates in trajectory.table("checkpoints").select("step", "learning_rate_sum").collect().iter_rows():

        def load(step: int = step) -> None:
            stored = load_file(folder / _weights_file(step))
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(stored[name])

        yield load, rates


def second_moments(trajectory: Artifact) -> "dict[str, Tensor]":
    """Return Adam's mean of squared gradients of every parameter at the end, with its bias corrected: v̂."""
    from safetensors.torch import load_file

    from influence_assets.models.training_run import BETAS

    steps = int(trajectory.manifest.summary["steps"])
    stored = load_file(trajectory.path(_FOLDER) / _MOMENTS_FILE)
    return {name: v / (1 - BETAS[1] ** steps) for name, v in stored.items()}


def _weights_file(step: int) -> str:
    return f"weights-{step:06d}.safetensors"
