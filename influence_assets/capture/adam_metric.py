"""Inner products of gradients in the metric of Adam, which divides every weight's gradient by √v̂ + ε.

A step of AdamW moves the weights by −η m̂ / (√v̂ + ε), with m̂ a weighted mean of the gradients of past batches. If the
denominators are held, a sequence's gradient enters the steps after its own with weights that sum to 1, so that its
part of a training is −(Σ η / T) ⟨∇f / (√v̂ + ε), ∇L(z)⟩ to the first order, with all gradients and v̂ as they are at the
end of the training. Clipping and weight decay are left out. It is TracIn with one checkpoint, the last, in this metric.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from influence_assets.capture.batches import Parts, Sequences
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import ScoreTotals, score_all

_METHOD = "adam_metric"


def adam_metric(
    runner: Runner,
    sequences: Sequences,
    queries: Sequences,
    divisor: Callable[[str], Tensor],
    scale: float,
    parts: Parts | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return −(Σ η / T) ⟨∇f / (√v̂ + ε), ∇L(z)⟩ over the runner's layers.

    Args:
        runner: runs the model, with the weights at the end of its training.
        sequences: the training sequences that are scored.
        queries: the queries, with the starts of their completions.
        divisor: returns √v̂ + ε of a parameter, given its name in the model.
        scale: Σ η / T, or what stands for it.
        parts: the documents of the sequences that have several, if scores are to be split over them.

    Returns:
        float64 [query, sequence], and float64 [query, part] if there are parts.
    """
    totals = ScoreTotals({}, len(sequences), 1, runner.device, parts)
    totals.include(_METHOD, len(queries), split=parts is not None)
    P = query_gradients(runner, queries).layers
    for name, D in divisors(runner, divisor).items():
        P[name].mul_(scale).div_(D.to(P[name]))
    totals.hold(_METHOD, P)
    score_all(runner, sequences, totals, None)
    return totals.totals()[_METHOD], None if parts is None else totals.part_totals(_METHOD)


def divisors(runner: Runner, divisor: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Return √v̂ + ε of every layer, [d_out, d_in], as the layer's matrix is made of its parameters."""
    names = {id(parameter): name for name, parameter in runner.model.named_parameters()}
    found = {}
    for layer in runner.modules:
        own = dict(layer.module.named_parameters(recurse=False))
        roots = {name: divisor(names[id(parameter)]) for name, parameter in own.items()}
        found[layer.name] = layer.as_matrix(roots)
    return found
