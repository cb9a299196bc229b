"""The operations that the measurements of a model take, counted from shapes alone: no weights are needed.

The products of two matrices [m, k] and [k, n] are 2·m·k·n operations. What is elementwise is left out. The model's own
pass is counted as torch runs it (`model_shape.py`), everything else by the formulas here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from influence_assets.capture.batch_size import layer_bytes
from influence_assets.maths.block_diagonal import block_widths
from influence_assets.maths.ekfac import RotationOrder, rotation_order
from influence_assets.maths.moments import GRAM_TILE
from influence_assets.maths.notation import accumulation_dtype

EIGENDECOMPOSITION = 9
"""Times width³: tridiagonal form 4/3, its eigenvectors by divide and conquer at most 17/3, their way back 2."""


@dataclass(frozen=True)
class LayerShape:
    """An attributed layer.

    Args:
        name: of its module.
        d_out: width of its output.
        d_in: width of its input, with the bias's column.
        blocks: on the diagonals of A and S.
    """

    name: str
    d_out: int
    d_in: int
    blocks: int = 1

    @property
    def factor_widths(self) -> list[int]:
        """The widths of the diagonal blocks of A and S."""
        return [width for side in (self.d_in, self.d_out) for width in block_widths(side, self.blocks)]

    def order(self, tokens: int) -> RotationOrder:
        """Return how the gradient of a sequence is rotated."""
        return rotation_order(tokens, self.d_out, self.d_in, blocks=self.blocks)

    def gradient(self, tokens: int) -> int:
        """Count the operations of Σ_t Ds_t a_tᵀ of a sequence."""
        return 2 * tokens * self.d_out * self.d_in

    def rotated_gradient(self, tokens: int) -> int:
        """Count the operations of Q_Sᵀ G Q_A of a sequence, forming it included."""
        return self.gradient(tokens) + 2 * self.order(tokens).multiplications

    def rotation(self) -> int:
        """Count the operations of Qᵀ G Q of a gradient that is computed already."""
        return 2 * self.order(self.d_out + self.d_in).multiplications

    def scored_sides(self, tokens: int, queries: int, sequences: int) -> tuple[bool, bool]:
        """Return for S and A whether scores alone rotate the sequences' gradients rather than those of the queries.

        Of one side either costs d² times what is compared (see `ScoreTotals.in_eigenbases`).
        """
        S = sequences * min(tokens, self.d_in) < queries * self.d_in
        A = sequences * min(tokens, self.d_out) < queries * self.d_out
        return S, A

    def rotation_for_scores(self, tokens: int, queries: int, sequences: int) -> int:
        """Count the operations of the rotations that scores alone take, of all sequences and queries."""
        S, A = (sum(width**2 for width in block_widths(side, self.blocks)) for side in (self.d_out, self.d_in))
        of_S = min(sequences * min(tokens, self.d_in), queries * self.d_in)
        of_A = min(sequences * min(tokens, self.d_out), queries * self.d_out)
        return 2 * (S * of_S + A * of_A)

    def contraction(self, queries: int) -> int:
        """Count the operations of the products of a sequence's gradient with those of queries."""
        return 2 * queries * self.d_out * self.d_in

    def covariances(self, positions: int) -> int:
        """Count the operations of A and S of so many positions: the tiles on and below the diagonal."""
        return sum(_gram(positions, width) for width in self.factor_widths)

    def decomposition(self) -> int:
        """Count the operations of the eigenvectors of A and S."""
        return EIGENDECOMPOSITION * sum(width**3 for width in self.factor_widths)

    def drift(self) -> int:
        """Count the operations of Qᵀ A Q and Qᵀ S Q."""
        return 4 * sum(width**3 for width in self.factor_widths)


def _gram(rows: int, width: int) -> int:
    stops = [min(start + GRAM_TILE, width) for start in range(0, width, GRAM_TILE)]
    return sum(2 * rows * (stop - start) * stop for start, stop in zip(range(0, width, GRAM_TILE), stops, strict=True))


