"""The number of operations of each measurement of a layer with a row for each word (`maths/rows.py`)."""

from influence_assets.capture.layer_vectors import Sized
from influence_assets.capture.operations import LayerShape, gram
from influence_assets.maths.curvature_form import CurvatureForm
from influence_assets.maths.ekfac import RotationOrder
from influence_assets.maths.row_terms import TERMS_A_TOKEN

LOOKED_UP = 1024
"""About how many words a batch has; what is looked up has gradients in their rows alone."""


def shape_of(layer: Sized, form: CurvatureForm) -> LayerShape:
    """Return the shape of a layer, of a form that is given for all layers."""
    kind = LayerShape if layer.outputs == "factor" else WordsShape
    return kind(layer.name, layer.output_width, layer.input_width, form.of_layer(layer.outputs), layer.outputs)


class WordsShape(LayerShape):
    """The shape of an embedding or of an output head, whose rows are not rotated."""

    @property
    def rows(self) -> int:
        """How many rows have a gradient."""
        return self.d_out if self.outputs == "words" else min(LOOKED_UP, self.d_out)

    def _tokenwise(self, tokens: int) -> int:
        """Return the multiplications of rotating a sequence's vectors."""
        terms = TERMS_A_TOKEN if self.outputs == "words" else 1
        return terms * tokens * sum(width**2 for width in self.factor_widths)

    def order(self, tokens: int) -> RotationOrder:
        """See `LayerShape`: vectors are rotated token by token."""
        return RotationOrder(S_by_token=True, A_by_token=True, multiplications=self._tokenwise(tokens))

    def gradient(self, tokens: int) -> int:
        """See `LayerShape`; vectors that are looked up are only added."""
        return 2 * tokens * self.d_out * self.d_in if self.outputs == "words" else 0

    def outer_products(self, rows: float) -> float:
        """See `LayerShape`."""
        return 2 * self._tokenwise(1) * rows + self.gradient(1) * rows

    def rotation(self) -> int:
        """See `LayerShape`."""
        return 2 * self.d_out * sum(width**2 for width in self.factor_widths)

    def scored_sides(self, tokens: int, queries: int, sequences: int) -> tuple[bool, bool]:
        """See `LayerShape`."""
        _, A = super().scored_sides(tokens, queries, sequences)
        return A, A

    def rotation_for_scores(self, tokens: int, queries: int, sequences: int) -> int:
        """See `LayerShape`."""
        _, of_sequences = self.scored_sides(tokens, queries, sequences)
        return 2 * sequences * self._tokenwise(tokens) if of_sequences else queries * self.rotation()

    def contraction(self, queries: int) -> int:
        """See `LayerShape`."""
        return 2 * queries * self.rows * self.d_in

    def covariances(self, positions: int) -> int:
        """See `LayerShape`: Gᵀ G of the gradient, which is formed for it, of the last position too."""
        return self.gradient(positions + 1) + sum(gram(self.rows, width) for width in self.factor_widths)
