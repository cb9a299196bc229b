"""The matrix of a model's words, [word, width]: its input embedding, its output head, or both where they are one.

The gradient of row r is Σ_t of the gradient at the embedding of each token r that goes in, and as a head Σ_t (p_t −
onehot(label_t))_r h_t. In its curvature the rows stay as they are (Q_S = I); Q_A are the eigenvectors of
E_sequence[Gᵀ G], summed over rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedModel

from influence_assets.maths.gradient_terms import GradientTerms
from influence_assets.maths.notation import in_float64
from influence_assets.maths.row_terms import RowTerms
from influence_assets.maths.rows import OutputSide
from influence_assets.models.layers.likeness import computes_like
from influence_assets.models.layers.rule import LOGITS, AttributedLayer, Handle, LayerRule, Observe

TOKENS = "tokens"
"""The place where the matrix is looked up."""


class TokenEmbedding(nn.Module):
    """A view of the modules that hold the matrix, of which at least one is given.

    Args:
        embedding: the input embedding.
        head: the output head.
    """

    def __init__(self, embedding: nn.Module | None, head: nn.Module | None) -> None:
        super().__init__()
        object.__setattr__(self, "embedding", embedding)  # the model holds them, not this view
        object.__setattr__(self, "head", head)
        self.weight = (head if embedding is None else embedding).weight  # type: ignore[union-attr]


class Embedding(LayerRule):
    """The rule for `TokenEmbedding`, which no model has by itself: `token_embeddings` makes them."""

    name = "embedding"

    def covers(self, module: nn.Module) -> bool:
        """See `LayerRule`."""
        return isinstance(module, TokenEmbedding)

    def widths(self, module: Any) -> tuple[int, int]:
        """See `LayerRule`."""
        words, width = module.weight.shape
        return words, width

    def inputs(self, module: Any, x: Tensor) -> Tensor:  # noqa: ARG002
        """Return what goes into the head, or the tokens."""
        return x

    def as_matrix(self, module: Any, gradients: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """See `LayerRule`."""
        return gradients["weight"]

    def outputs(self, module: Any) -> OutputSide:
        """See `LayerRule`."""
        return "looked_up" if module.head is None else "words"

    def owners(self, module: Any) -> tuple[nn.Module, ...]:
        """See `LayerRule`."""
        return tuple(each for each in (module.embedding, module.head) if each is not None)

    def sides(self, module: Any) -> tuple[str, ...]:
        """See `LayerRule`."""
        return (TOKENS,) * (module.embedding is not None) + (LOGITS,) * (module.head is not None)

    def by_sequence(self, module: Any, values: Tensor, shape: tuple[int, int]) -> Tensor | None:
        """See `LayerRule`; tokens have no axis of their own for a width."""
        if values.is_floating_point():
            return super().by_sequence(module, values, shape)
        laid_out = super().by_sequence(module, values[..., None], shape)
        return None if laid_out is None else laid_out[..., 0]

    def attach_side(self, module: Any, side: str, observe: Observe) -> Handle:
        """See `LayerRule`."""
        return self.attach(module.head if side == LOGITS else module.embedding, observe)

    def terms(self, module: Any, side: str, x: Tensor, gradient: Tensor) -> RowTerms:
        """See `LayerRule`."""
        if side == LOGITS:
            return RowTerms.spoken(gradient, x.to(gradient.dtype))
        return RowTerms.looked_up(x.long(), _as_looked_up(module.embedding, x, gradient), len(module.weight))

    def summed(self, parts: Sequence[GradientTerms]) -> GradientTerms:
        """See `LayerRule`."""
        return RowTerms.summed([part for part in parts if isinstance(part, RowTerms)])

    def output_change(self, module: Any, side: str, x: Tensor, V: Tensor) -> Tensor:
        """See `LayerRule`."""
        if side == LOGITS:
            return x @ V.T.to(x.dtype)
        return _as_looked_up(module.embedding, x, V[x])


def _as_looked_up(embedding: nn.Embedding, tokens: Tensor, values: Tensor) -> Tensor:
    """Return vectors of tokens times the scale of the embedding, and 0 for padding, whose row is never trained."""
    scale, padding = lookup_scale(embedding), embedding.padding_idx
    assert scale is not None  # noqa: S101  # other embeddings are refused
    scaled = values if scale == 1 else scale * values
    return scaled if padding is None else scaled.masked_fill((tokens == padding)[..., None], 0)


def token_embeddings(model: PreTrainedModel) -> tuple[AttributedLayer, ...]:
    """Return the layers of a model's words: one if embedding and head share their weight, else one for each.

    A module that computes something else than an embedding or a linear layer does is left out.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    looks_up = embedding if lookup_scale(embedding) is not None else None
    speaks = head if isinstance(head, nn.Module) and computes_like(head, nn.Linear) else None
    if looks_up is not None and speaks is not None and looks_up.weight is speaks.weight:
        views = [(looks_up, TokenEmbedding(looks_up, speaks))]
    else:
        alone = [(looks_up, TokenEmbedding(looks_up, None))] if looks_up is not None else []
        views = [*alone, *([(speaks, TokenEmbedding(None, speaks))] if speaks is not None else [])]
    names = {module: name for name, module in model.named_modules()}
    return tuple(AttributedLayer(names[module], view, LAYER_RULE) for module, view in views)


def lookup_scale(module: object) -> float | None:
    """Return s if a module returns s · weight[token] for each token; None if it computes something else.

    Some models multiply embeddings by a constant where they look them up. Without data, nothing can be tried, and the
    scale matters to no shape.
    """
    if not isinstance(module, nn.Embedding) or module.max_norm is not None or module.scale_grad_by_freq:
        return None
    if type(module).forward is nn.Embedding.forward or isinstance(module.weight, FakeTensor):
        return 1.0
    if module not in _scales:
        tokens = torch.arange(min(8, len(module.weight)), device=module.weight.device)
        with torch.no_grad():
            found, rows = in_float64(module(tokens)), in_float64(module.weight[tokens])
        scale = float((found * rows).sum() / rows.square().sum())
        rounding = torch.finfo(module.weight.dtype).eps
        is_scaled = found.shape == rows.shape and torch.allclose(found, scale * rows, rtol=4 * rounding, atol=0)
        _scales[module] = scale if is_scaled else None
    return _scales[module]


_scales: WeakKeyDictionary[nn.Module, float | None] = WeakKeyDictionary()


LAYER_RULE = Embedding()
