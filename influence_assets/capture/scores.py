"""Scores, −⟨P, G⟩ / N, of every query and training sequence, by several methods in one pass.

A sequence in which several documents are packed has a score for each of them, too. Its gradient is a sum over
positions, G = Σ_t Ds_t a_tᵀ, so the score of a document's part is −⟨P, Σ_{t in the document} Ds_t a_tᵀ⟩ / N, and the
parts sum to the sequence's score. Through attention, the loss of a later document reaches positions of an earlier one
and is counted there.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Parts, Sequences
from influence_assets.capture.hooks import Consumer
from influence_assets.capture.layer_gradient import GradientBuffers, LayerGradient, RotatedAxes
from influence_assets.capture.layer_vectors import holds, placed
from influence_assets.capture.participant import Participant
from influence_assets.capture.parts_of_batch import PartsOfBatch
from influence_assets.capture.runner import Runner
from influence_assets.maths.curvature import Basis
from influence_assets.maths.gradient_terms import GradientTerms
from influence_assets.maths.influence import layer_scores
from influence_assets.maths.notation import device_of_sums, in_float64
from influence_assets.models.layers.rule import AttributedLayer


class PartTotals:
    """Totals over layers of the scores of parts, for every query of several methods.

    The longest part of each sequence is not computed: it is what the others leave of the sequence's score.

    Args:
        parts: the documents of the sequences that have several.
        device: the device of the passes.
    """

    def __init__(self, parts: Parts, device: str) -> None:
        self._parts = parts
        self._longest = parts.longest_of_each()
        self._computed = np.setdiff1d(np.arange(len(parts)), self._longest)
        self._device = device_of_sums(device)
        self._totals: dict[str, Tensor] = {}
        self._of_batch = PartsOfBatch(parts.take(self._computed), device)
        self._buffers = GradientBuffers()

    def include(self, method: str, queries: int) -> None:
        """Score the parts by a method too, for this number of queries."""
        self._totals[method] = torch.zeros(queries, len(self._computed), dtype=torch.float64, device=self._device)

    def add(
        self, batch: Batch, layer: LayerGradient, axes: RotatedAxes, methods: Mapping[str, Mapping[str, Tensor]], N: int
    ) -> None:
        """Add one layer's share of the scores of a batch; `methods` and N as in `ScoreTotals`."""
        for parts, columns in self._of_batch.chunks(batch):
            G = layer.of_parts(axes, parts, self._buffers)
            for method, totals in self._totals.items():
                scores_of_layer = in_float64(layer_scores(layer.of_rows(methods[method][layer.name]), G, N))
                totals.index_add_(1, columns, scores_of_layer.to(columns.device))

    def totals(self, method: str, scores: np.ndarray) -> np.ndarray:
        """Return the score of every part by a method, float64 [query, part].

        Args:
            method: one that is included.
            scores: the sequences' scores by it, float64 [query, sequence].
        """
        totals = np.zeros((len(scores), len(self._parts)))
        totals[:, self._computed] = self._totals[method].cpu().numpy()
        first = np.searchsorted(self._parts.sequences, self._parts.sequences[self._longest])
        others = np.add.reduceat(totals, first, axis=1) if len(first) else totals
        totals[:, self._longest] = scores[:, self._parts.sequences[self._longest]] - others
        return totals


