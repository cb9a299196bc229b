"""Curvature of low rank: sketches of A and S, and the squared norms of sequence gradients in and outside of U."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.correction import CorrectionTotals
from influence_assets.capture.covariance import FactorTotals
from influence_assets.capture.layer_gradient import LayerGradient
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.one_pass import measure
from influence_assets.capture.participant import Participant
from influence_assets.capture.runner import Runner
from influence_assets.maths.block_diagonal import blocks_of
from influence_assets.maths.curvature_form import CurvatureForm
from influence_assets.maths.low_rank import LowRankBasis
from influence_assets.maths.low_rank_drift import SubspaceFactor, subspace_factor
from influence_assets.maths.moments import GramAccumulator, SecondMoment, SquareAccumulator
from influence_assets.maths.notation import accumulation_dtype
from influence_assets.maths.range_finder import RangeAccumulator, RangeSketch, leading_eigenvectors
from influence_assets.models.layers.rule import AttributedLayer


@dataclass(frozen=True)
class CovarianceSketches:
    """What the leading eigenvectors of A and S of one layer are found from, as totals over tokens."""

    A: RangeSketch
    S: RangeSketch

    def basis(self, form: CurvatureForm) -> LowRankBasis:
        """Return the leading eigenvectors, in float64.

        Raises:
            ValueError: a sketch is not finite.
        """
        A, S = (leading_eigenvectors(sketch, form.finder(len(sketch.Y.total))) for sketch in (self.A, self.S))
        return LowRankBasis.of(A, S)


class CovarianceSketchTotals(FactorTotals[RangeAccumulator]):
    """Totals of a (aᵀ Ω) and Ds (Dsᵀ Ω).

    Args:
        form: how many eigenvectors are to be found of each factor.
        dtype: the dtype of the sums; by default that of the passes' sums.
    """

    def __init__(self, form: CurvatureForm, dtype: torch.dtype | None = None) -> None:
        super().__init__(lambda width: RangeAccumulator(form.finder(width), dtype))

    def of(self, layer: AttributedLayer) -> CovarianceSketches:
        """Return the totals of one layer; of no sequences, they are zero."""
        A, S = self.accumulators(layer)
        assert S is not None  # noqa: S101  # layers without S are refused
        return CovarianceSketches(A.sketch(), S.sketch())


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

    @property
    def squared_norms(self) -> SecondMoment[Tensor]:
        """The bordered squared norms."""
        return SecondMoment(self._norms, self._sequences)

    def clear(self) -> None:
        """Set all totals to zero."""
        self._norms.zero_()
        self._traces.zero_()
        self._sequences = 0
        for gram in self._grams:
            gram.clear()

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        terms = layer.terms
        split = self._basis.split(terms.Ds, terms.a)
        self._norms += split.squared_norms().sum(0)
        self._sequences += batch.counted_sequences
        positions = batch.positions.to(terms.a.device)
        sides = (terms.a, split.a), (terms.Ds, split.s)
        for index, (gram, (whole, within)) in enumerate(zip(self._grams, sides, strict=True)):
            gram.add(within.flatten(0, 1)[positions])
            self._traces[index] += whole.flatten(0, 1)[positions].square().sum()

    def correction(self) -> LowRankCorrection:
        A, S = (
            subspace_factor(blocks_of(gram.moment().total)[0], trace)
            for gram, trace in zip(self._grams, self._traces, strict=True)
        )
        return LowRankCorrection(self.squared_norms, A, S)


class LowRankStatistics(Participant):
    """A shard's squared norms over sequences with a token that carries a loss, and its drift over such tokens.

    Args:
        runner: runs the model.
        bases: the basis of every layer.
    """

    fits = True

    def __init__(self, runner: Runner, bases: Mapping[str, LowRankBasis]) -> None:
        self.dtype = dtype = accumulation_dtype(runner.dtype)
        self._layers = {layer.name: _LayerTotals(bases[layer.name].to(layer.device, dtype)) for layer in runner.modules}

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add one layer's gradients of a batch; those of sequences without a loss are zero, and are not counted."""
        self._layers[layer.name].add(batch, layer)

    def of(self, layer: AttributedLayer) -> LowRankCorrection:
        """Return the totals of one layer; of no sequences, they are zero."""
        return self._layers[layer.name].correction()

    @property
    def corrections(self) -> CorrectionTotals:
        """The squared norms of all layers, to be absorbed by those of many shards."""
        totals = CorrectionTotals()
        for name, layer in self._layers.items():
            totals.Λ[name] = SquareAccumulator.of(layer.squared_norms)
        return totals

    def clear(self) -> None:
        """Set all totals to zero, for the next shard."""
        for layer in self._layers.values():
            layer.clear()


def covariance_sketches(
    runner: Runner, sequences: Sequences, sampler: LabelSampler | None, form: CurvatureForm
) -> dict[str, CovarianceSketches]:
    """Return the sketches of A and S over the tokens of the sequences that carry a loss.

    Args:
        runner: runs the model.
        sequences: the training sequences.
        sampler: draws the labels; None takes the data's own.
        form: how many eigenvectors are to be found of each factor.
    """
    totals = CovarianceSketchTotals(form)
    measure(runner, sequences, [totals], {}, sampler)
    return {layer.name: totals.of(layer) for layer in runner.modules}


def low_rank_corrections(
    runner: Runner, sequences: Sequences, bases: Mapping[str, LowRankBasis], sampler: LabelSampler | None
) -> dict[str, LowRankCorrection]:
    """Return the totals of squared norms and of drift over the sequences; labels as in `covariance_sketches`."""
    totals = LowRankStatistics(runner, bases)
    measure(runner, sequences, [totals], {}, sampler)
    return {layer.name: totals.of(layer) for layer in runner.modules}
