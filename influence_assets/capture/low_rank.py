"""Curvature of low rank: sketches of A and S, and the squared norms of sequence gradients in and outside of U."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.layer_gradient import LayerGradient
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.one_pass import measure
from influence_assets.capture.participant import Participant
from influence_assets.capture.runner import Runner
from influence_assets.maths.block_diagonal import blocks_of
from influence_assets.maths.low_rank import LowRankBasis
from influence_assets.maths.low_rank_drift import SubspaceFactor, subspace_factor
from influence_assets.maths.moments import GramAccumulator, SecondMoment
from influence_assets.maths.notation import accumulation_dtype
from influence_assets.maths.range_finder import RangeAccumulator, RangeFinder, RangeSketch
from influence_assets.models.layers.rule import AttributedLayer


@dataclass(frozen=True)
class CovarianceSketches:
    """What the leading eigenvectors of A and S of one layer are found from, as totals over tokens."""

    A: RangeSketch
    S: RangeSketch


def range_finders(layer: AttributedLayer, rank: int, seed: int) -> tuple[RangeFinder, RangeFinder]:
    """Return what is measured of A and of S of a layer."""
    return RangeFinder(layer.input_width, rank, seed), RangeFinder(layer.output_width, rank, seed)


class CovarianceSketchTotals(Participant):
    """Totals of a (aᵀ Ω) and Ds (Dsᵀ Ω) of every layer over the tokens that carry a loss.

    Args:
        runner: runs the model.
        rank: the number of eigenvectors to find of each factor.
        seed: of Ω.
    """

    fits = True

    def __init__(self, runner: Runner, rank: int, seed: int) -> None:
        self._layers: dict[str, list[RangeAccumulator]] = {}
        for layer in runner.modules:
            finders = range_finders(layer, rank, seed)
            self._layers[layer.name] = [RangeAccumulator(finder) for finder in finders]
            for accumulator, finder in zip(self._layers[layer.name], finders, strict=True):
                none = torch.zeros(0, finder.width, dtype=accumulation_dtype(runner.dtype), device=layer.device)
                accumulator.add(none)  # so that totals of no sequences are zero

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add one layer's inputs and output gradients of a batch."""
        # Positions without a loss are left out: what the model computes for padding must not count in A.
        positions = batch.positions.to(layer.a.device)
        for accumulator, x in zip(self._layers[layer.name], (layer.a, layer.Ds), strict=True):
            accumulator.add(x.flatten(0, 1)[positions])

    def totals(self) -> dict[str, CovarianceSketches]:
        """Return the totals of each layer, in the model's order; of no sequences, they are zero."""
        return {name: CovarianceSketches(A.sketch(), S.sketch()) for name, (A, S) in self._layers.items()}


@dataclass(frozen=True)
class LowRankCorrection:
    """What a shard adds to the curvature of low rank of one layer, and to its drift.

    Args:
        squared_norms: bordered squared norms (`low_rank.py`), as totals over sequences.
        A: drift statistics of A, as totals over tokens.
        S: drift statistics of S.
    """

    squared_norms: SecondMoment[Tensor]
    A: SubspaceFactor
    S: SubspaceFactor


class _LayerTotals:
    """The totals of one layer."""

    def __init__(self, basis: LowRankBasis) -> None:
        r_S, r_A = basis.U_S.shape[1], basis.U_A.shape[1]
        self._basis = basis
        self._norms = basis.U_A.new_zeros(r_S + 1, r_A + 1)
        self._sequences = 0
        self._grams = GramAccumulator(), GramAccumulator()
        self._traces = basis.U_A.new_zeros(2)
        for gram, r in zip(self._grams, (r_A, r_S), strict=True):
            gram.add(basis.U_A.new_zeros(0, r))

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        split = self._basis.split(layer.Ds, layer.a)
        self._norms += split.squared_norms().sum(0)
        self._sequences += batch.counted_sequences
        positions = batch.positions.to(layer.a.device)
        sides = (layer.a, split.a), (layer.Ds, split.s)
        for index, (gram, (whole, within)) in enumerate(zip(self._grams, sides, strict=True)):
            gram.add(within.flatten(0, 1)[positions])
            self._traces[index] += whole.flatten(0, 1)[positions].square().sum()

    def correction(self) -> LowRankCorrection:
        A, S = (
            subspace_factor(blocks_of(gram.moment().total)[0], trace)
            for gram, trace in zip(self._grams, self._traces, strict=True)
        )
        return LowRankCorrection(SecondMoment(self._norms, self._sequences), A, S)


class LowRankCorrectionTotals(Participant):
    """Totals of squared norms over sequences with a token that carries a loss, and of drift over such tokens.

    Args:
        runner: runs the model.
        bases: the basis of every layer.
    """

    fits = True

    def __init__(self, runner: Runner, bases: Mapping[str, LowRankBasis]) -> None:
        dtype = accumulation_dtype(runner.dtype)
        self._layers = {layer.name: _LayerTotals(bases[layer.name].to(layer.device, dtype)) for layer in runner.modules}

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add one layer's gradients of a batch; those of sequences without a loss are zero, and are not counted."""
        self._layers[layer.name].add(batch, layer)

    def totals(self) -> dict[str, LowRankCorrection]:
        """Return the totals of each layer, in the model's order."""
        return {name: layer.correction() for name, layer in self._layers.items()}


def covariance_sketches(
    runner: Runner, sequences: Sequences, sampler: LabelSampler | None, *, rank: int, seed: int = 0
) -> dict[str, CovarianceSketches]:
    """Return the sketches of A and S over the tokens of the sequences that carry a loss.

    Args:
        runner: runs the model.
        sequences: the training sequences.
        sampler: draws the labels; None takes the data's own.
        rank: the number of eigenvectors to find of each factor.
        seed: of Ω.
    """
    totals = CovarianceSketchTotals(runner, rank, seed)
    measure(runner, sequences, [totals], {}, sampler)
    return totals.totals()


def low_rank_corrections(
    runner: Runner, sequences: Sequences, bases: Mapping[str, LowRankBasis], sampler: LabelSampler | None
) -> dict[str, LowRankCorrection]:
    """Return the totals of squared norms and of drift over the sequences; labels as in `covariance_sketches`."""
    totals = LowRankCorrectionTotals(runner, bases)
    measure(runner, sequences, [totals], {}, sampler)
    return totals.totals()