class ScoreTotals(Participant):
    """Totals of −⟨P, G⟩ / N over layers, for every query of several methods and every sequence.

    Args:
        methods: for each method, each layer's preconditioned query gradients P [query, d_out, d_in]. What is held is
            rotated in place, because two copies would not fit, so callers must not use it again. No two share a tensor.
        sequences: number of sequences that will be scored.
        N: training sequences of the generation.
        device: the device of the passes.
        parts: the documents of the sequences that have several, if scores are to be split over them.
    """

    needs_bases = True

    def __init__(
        self,
        methods: Mapping[str, Mapping[str, Tensor]],
        sequences: int,
        N: int,
        device: str,
        parts: Parts | None = None,
    ) -> None:
        self._methods: dict[str, Mapping[str, Tensor]] = {}
        self._sequences = sequences
        self._N = N
        self._device = device_of_sums(device)
        self._totals: dict[str, Tensor] = {}
        self._parts = None if parts is None else PartTotals(parts, device)
        self._rotated_axes: dict[str, RotatedAxes] = {}
        for name, P in methods.items():
            self.include(name, _count(P))
            self.hold(name, P)

    def include(self, method: str, queries: int, *, split: bool = False) -> None:
        """Score by a method too; to be called before the pass, and `hold` after it.

        Args:
            method: a name that no other has.
            queries: number of queries.
            split: whether its scores are split over parts.

        Raises:
            ValueError: scores are to be split, and there are no parts.
        """
        self._totals[method] = torch.zeros(queries, self._sequences, dtype=torch.float64, device=self._device)
        if split:
            if self._parts is None:
                raise ValueError("scores cannot be split without parts")
            self._parts.include(method, queries)

    def hold(self, method: str, P: Mapping[str, Tensor]) -> None:
        """Hold a method's preconditioned query gradients of the layers of the next pass, as in `methods`."""
        self._methods[method] = P

    def release(self) -> None:
        """Free the preconditioned query gradients of the last pass."""
        self._methods.clear()

    def begin(self, runner: Runner, bases: Mapping[str, Basis], tokens: int, *, is_rotated_anyway: bool) -> None:
        """Rotate each side of the queries back, unless rotating the sequences is cheaper."""
        self.place(runner)
        self.in_eigenbases(bases, tokens, rotated_anyway=is_rotated_anyway)

    def place(self, runner: Runner) -> None:
        """Move P of each layer to that layer's device."""
        for method in list(self._methods):
            self._methods[method] = placed(self._methods[method], runner.modules)

    def in_eigenbases(
        self, bases: Mapping[str, Basis], tokens: int, *, rotated_anyway: bool
    ) -> Mapping[str, RotatedAxes]:
        """Take P as given in the eigenbases, and rotate back each side on which scoring there costs more.

        Inner products are the same in both coordinates. In the eigenbasis each sequence's tokens have to be rotated, in
        the model's coordinates each query's gradient, which does not pay where P is made anew for each batch.

        Args:
            bases: the eigenbasis of every layer.
            tokens: number of tokens in a sequence.
            rotated_anyway: whether another measurement needs the rotated gradients anyway.

        Returns:
            The sides of each layer that are scored in the eigenbasis.
        """
        queries, sequences = sum(map(len, self._totals.values())), self._sequences
        for layer, basis in bases.items():
            d_out, d_in = basis.shape
            # On each side, either choice costs d² times the number compared.
            S = sequences * min(tokens, d_in) < queries * d_in
            A = sequences * min(tokens, d_out) < queries * d_out
            is_held = all(holds(P, layer) for P in self._methods.values())
            axes = RotatedAxes(S=True, A=True) if rotated_anyway or not is_held else RotatedAxes(S, A)
            if not basis.rotates:
                axes = RotatedAxes(S=False, A=False)
            self._rotated_axes[layer] = axes
            if is_held and not all(axes):
                for P in self._methods.values():
                    basis.rotate_back(P[layer], S=not axes.S, A=not axes.A)
        return self._rotated_axes

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add one layer's share of the scores of a batch."""
        axes = self._rotated_axes.get(layer.name, RotatedAxes(S=False, A=False))
        G = layer.with_sides(axes)
        rows = torch.from_numpy(batch.rows).to(self._device, non_blocking=True)
        for name, P in self._methods.items():
            scores_of_layer = in_float64(layer_scores(layer.of_rows(P[layer.name]), G, self._N))
            self._totals[name].index_add_(1, rows, scores_of_layer.to(rows.device))
        if self._parts is not None:
            self._parts.add(batch, layer, axes, self._methods, self._N)

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

    def part_totals(self, method: str) -> np.ndarray:
        """Return the scores of all parts by a method that is split, float64 [query, part].

        Raises:
            ValueError: there are no parts.
        """
        if self._parts is None:
            raise ValueError("there are no parts")
        return self._parts.totals(method, self._totals[method].cpu().numpy())


def scores(
    runner: Runner,
    sequences: Sequences,
    methods: Mapping[str, dict[str, Tensor]],
    N: int,
    bases: Mapping[str, Basis] | None = None,
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
    return score_all(runner, sequences, ScoreTotals(methods, len(sequences), N, runner.device), bases).totals()


def score_all(
    runner: Runner, sequences: Sequences, totals: ScoreTotals, bases: Mapping[str, Basis] | None
) -> ScoreTotals:
    """Fill and return the totals in one pass of their own; other arguments as in `scores`."""
    totals.place(runner)
    if bases is not None:
        bases = runner.placed(bases)
        totals.in_eigenbases(bases, sequences.tokens.shape[1], rotated_anyway=False)
    score_pass(runner, sequences, totals, bases)
    return totals


def score_pass(runner: Runner, sequences: Sequences, totals: ScoreTotals, bases: Mapping[str, Basis] | None) -> None:
    """Add up the scores of every sequence in one pass; arguments as in `scores`."""
    buffers = GradientBuffers()

    def consumer(batch: Batch) -> Consumer:
        def consume(linear: AttributedLayer, terms: GradientTerms) -> None:
            basis = None if bases is None else bases[linear.name]
            for layer in LayerGradient(linear.name, terms, basis, buffers).blocks():
                totals.add(batch, layer)

        return consume

    runner.run(sequences, consumer)


def _count(P: Mapping[str, Tensor]) -> int:
    return len(next(iter(P.values())))