@dataclass(frozen=True)
class ModelShape:
    """A model, and what one pass of one sequence takes.

    Args:
        layers: attributed.
        tokens: in the sequence.
        parameters: in all.
        forward: operations up to the last hidden state.
        backward: operations of the activations' gradients down to the first attributed layer.
        head: operations of the head's product with the hidden states of all but the last position.
        kept_bytes: that lie between forward and backward.
        width: of the head's input.
        dtype: of the passes.
    """

    layers: tuple[LayerShape, ...]
    tokens: int
    parameters: int
    forward: int
    backward: int
    head: int
    kept_bytes: int
    width: int
    dtype: torch.dtype

    def passes(self, labels: int = 1) -> int:
        """Count the operations of one forward pass and a backward pass for each kind of labels.

        The logits are made once, and their expected gradient goes back through the head once for all kinds; in half
        precision once for each.
        """
        through_head = labels if self.dtype != accumulation_dtype(self.dtype) else 1
        return self.forward + (1 + through_head) * self.head + labels * self.backward

    def training_step(self) -> int:
        """Count the operations of one forward pass and a whole backward pass."""
        return 3 * (self.forward + self.head)

    @property
    def sequence_bytes(self) -> int:
        """Bytes that a sequence of a batch takes at the height of a pass, see `batch_size`."""
        sums = accumulation_dtype(self.dtype)
        return self.kept_bytes + max(layer_bytes(layer.d_out, layer.d_in, self.tokens, sums) for layer in self.layers)

    @property
    def sums_itemsize(self) -> int:
        """Bytes of a number of what is summed and stored."""
        return accumulation_dtype(self.dtype).itemsize

    def covariances(self) -> int:
        """Count the operations of A and S of every layer, the pass left out."""
        return sum(layer.covariances(self.tokens - 1) for layer in self.layers)

    def gradients(self) -> int:
        """Count the operations of G of every layer."""
        return sum(layer.gradient(self.tokens) for layer in self.layers)

    def rotated_gradients(self) -> int:
        """Count the operations of Q_Sᵀ G Q_A of every layer."""
        return sum(layer.rotated_gradient(self.tokens) for layer in self.layers)

    def contractions(self, queries: int) -> int:
        """Count the operations of the products with queries."""
        return sum(layer.contraction(queries) for layer in self.layers)

    def rotations(self) -> int:
        """Count the operations of rotating a gradient that is computed already."""
        return sum(layer.rotation() for layer in self.layers)

    def scores(self, queries: int, sequences: int) -> int:
        """Count the operations of the exact scores of all the sequences, the pass left out.

        On each side of a layer the sequences' gradients are rotated or those of the queries back, whichever takes less.
        """
        rotations = (layer.rotation_for_scores(self.tokens, queries, sequences) for layer in self.layers)
        return sum(rotations) + sequences * (self.gradients() + self.contractions(queries))

    @property
    def factor_numbers(self) -> int:
        """Numbers in A and S of all layers, and so in Q_A and Q_S."""
        return sum(width**2 for layer in self.layers for width in layer.factor_widths)

    @property
    def gradient_numbers(self) -> int:
        """Numbers in a gradient of all attributed layers, and so in Λ."""
        return sum(layer.d_out * layer.d_in for layer in self.layers)


def contraction_orders(shape: ModelShape, queries: int, sequences: int) -> Mapping[tuple[int, int], tuple[str, str]]:
    """Return, by shape (d_out, d_in), what is rotated for Λ and sketches, and for scores without sketches."""
    return {
        (layer.d_out, layer.d_in): (_rotated(layer.order(shape.tokens)), _scored(shape, layer, queries, sequences))
        for layer in shape.layers
    }


def _rotated(order: RotationOrder) -> str:
    S, A = ("tokens" if by_token else "gradients" for by_token in (order.S_by_token, order.A_by_token))
    return S if S == A else f"{S} by Q_S, {A} by Q_A"


def _scored(shape: ModelShape, layer: LayerShape, queries: int, sequences: int) -> str:
    sides = layer.scored_sides(shape.tokens, queries, sequences)
    S, A = ("sequences" if of_sequences else "queries" for of_sequences in sides)
    return S if S == A else f"{S} by Q_S, {A} by Q_A"
