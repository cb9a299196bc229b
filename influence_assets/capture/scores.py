"""Scores, −⟨P, G⟩ / N, of every query and training sequence, by several methods in one pass."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.hooks import Consumer
from influence_assets.capture.layer_gradient import GradientBuffers, LayerGradient, RotatedAxes
from influence_assets.capture.participant import Participant
from influence_assets.capture.runner import Runner
from influence_assets.maths.ekfac import Eigenbasis
from influence_assets.maths.influence import layer_scores


class ScoreTotals(Participant):
    """Totals of −⟨P, G⟩ / N over layers, for every query of several methods and every sequence.

    Args:
        methods: for each method, each layer's preconditioned query gradients P [query, d_out, d_in]. They are rotated
            in place, because two copies would not fit, so callers must not use them again. No two share a tensor.
        sequences: number of sequences that will be scored.
        N: training sequences of the generation.
        device: the device of the passes.
    """

    needs_bases = True

    def __init__(self, methods: Mapping[str, dict[str, Tensor]], sequences: int, N: int, device: str) -> None:
        self._methods = methods
        self._N = N
        self._totals = {
            name: torch.zeros(_count(P), sequences, dtype=torch.float64, device=device) for name, P in methods.items()
        }
        self._rotated_axes: dict[str, RotatedAxes] = {}

    def begin(self, runner: Runner, bases: Mapping[str, Eigenbasis], tokens: int, *, is_rotated_anyway: bool) -> None:
        """Rotate each side of the queries back, unless rotating the sequences is cheaper."""
        self.place(runner)
        self.in_eigenbases(bases, tokens, rotated_anyway=is_rotated_anyway)

    def place(self, runner: Runner) -> None:
        """Move P of each layer to that layer's device."""
        for P in self._methods.values():
            P.update(runner.placed(P))

    def in_eigenbases(
        self, bases: Mapping[str, Eigenbasis], tokens: int, *, rotated_anyway: bool
    ) -> Mapping[str, RotatedAxes]:
        """Take P as given in the eigenbases, and rotate back each side on which scoring there costs more.

        Inner products are the same in both coordinates. In the eigenbasis each sequence's tokens have to be rotated, in
        the model's coordinates each query's gradient.

        Args:
            bases: the eigenbasis of every layer.
            tokens: number of tokens in a sequence.
            rotated_anyway: whether another measurement needs the rotated gradients anyway.

        Returns:
            The sides of each layer that are scored in the eigenbasis.
        """
        queries, sequences = sum(map(_count, self._methods.values())), next(iter(self._totals.values())).shape[1]
        for layer, basis in bases.items():
            d_out, d_in = len(basis.Q_S), len(basis.Q_A)
            # On each side, either choice costs d² times the number compared.
            S = sequences * min(tokens, d_in) < queries * d_in
            A = sequences * min(tokens, d_out) < queries * d_out
            axes = RotatedAxes(S=True, A=True) if rotated_anyway else RotatedAxes(S, A)
            self._rotated_axes[layer] = axes
            if not all(axes):
                for P in self._methods.values():
                    basis.rotate_back(P[layer], S=not S, A=not A)
        return self._rotated_axes

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add one layer's part of the scores of a batch."""
        G = layer.with_sides(self._rotated_axes.get(layer.name, RotatedAxes(S=False, A=False)))
        rows = torch.from_numpy(batch.rows).to(batch.tokens.device, non_blocking=True)
        for name, P in self._methods.items():
            scores_of_layer = layer_scores(P[layer.name], G, self._N).double()
            self._totals[name].index_add_(1, rows, scores_of_layer.to(rows.device))

    def contractions(self) -> dict[str, str]:
        """Return what is rotated in each layer, in words for people."""
        texts = {
            RotatedAxes(S=False, A=False): "queries",
            RotatedAxes(S=True, A=True): "sequences",
            RotatedAxes(S=True, A=False): "output gradients of sequences, inputs of queries",
            RotatedAxes(S=False, A=True): "inputs of sequences, output gradients of queries",
        }
        return {layer: texts[axes] for layer, axes in self._rotated_axes.items()}

    def totals(self) -> dict[str, np.ndarray]:
        """Return the scores for each method, float64 [query, sequence]."""
        return {name: total.cpu().numpy() for name, total in self._totals.items()}


def scores(
    runner: Runner,
    sequences: Sequences,
    methods: Mapping[str, dict[str, Tensor]],
    N: int,
    bases: Mapping[str, Eigenbasis] | None = None,
) -> dict[str, np.ndarray]:
    """Return the scores of every sequence for every query, by several methods in one pass.

    Args:
        runner: runs the model.
        sequences: the training sequences.
        methods: for each method, each layer's preconditioned query gradients P [query, d_out, d_in]; see `ScoreTotals`.
        N: training sequences of the generation.
        bases: the eigenbasis of every layer, if P is given in the eigenbases.

    Returns:
        For each method float64 [query, sequence]; for a curvature method in nats per added copy.
    """
    return scored(runner, sequences, methods, N, bases).totals()


def scored(
    runner: Runner,
    sequences: Sequences,
    methods: Mapping[str, dict[str, Tensor]],
    N: int,
    bases: Mapping[str, Eigenbasis] | None,
) -> ScoreTotals:
    """Return the totals that `scores` reads, with the contractions that were chosen."""
    totals = ScoreTotals(methods, len(sequences), N, runner.device)
    totals.place(runner)
    if bases is not None:
        bases = runner.placed(bases)
        totals.in_eigenbases(bases, sequences.tokens.shape[1], rotated_anyway=False)
    score_pass(runner, sequences, totals, bases)
    return totals


def score_pass(
    runner: Runner, sequences: Sequences, totals: ScoreTotals, bases: Mapping[str, Eigenbasis] | None
) -> None:
    """Add up the scores of every sequence in one pass; arguments as in `scores`."""
    buffers = GradientBuffers()

    def consumer(batch: Batch) -> Consumer:
        return lambda linear, a, Ds: totals.add(
            batch, LayerGradient(linear.name, a, Ds, None if bases is None else bases[linear.name], buffers)
        )

    runner.run(sequences, consumer)


def _count(P: Mapping[str, Tensor]) -> int:
    return len(next(iter(P.values())))
