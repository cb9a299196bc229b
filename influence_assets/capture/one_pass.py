"""Everything that is measured of training sequences, from one forward pass and the backward passes that are needed.

With sampled labels two: one of those labels, for the statistics of the curvature, and one of the data's own, for
sketches and scores. With the data's own labels for both, one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.correction import CorrectionTotals
from influence_assets.capture.covariance import CovarianceTotals
from influence_assets.capture.hooks import Consumer
from influence_assets.capture.layer_gradient import GradientBuffers, LayerGradient
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.runner import Runner, refuse_not_finite
from influence_assets.capture.scores import ScoreTotals
from influence_assets.capture.sketches import SketchRows, WhitenedBatch
from influence_assets.maths.ekfac import Eigenbasis
from influence_assets.models.layers.rule import LinearModule


@dataclass(frozen=True)
class Wanted:
    """What to measure; None is left out.

    Args:
        bases: of every layer; query gradients are given in them.
        sampler: of the labels that the curvature's statistics are measured with; None: the data's own.
        covariances: A and S.
        corrections: Λ.
        sketches: whitened gradients.
        scores: for the queries of several sets, one element a set.
    """

    bases: dict[str, Eigenbasis]
    sampler: LabelSampler | None
    covariances: CovarianceTotals | None = None
    corrections: CorrectionTotals | None = None
    sketches: SketchRows | None = None
    scores: tuple[ScoreTotals, ...] = ()


def measure(runner: Runner, sequences: Sequences, wanted: Wanted) -> Iterator[WhitenedBatch | None]:
    """Measure batch after batch, in order.

    Yields:
        The batch's whitened gradients, if they are wanted.

    Raises:
        FloatingPointError: a log-likelihood is not finite.
    """
    wanted = replace(wanted, bases=runner.placed(wanted.bases))
    for scores in wanted.scores:
        scores.place(runner)
        rotated_anyway = wanted.sketches is not None
        scores.in_eigenbases(wanted.bases, sequences.tokens.shape[1], rotated_anyway=rotated_anyway)
    fits = wanted.covariances is not None or wanted.corrections is not None
    attributes = wanted.sketches is not None or bool(wanted.scores)
    places = GradientBuffers()
    for batch, forward in runner.passes(sequences, by_length=False):
        likelihoods = []
        if fits and attributes and wanted.sampler is None:
            likelihoods.append(forward.backward(_consumer(wanted, batch, places, fits=True, attributes=True)))
        else:
            if fits:
                consume = _consumer(wanted, batch, places, fits=True, attributes=False)
                likelihoods.append(forward.backward(consume, sampler=wanted.sampler, then=[None] if attributes else []))
            if attributes:
                likelihoods.append(forward.backward(_consumer(wanted, batch, places, fits=False, attributes=True)))
        refuse_not_finite(torch.stack(likelihoods).double().cpu().numpy())
        yield None if wanted.sketches is None else wanted.sketches.batch()


def _consumer(wanted: Wanted, batch: Batch, places: GradientBuffers, *, fits: bool, attributes: bool) -> Consumer:
    def consume(linear: LinearModule, a: Tensor, Ds: Tensor) -> None:
        layer = LayerGradient(linear.name, a, Ds, wanted.bases.get(linear.name), places)
        if fits and wanted.covariances is not None:
            wanted.covariances.add(batch, layer)
        if fits and wanted.corrections is not None:
            wanted.corrections.add(layer)
        if attributes and wanted.sketches is not None:
            wanted.sketches.add(layer)
        if attributes:
            for scores in wanted.scores:
                scores.add(batch, layer)

    return consume
