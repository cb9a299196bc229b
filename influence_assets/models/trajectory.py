"""What a training run passes through: weights at a few of its steps, its learning rates, and its last moments."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from influence_assets.models.freed_memory import keep_freed_memory
from influence_assets.models.replay import current_state
from influence_assets.models.training_run import TrainingRun, one_cycle

_STATE_FILE = "state.safetensors"
_SECONDS_BETWEEN_SAVES = 30.0


@dataclass(frozen=True)
class Checkpoint:
    """A state that stands for a segment of a run.

    Args:
        step: the steps taken before it.
        rates: the sum of the learning rates of the segment's steps.
    """

    step: int
    rates: float


def learning_rates(run: TrainingRun) -> list[float]:
    """Return the learning rate of every step of a run."""
    return [one_cycle(step, run.steps, peak=run.recipe.learning_rate) for step in range(run.steps)]


def checkpoints(rates: Sequence[float], count: int) -> list[Checkpoint]:
    """Return the checkpoints that stand for segments with equal sums of learning rates.

    Each is the state before the step in which half of its segment's sum is reached. As many as there are steps stand
    for one step each if rates are equal; where several segments have the same one, it stands for all of them.

    Args:
        rates: the learning rate of every step, all positive.
        count: the number of segments.
    """
    total = sum(rates)
    reached, stand_for = list(accumulate(rates)), dict[int, float]()
    for segment in range(count):
        middle = (segment + 0.5) / count * total
        step = next((step for step, sum_after in enumerate(reached) if sum_after > middle), len(rates) - 1)
        stand_for[step] = stand_for.get(step, 0.0) + total / count
    return [Checkpoint(step, sum_of) for step, sum_of in sorted(stand_for.items())]


def record(run: TrainingRun, steps: Sequence[int], folder: Path, progress: Callable[[int, int], None]) -> "Recorded":
    """Train to the end, from where an interrupted call with the same folder stopped.

    Args:
        run: the run, at its beginning.
        steps: the steps before which the weights are kept.
        folder: a folder for this run only.
        progress: called after every step with its number and that of all.
    """
    keep_freed_memory()
    folder.mkdir(parents=True, exist_ok=True)
    paths = {step: folder / f"step-{step:06d}.safetensors" for step in steps}
    done = run.stored_step(folder / _STATE_FILE)
    if done and all(path.is_file() for step, path in paths.items() if step < done):
        run.restore(folder / _STATE_FILE)
    saved = time.monotonic()
    while run.step < run.steps:
        if run.step in paths:
            _write({n: each.detach() for n, each in run.parameters.items()}, paths[run.step])
        run.take_step()
        if run.step in paths or time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
            run.save(folder / _STATE_FILE)
            saved = time.monotonic()
        progress(run.step, run.steps)
    last = current_state(run)
    return Recorded(paths, last.θ, last.v)


@dataclass(frozen=True)
class Recorded:
    """What is kept of a run.

    Args:
        weights: the files of the weights at each step.
        last: the last weights.
        v: Adam's means of squared gradients then, without the correction of their bias.
    """

    weights: dict[int, Path]
    last: dict[str, Tensor]
    v: dict[str, Tensor]


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(path)
