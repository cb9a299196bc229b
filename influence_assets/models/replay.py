"""A training run again from stored states, first forwards and then backwards, from its last step to its first.

Going backwards needs the state before every step. Only every √T-th is stored; the others are computed again from it, a
segment at a time, so that both what is stored and what is held are √T states. An interrupted replay goes on.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from influence_assets.maths.adamw import AdamState
from influence_assets.models.freed_memory import keep_freed_memory
from influence_assets.models.training_run import TrainingRun

_LEFT = "segments left"

Carried = dict[str, Tensor]
Visit = Callable[[AdamState, AdamState, Carried], None]
"""Called with the states before and after a step, and what is carried from the last step to the first, to change it;
the run's batch and rate are those of the step."""


def current_state(run: TrainingRun) -> AdamState:
    """Return a copy of a run's state."""

    def moments(key: str) -> dict[str, Tensor]:
        kept = {name: run.optimizer.state[each].get(key) for name, each in run.parameters.items()}
        return {n: torch.zeros_like(θ[n]) if value is None else value.clone() for n, value in kept.items()}

    θ = {name: each.detach().clone() for name, each in run.parameters.items()}
    return AdamState(θ, moments("exp_avg"), moments("exp_avg_sq"), run.step)


class Replay:
    """A replay of a run.

    Args:
        run: the run, at its beginning.
        folder: a folder for this replay only.
        progress: called with the steps that are done, forwards and backwards, and their number.
    """

    def __init__(self, run: TrainingRun, folder: Path, progress: Callable[[int, int], None]) -> None:
        self._run, self._folder, self._progress = run, folder, progress
        self._length = max(1, math.isqrt(run.steps))
        self._starts = range(0, run.steps, self._length)
        folder.mkdir(parents=True, exist_ok=True)

    def forwards(self) -> AdamState:
        """Train to the end, store the states at the beginning of each segment, and return the last."""
        keep_freed_memory()
        run = self._run
        at = next((step for step in reversed(self._stored_steps) if self._is_stored(step)), None)
        if at is not None:
            run.restore(self._state(at))
        while run.step < run.steps:
            if run.step in self._starts:
                run.save(self._state(run.step))
            run.take_step()
            self._progress(run.step, 3 * run.steps)
        run.save(self._state(run.steps))
        return current_state(run)

    def last(self) -> AdamState:
        """Return the last state, once it was reached."""
        self._run.restore(self._state(self._run.steps))
        return current_state(self._run)

    def backwards(self, begin: Callable[[AdamState], Carried], visit: Visit) -> Carried:
        """Go through the steps from the last to the first, and return what is carried then.

        Args:
            begin: returns what is carried at first, given the last state; its shapes stay.
            visit: called at every step.
        """
        run = self._run
        stored = self._stored_carried()
        carried, left = (begin(self.forwards()), len(self._starts)) if stored is None else stored
        for segment in reversed(range(left)):
            start = self._starts[segment]
            end = min(start + self._length, run.steps)
            run.restore(self._state(start))
            done = run.steps + 2 * (run.steps - end)
            states = [current_state(run)]
            while run.step < end:
                run.take_step()
                states.append(current_state(run))
                self._progress(done + run.step - start, 3 * run.steps)
            for step in reversed(range(start, end)):
                after, before = states.pop(), states[-1]
                run.step = step
                visit(before, after, carried)
                self._progress(done + (end - start) + (end - step), 3 * run.steps)
            self._store_carried(carried, segment)
        return carried

    def _is_stored(self, step: int) -> bool:
        return self._run.stored_step(self._state(step)) == step

    @property
    def _stored_steps(self) -> list[int]:
        return [*self._starts, self._run.steps]

    def _state(self, step: int) -> Path:
        return self._folder / f"state-{step:06d}.safetensors"

    @property
    def _carried(self) -> Path:
        return self._folder / "carried.safetensors"

    def _store_carried(self, carried: Carried, left: int) -> None:
        partial = self._carried.with_suffix(".partial")
        save_file(
            {name: value.contiguous() for name, value in carried.items()},
            partial,
            metadata={_LEFT: str(left), "fingerprint": self._run.fingerprint},
        )
        partial.replace(self._carried)

    def _stored_carried(self) -> tuple[Carried, int] | None:
        if not self._carried.is_file() or not all(map(self._is_stored, self._stored_steps)):
            return None
        try:
            with safe_open(self._carried, framework="pt", device=str(self._run.device)) as stored:
                described = stored.metadata()
                carried = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # not a mapping
        except SafetensorError:
            return None
        if described["fingerprint"] != self._run.fingerprint:
            return None
        return carried, int(described[_LEFT])
