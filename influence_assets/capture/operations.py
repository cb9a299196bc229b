"""The number of operations of each measurement of a model, computed from shapes alone.

The product of two matrices [m, k] and [k, n] counts as 2·m·k·n operations; elementwise operations are not counted. The
model's own pass is counted as torch runs it (`model_shape.py`), everything else by the formulas here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from influence_assets.capture.batch_size import layer_bytes
from influence_assets.maths.block_diagonal import block_widths
from influence_assets.maths.curvature_form import CurvatureForm
from influence_assets.maths.ekfac import RotationOrder, rotation_order
from influence_assets.maths.moments import GRAM_TILE
from influence_assets.maths.notation import accumulation_dtype
from influence_assets.maths.rows import OutputSide
from influence_assets.maths.split_tokens import norm_order

EIGENDECOMPOSITION = 9
"""Operations for each width³: tridiagonal form 4/3, divide and conquer at most 17/3, back transformation 2."""


SINGULAR_VECTORS = 20
"""Operations for each width · columns² of a sketch: its products, a Cholesky and a QR decomposition, and the SVD."""


@dataclass(frozen=True)
class LayerShape:
    """The shape of an attributed layer.

    Args:
        name: the module's name.
        d_out: width of its output.
        d_in: width of its input, including the bias's column.
        form: how much of A and S is kept.
        outputs: what the output is to the curvature.
    """

    name: str
    d_out: int
    d_in: int
    form: CurvatureForm = field(default_factory=CurvatureForm)
    outputs: OutputSide = "factor"

    @property
    def output_width(self) -> int:
        """The width of the output, as attributed layers call it."""
        return self.d_out

    @property
    def input_width(self) -> int:
        """The width of the input, as attributed layers call it."""
        return self.d_in

    @property
    def factor_widths(self) -> list[int]:
        """The widths of the diagonal blocks of A and S."""
        return self.form.widths(self.d_out, self.d_in)

    @property
    def kept(self) -> tuple[int, int]:
        """How many eigenvectors are kept of S and of A."""
        return self.form.kept(self.d_out, self.d_in)

    def order(self, tokens: int) -> RotationOrder:
        """Return the order in which the gradient of a sequence is rotated."""
        return rotation_order(tokens, self.d_out, self.d_in, blocks=self.form.blocks)

    def gradient(self, tokens: int) -> int:
        """Count the operations of Σ_t Ds_t a_tᵀ for one sequence."""
        return 2 * tokens * self.d_out * self.d_in

    def rotated_gradient(self, tokens: int) -> int:
        """Count the operations of Q_Sᵀ G Q_A for one sequence, including those of G; of low rank those of G alone."""
        if self.form.rank is not None:
            return self.gradient(tokens)
        return self.gradient(tokens) + 2 * self.order(tokens).multiplications

    def statistics(self, tokens: int) -> int:
        """Count the operations of what a sequence adds to a shard's statistics in a basis: Λ, A and S."""
        if self.form.rank is None:
            return self.covariances(tokens - 1) + self.rotated_gradient(tokens)
        return self.split_tokens(tokens) + sum(gram(tokens - 1, r) for r in self.kept)

    def split_tokens(self, tokens: int) -> int:
        """Count the operations of a sequence's gradient in and outside of U, and of its norms; 0 if not of low rank."""
        if self.form.rank is None:
            return 0
        (r_S, r_A), (d_out, d_in) = self.kept, (self.d_out, self.d_in)
        rests = (d_out if r_S < d_out else 0), (d_in if r_A < d_in else 0)
        coordinates = tokens * (d_out * r_S * (1 + (r_S < d_out)) + d_in * r_A * (1 + (r_A < d_in)))
        return 2 * (coordinates + tokens * r_S * r_A + norm_order(tokens, rests, (r_S, r_A)).multiplications)

    def outer_products(self, rows: float) -> float:
        """Count the operations of rotating this number of tokens one by one, and of the sum of their outer products."""
        rotation = 0 if self.form.rank is not None else sum(width**2 for width in self.factor_widths)
        return 2 * rows * (rotation + self.d_out * self.d_in)

    def rotation(self) -> int:
        """Count the operations of Q_Sᵀ G Q_A for a gradient G that is known; of low rank none."""
        if self.form.rank is not None:
            return 0
        return 2 * self.order(self.d_out + self.d_in).multiplications

    def scored_sides(self, tokens: int, queries: int, sequences: int) -> tuple[bool, bool]:
        """Return for S and A whether a pass for scores only rotates the sequences' gradients, not those of the queries.

        On each side, either choice costs d² times the number compared here (see `ScoreTotals.in_eigenbases`).
        """
        S = sequences * min(tokens, self.d_in) < queries * self.d_in
        A = sequences * min(tokens, self.d_out) < queries * self.d_out
        return S, A

    def rotation_for_scores(self, tokens: int, queries: int, sequences: int) -> int:
        """Count the operations of all rotations of sequences or queries in a pass for scores only; of low rank none."""
        if self.form.rank is not None:
            return 0
        blocks = self.form.blocks
        S, A = (sum(width**2 for width in block_widths(side, blocks)) for side in (self.d_out, self.d_in))
        of_S = min(sequences * min(tokens, self.d_in), queries * self.d_in)
        of_A = min(sequences * min(tokens, self.d_out), queries * self.d_out)
        return 2 * (S * of_S + A * of_A)

    def contraction(self, queries: int) -> int:
        """Count the operations of the products of one sequence's gradient with those of queries."""
        return 2 * queries * self.d_out * self.d_in

    def covariances(self, positions: int) -> int:
        """Count the operations of A and S over these positions: the tiles on and below the diagonal, or sketches."""
        if self.form.rank is not None:
            finders = [self.form.finder(width) for width in (self.d_in, self.d_out)]
            return sum(gram(positions, f.width) if f.is_whole else 4 * positions * f.width * f.columns for f in finders)
        return sum(gram(positions, width) for width in self.factor_widths)

    def decomposition(self) -> int:
        """Count the operations of the eigenvectors of A and S."""
        if self.form.rank is not None:
            finders = [self.form.finder(width) for width in (self.d_in, self.d_out)]
            return sum(
                EIGENDECOMPOSITION * f.width**3 if f.is_whole else SINGULAR_VECTORS * f.width * f.columns**2
                for f in finders
            )
        return EIGENDECOMPOSITION * sum(width**3 for width in self.factor_widths)

    def drift(self) -> int:
        """Count the operations of Qᵀ A Q and Qᵀ S Q for a shard; of low rank they are measured token by token."""
        if self.form.rank is not None:
            return 0
        return 4 * sum(width**3 for width in self.factor_widths)


