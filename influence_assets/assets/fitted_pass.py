"""A pass over what a generation is fitted on: the sequences of all shards or a draw of them, shard after shard."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from influence_assets.engine.definition import Work
from influence_assets.layouts.attributed import ALONE, AUTO
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.drafts import Draft
from influence_assets.study import Study

if TYPE_CHECKING:
    import torch

    from influence_assets.capture.batches import Sequences
    from influence_assets.capture.layer_vectors import Sized
    from influence_assets.capture.losses import LabelSampler
    from influence_assets.capture.runner import Runner
    from influence_assets.maths.curvature_form import CurvatureForm
    from influence_assets.models.layers.rule import AttributedLayer

LARGEST_FIT = 100_000
"""The number of sequences that a generation is fitted on if the corpus has more, with `fit_sequences: auto`."""

_COUNTS = ("fitted_sequences", "counted_tokens", "training_sequences", "training_tokens")


def fitted_settings(study: Study) -> Mapping[str, Any]:
    """Return the settings that affect the statistics that the curvature is fitted on."""
    later = {"damping_scale", "drift_threshold", "new_generation"}
    if study.curvature.rank is None:
        later.add("rank")
    settings = {"dtype": study.model.dtype, **study.curvature.model_dump(mode="json", exclude=later)}
    if settings["modules"] == AUTO:
        settings["modules"] = ALONE  # what it is until the model's artifact says otherwise, as in earlier releases
    return settings


def curvature_form(study: Study) -> "CurvatureForm":
    """Return how much of the factors a study keeps."""
    from influence_assets.maths.curvature_form import CurvatureForm

    curvature = study.curvature
    return CurvatureForm(curvature.blocks, curvature.rank, curvature.seed)


def curvature_bytes(form: "CurvatureForm", layer: "Sized", itemsize: int) -> int:
    """Return the bytes in memory of a layer's eigenvectors and Λ; `itemsize` is that of sums."""
    shape, form = (layer.output_width, layer.input_width), form.of_layer(layer.outputs)
    if form.rank is not None:  # in float64, see `maths/low_rank.py`
        itemsize = 8
    return itemsize * (form.basis_numbers(*shape) + form.eigenvalue_numbers(*shape))


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


class FittedTotals(Protocol):
    """Totals over the sequences that a generation is fitted on, of a group of layers."""

    def add(self, sequences: "Sequences") -> None:
        """Add a shard's sequences."""

    def save(self, draft: Draft) -> None:
        """Write the totals into a checkpoint, from which they can be taken up again."""


Totals = TypeVar("Totals", bound=FittedTotals)


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
        manifests = [work.workspace.store.open(key).manifest for key in self._keys]
        self._sequences = sum(int(manifest.summary["sequences"]) for manifest in manifests)
        self.share = share_to_fit(work.study, self._sequences) if share is None else share
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._passed = 0
        self._groups = 1

    @cached_property
    def runner(self) -> "Runner":
        """The model; its progress counts the sequences of all shards and groups of layers."""
        from influence_assets.layouts.model import runner

        return replace(
            runner(self._work.workspace, self._work.open("language_model"), lambda _done, _total: None),
            progress=self._progress,
        )

    def _progress(self, sequences: int) -> None:
        self._passed += sequences
        self._work.progress(self._passed, round(self.share * self._sequences) * self._groups)

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

    def totals(
        self, begin: Callable[["Runner", Artifact | None], Totals], bytes_of: "Callable[[AttributedLayer], int]"
    ) -> Iterator[Totals]:
        """Yield the totals over all shards of one group of layers after another, in the model's order.

        There is one group if the totals of all layers fit into memory. Otherwise each group takes a pass of its own.

        Args:
            begin: returns the totals of a runner's layers, taken up from a checkpoint or empty.
            bytes_of: returns what the totals of a layer take in memory.
        """
        from influence_assets.capture.layer_groups import Demand, groups_in_memory

        groups = groups_in_memory(self.runner, Demand(bytes_of), self._work.study.sequences.length)
        self._groups = len(groups)
        for group in groups:
            names = "all layers" if len(groups) == 1 else ", ".join(layer.name for layer in group.layers)
            # Which share is drawn depends on the size of the whole corpus.
            part = f"{names}, {self.share!r} of the sequences"
            resumed = self._work.checkpoints.latest(part)
            totals = begin(replace(self.runner, modules=group.layers), resumed)
            self._add_shards(totals, resumed, part, is_group=len(groups) > 1)
            yield totals
            del totals, resumed  # before the next group is loaded

    def _add_shards(self, totals: FittedTotals, resumed: Artifact | None, part: str, *, is_group: bool) -> None:
        """Add the shards that are not in the checkpoint, and write checkpoints on the way."""
        from influence_assets.layouts.model import fit_sequences
        from influence_assets.layouts.sequences import shard_sequences

        earlier = {} if resumed is None else resumed.manifest.summary
        done = 0 if resumed is None else len(resumed.manifest.inputs) - self._others
        self._counts = {name: int(earlier.get(name, 0)) for name in _COUNTS}
        self._passed += self._counts["fitted_sequences"]
        for number, key in enumerate(self._keys[done:], start=done + 1):
            every = shard_sequences(self._work.workspace.store.open(key))
            sequences = fit_sequences(every, self.share, self._work.study.curvature.seed)
            totals.add(sequences)
            self._counts["fitted_sequences"] += len(sequences)
            self._counts["counted_tokens"] += int(sequences.counted_tokens().sum())
            self._counts["training_sequences"] += len(every.with_loss())
            self._counts["training_tokens"] += int(every.lengths.sum())
            is_last = number == len(self._keys)
            if is_group if is_last else self._work.checkpoints.is_due:
                self._work.checkpoints.save(self._others + number, lambda draft: self._fill(draft, totals), part)

    def _fill(self, draft: Draft, totals: FittedTotals) -> None:
        totals.save(draft)
        draft.summarise(**self._counts)

    def figures(self) -> dict[str, Any]:
        """Return what was measured, for the summary: counts, the share of the sequences, and the shards' versions."""
        return {
            **self._counts,
            "fitted_share": self.share,
            "fitted_shards": {str(key.partition): key.data_version for key in self._keys},
        }
