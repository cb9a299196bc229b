"""Totals over many shards, in float64: those of a shard are in the dtype of its passes' sums, and added at its end."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import numpy as np
import torch

from influence_assets.capture.batches import Sequences
from influence_assets.capture.correction import CorrectionTotals
from influence_assets.capture.form import AnyCovarianceTotals, AnyStatistics, covariance_totals, shard_statistics
from influence_assets.capture.layer_vectors import Sized
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.one_pass import measure
from influence_assets.capture.runner import Runner
from influence_assets.maths.curvature import Basis
from influence_assets.maths.curvature_form import CurvatureForm
from influence_assets.maths.moments import SecondMoment, SquareAccumulator
from influence_assets.maths.notation import device_of_sums
from influence_assets.models.layers.rule import AttributedLayer

SUM_BYTES = 8
"""Bytes of a number in float64."""


class FittedCovariances:
    """Totals of A and S over shards.

    Args:
        runner: runs the model with the layers to measure.
        sampler: draws the labels.
        form: how much of the factors is kept.
        totals: totals to go on from, in float64; None: none.
        write: writes the totals of some layers into a draft.
    """

    def __init__(
        self,
        runner: Runner,
        sampler: LabelSampler | None,
        form: CurvatureForm,
        totals: AnyCovarianceTotals | None,
        write: Callable[[Any, Sequence[AttributedLayer], AnyCovarianceTotals], None],
    ) -> None:
        self._runner = runner
        self._sampler = sampler
        self._totals = totals or covariance_totals(form, torch.float64)
        self._of_shard = covariance_totals(form)
        self._write = write

    @staticmethod
    def bytes_of(layer: Sized, dtype: torch.dtype, form: CurvatureForm) -> int:
        """Return the bytes that the totals of a layer take, those over all shards and those of one."""
        numbers = form.of_layer(layer.outputs).total_numbers(layer.output_width, layer.input_width)
        return numbers * (SUM_BYTES + dtype.itemsize)

    def add(self, sequences: Sequences) -> None:
        """Add a shard's sequences."""
        measure(self._runner, sequences, [self._of_shard], {}, self._sampler)
        self._totals.absorb(self._of_shard, self._runner.modules)
        self._of_shard.clear()

    def save(self, draft: Any) -> None:
        """Write the totals over all shards so far."""
        self._write(draft, self._runner.modules, self._totals)


class FittedCorrections:
    """Totals of Λ over shards, and each shard's drift.

    Args:
        runner: runs the model with the layers to measure.
        sampler: draws the labels.
        bases: the generation's basis of each layer.
        form: how much of the factors is kept.
        drift_of: returns a shard's vector of drift from its own totals.
        write: writes everything measured so far into a draft.
    """

    def __init__(
        self,
        runner: Runner,
        sampler: LabelSampler | None,
        bases: Mapping[str, Basis],
        form: CurvatureForm,
        drift_of: Callable[[Sequence[AttributedLayer], AnyStatistics, Mapping[str, Basis]], np.ndarray],
        write: Callable[[Any, "FittedCorrections"], None],
    ) -> None:
        self._runner = runner
        self._sampler = sampler
        # Statistics of low rank keep the bases themselves, in the dtype of sums.
        self._bases = runner.placed(bases) if form.rank is None else {}
        self._drift_of = drift_of
        self._write = write
        self.corrections = CorrectionTotals(torch.float64)
        # Where there is float64, batches are added to the totals over all shards, and a shard has none of its own.
        running = all(device_of_sums(layer.device) == layer.device for layer in runner.modules)
        self._of_shard = shard_statistics(form, runner, bases, self.corrections if running else None)
        self._drift: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the totals
        self._drift_row: tuple[int, np.dtype[Any]] = 0, np.dtype(np.float32)
        self.sequences: list[int] = []

    @property
    def layers(self) -> Sequence[AttributedLayer]:
        """The layers that are measured."""
        return self._runner.modules

    @staticmethod
    def bytes_of(layer: Sized, dtype: torch.dtype, form: CurvatureForm) -> int:
        """Return the bytes that a layer takes: its basis, its total of Λ over all shards, and A and S of one."""
        shape, form = (layer.output_width, layer.input_width), form.of_layer(layer.outputs)
        of_shard = form.total_numbers(*shape) if form.rank is None else form.statistics_numbers(*shape)
        numbers = form.basis_numbers(*shape) + of_shard
        return numbers * dtype.itemsize + form.eigenvalue_numbers(*shape) * SUM_BYTES

    def take_up(self, corrections: CorrectionTotals, drift: np.ndarray, sequences: np.ndarray) -> None:
        """Go on from what was written before: the totals, and the drift and number of sequences of each shard."""
        for layer in self.layers:
            total, device = corrections.of(layer), device_of_sums(layer.device)
            placed = SecondMoment(total.total.to(device), total.count)
            self.corrections.Λ[layer.name] = SquareAccumulator.of(placed)
        self._of_shard.clear()
        for vector in drift:
            self._append(vector)
        self.sequences = sequences.tolist()

    @property
    def drift(self) -> np.ndarray:
        """Each shard's vector of drift, [shard, numbers], mapped from a file: together they may outweigh the totals."""
        self._drift.flush()
        width, dtype = self._drift_row
        if not self.sequences or not width:
            return np.zeros((len(self.sequences), width), dtype)
        return np.memmap(self._drift, dtype, mode="r", shape=(len(self.sequences), width))

    def _append(self, vector: np.ndarray) -> None:
        self._drift_row = len(vector), vector.dtype
        self._drift.write(np.ascontiguousarray(vector).tobytes())

    def add(self, sequences: Sequences) -> None:
        """Add a shard's sequences."""
        measure(self._runner, sequences, [self._of_shard], self._bases, self._sampler)
        self._append(self._drift_of(self.layers, self._of_shard, self._bases))
        self.sequences.append(len(sequences))
        if self._of_shard.corrections is not self.corrections:
            self.corrections.absorb(self._of_shard.corrections)
        self._of_shard.clear()

    def save(self, draft: Any) -> None:
        """Write everything measured so far."""
        self._write(draft, self)