def gram(rows: int, width: int) -> int:
    """Count the operations of x xᵀ of so many rows: the tiles on and below the diagonal."""
    stops = [min(start + GRAM_TILE, width) for start in range(0, width, GRAM_TILE)]
    return sum(2 * rows * (stop - start) * stop for start, stop in zip(range(0, width, GRAM_TILE), stops, strict=True))


@dataclass(frozen=True)
class ModelShape:
    """The shape of a model and the costs of a pass over one sequence.

    Args:
        layers: the attributed layers.
        tokens: number of tokens in the sequence.
        parameters: number of all parameters.
        forward: operations up to the last hidden state.
        backward: operations of the activations' gradients down to the first attributed layer.
        head: operations of the head's product with the hidden states of all but the last position.
        kept_bytes: bytes that the pass keeps between forward and backward.
        width: width of the head's input.
        dtype: the precision of the passes.
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
        """Count the operations of one forward pass and one backward pass for each kind of labels.

        The logits are computed once. Their expected gradient goes back through the head once for all kinds of labels,
        in half precision once for each.
        """
        through_head = labels if self.dtype != accumulation_dtype(self.dtype) else 1
        return self.forward + (1 + through_head) * self.head + labels * self.backward

    def training_step(self) -> int:
        """Count the operations of one forward pass and one full backward pass."""
        return 3 * (self.forward + self.head)

    def gauss_newton(self) -> int:
        """Count the operations of a product of the Gauss-Newton Hessian of one sequence with one vector.

        A forward pass carries the vector along, which costs about what a backward pass does; a backward pass takes the
        curved result back to every layer's gradient. The pass that all vectors of a batch share is not counted.
        """
        of_passes = self.forward + 2 * self.backward + 3 * self.head * self.tokens // max(1, self.tokens - 1)
        return of_passes + self.gradients() + self.rotated_gradients()

    @property
    def sequence_bytes(self) -> int:
        """The most bytes that a sequence takes during a pass, see `batch_size`."""
        sums = accumulation_dtype(self.dtype)
        return self.kept_bytes + max(layer_bytes(layer, self.tokens, sums) for layer in self.layers)

    @property
    def sums_itemsize(self) -> int:
        """Bytes of one number in the sums that are stored."""
        return accumulation_dtype(self.dtype).itemsize

    def covariances(self) -> int:
        """Count the operations of A and S for every layer, without the pass."""
        return sum(layer.covariances(self.tokens - 1) for layer in self.layers)

    def drift(self) -> int:
        """Count the operations of a shard's drift, Qᵀ A Q and Qᵀ S Q for every layer."""
        return sum(layer.drift() for layer in self.layers)

    def statistics(self) -> int:
        """Count the operations of what a sequence adds to a shard's statistics in a basis: Λ, A and S."""
        return sum(layer.statistics(self.tokens) for layer in self.layers)

    def sketched_gradients(self) -> int:
        """Count the operations of a sequence's gradients in the coordinates that sketches keep, and of their norms."""
        return self.rotated_gradients() + self.norms()

    def norms(self) -> int:
        """Count the operations of a sequence's norms in the metric of a curvature of low rank, without its gradient."""
        return sum(layer.split_tokens(self.tokens) for layer in self.layers)

    def gradients(self) -> int:
        """Count the operations of G for every layer."""
        return sum(layer.gradient(self.tokens) for layer in self.layers)

    def rotated_gradients(self) -> int:
        """Count the operations of Q_Sᵀ G Q_A for every layer, of low rank of G."""
        return sum(layer.rotated_gradient(self.tokens) for layer in self.layers)

    def outer_products(self, rows: float) -> float:
        """Count the operations of a query's outer products in every layer and of their sums, but not of truncation.

        Args:
            rows: the query's tokens that have a gradient.
        """
        return sum(layer.outer_products(rows) for layer in self.layers)

    def contractions(self, queries: int) -> int:
        """Count the operations of the products with queries."""
        return sum(layer.contraction(queries) for layer in self.layers)

    def rotations(self) -> int:
        """Count the operations of rotating a known gradient."""
        return sum(layer.rotation() for layer in self.layers)

    def scores(self, queries: int, sequences: int) -> int:
        """Count the operations of the exact scores of all sequences, without the pass.

        On each side of a layer, either the sequences' gradients are rotated, or those of the queries are rotated back,
        whichever takes fewer operations.
        """
        rotations = (layer.rotation_for_scores(self.tokens, queries, sequences) for layer in self.layers)
        return sum(rotations) + sequences * (self.gradients() + self.contractions(queries))

    @property
    def gradient_numbers(self) -> int:
        """How many numbers a gradient of all attributed layers has."""
        return sum(layer.d_out * layer.d_in for layer in self.layers)


def contraction_orders(shape: ModelShape, queries: int, sequences: int) -> Mapping[tuple[int, int], tuple[str, str]]:
    """Return by shape (d_out, d_in) what is rotated for Λ and sketches, and what for scores without sketches."""
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
