"""A pass over what a generation is fitted on: the sequences of all shards or a draw of them, shard after shard."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from influence_assets.engine.definition import Work
from influence_assets.storage.artifacts.drafts import Draft
from influence_assets.study import Study

if TYPE_CHECKING:
    import torch

    from influence_assets.capture.batches import Sequences
    from influence_assets.capture.losses import LabelSampler
    from influence_assets.capture.runner import Runner

LARGEST_FIT = 100_000
"""The number of sequences that a generation is fitted on if the corpus has more, with `fit_sequences: auto`."""

_COUNTS = ("fitted_sequences", "counted_tokens", "training_sequences", "training_tokens")


def fitted_settings(study: Study) -> Mapping[str, Any]:
    """Return the settings that affect the statistics that the curvature is fitted on."""
    later = {"damping_scale", "drift_threshold", "new_generation"}
    return {"dtype": study.model.dtype, **study.curvature.model_dump(mode="json", exclude=later)}


def share_to_fit(study: Study, sequences: int) -> float:
    """Return the share of the corpus's sequences that a generation is fitted on, 0 to 1.

    Args:
        study: the study.
        sequences: number of the corpus's sequences.
    """
    most = study.curvature.fit_sequences
    if most is None:
        return 1.0
    return min(1.0, (LARGEST_FIT if most == "auto" else most) / max(1, sequences))


class FittedPass:
    """A pass over the shards that an asset's work reads; it goes on from the checkpoint of a run that was killed.

    Args:
        work: the work; its inputs end with the sequences of the shards.
        share: the share of the sequences that is drawn; None: as many as the study says.
    """

    def __init__(self, work: Work, share: float | None = None) -> None:
        self._work = work
        self._keys = [key for key in work.inputs if key.asset == "token_sequences"]
        self._others = len(work.inputs) - len(self._keys)
        self.resumed = work.checkpoints.latest()
        """The checkpoint that this pass goes on from, if there is one."""
        earlier = {} if self.resumed is None else self.resumed.manifest.summary
        self._done = 0 if self.resumed is None else len(self.resumed.manifest.inputs) - self._others
        self._counts = {name: int(earlier.get(name, 0)) for name in _COUNTS}
        manifests = [work.workspace.store.open(key).manifest for key in self._keys]
        self._sequences = sum(int(manifest.summary["sequences"]) for manifest in manifests)
        self.share = share_to_fit(work.study, self._sequences) if share is None else share

    @cached_property
    def runner(self) -> "Runner":
        """The model; its progress counts the sequences of all shards."""
        from influence_assets.layouts.model import runner

        def progress(done: int, total: int | None) -> None:
            self._work.progress(self._counted_before + done, total)

        self._counted_before = self._counts["fitted_sequences"]
        total = round(self.share * self._sequences)
        return runner(self._work.workspace, self._work.open("language_model"), progress, total)

    @cached_property
    def sampler(self) -> "LabelSampler | None":
        """Draws the labels."""
        from influence_assets.layouts.model import label_sampler

        return label_sampler(self._work.study.curvature)

    @property
    def dtype(self) -> "torch.dtype":
        """The dtype of the passes' sums, in which results are stored."""
        from influence_assets.maths.notation import accumulation_dtype

        return accumulation_dtype(self.runner.dtype)

    def shards(self, fill: Callable[[Draft], None]) -> "Iterator[Sequences]":
        """Yield the sequences of each shard that is not in the checkpoint; the caller measures them before the next.

        Args:
            fill: writes what has been measured so far into a checkpoint.
        """
        from influence_assets.layouts.model import fit_sequences
        from influence_assets.layouts.sequences import shard_sequences

        checkpoints, seed = self._work.checkpoints, self._work.study.curvature.seed
        for number, key in enumerate(self._keys[self._done :], start=self._done + 1):
            every = shard_sequences(self._work.workspace.store.open(key))
            sequences = fit_sequences(every, self.share, seed)
            yield sequences
            self._counts["fitted_sequences"] += len(sequences)
            self._counts["counted_tokens"] += int(sequences.counted_tokens().sum())
            self._counts["training_sequences"] += len(every.with_loss())
            self._counts["training_tokens"] += int(every.lengths.sum())
            if checkpoints.is_due and number < len(self._keys):
                checkpoints.save(self._others + number, lambda draft: self._fill(draft, fill))

    def _fill(self, draft: Draft, fill: Callable[[Draft], None]) -> None:
        fill(draft)
        draft.summarise(**self._counts)

    def figures(self) -> dict[str, Any]:
        """Return what was measured, for the summary: counts, the share of the sequences, and the shards' versions."""
        return {
            **self._counts,
            "fitted_share": self.share,
            "fitted_shards": {str(key.partition): key.data_version for key in self._keys},
        }
