"""Exact products with the joint Gauss-Newton Hessian of all attributed layers.

    G = E_sequence[Σ_t J_tᵀ (diag p_t − p_t p_tᵀ) J_t]

with J_t the derivative of the logits at position t with respect to the layers' matrices, and p_t their softmax
(Martens 2020, Sec. 8). EK-FAC approximates its diagonal blocks, one for each layer; here nothing is approximated, and
layers are not independent.

Moving every layer's matrix along V adds V a to the layer's output. Forward-mode differentiation carries that to the
logits, as J V. Multiplied by the matrix in the middle, it goes backward as any gradient does.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.hooks import LayerTap
from influence_assets.capture.runner import Runner
from influence_assets.maths.curvature import Basis
from influence_assets.maths.gradient_terms import GradientTerms
from influence_assets.maths.notation import accumulation_dtype
from influence_assets.models.layers.rule import AttributedLayer, Handle


def gauss_newton_products(
    runner: Runner, shards: Iterable[Sequences], V: Mapping[str, Tensor], bases: Mapping[str, Basis]
) -> dict[str, Tensor]:
    """Return G V for every layer, [vector, d_out, d_in], in the coordinates of the bases as V is.

    Every sequence goes forward and backward once for each vector.

    Args:
        runner: runs the model.
        shards: the sequences that G is the mean over.
        V: the vectors, for every layer.
        bases: the basis of every layer.

    Raises:
        ValueError: there are no sequences.
    """
    placed = runner.placed(bases)
    vectors = {name: placed[name].rotate_back(v.clone()) for name, v in runner.placed(V).items()}
    totals = {name: torch.zeros_like(v) for name, v in vectors.items()}
    count = 0
    for sequences in shards:
        count += int((sequences.counted_tokens() > 0).sum())
        for batch in runner.batches(sequences, by_length=True):
            for index, product in enumerate(_batch_products(runner, batch, vectors, placed)):
                for name, added in product.items():
                    totals[name][index] += added
    if not count:
        raise ValueError("the Gauss-Newton Hessian is a mean over sequences, and there are none")
    return {name: (total / count).to(runner.device) for name, total in totals.items()}


def _batch_products(
    runner: Runner, batch: Batch, vectors: Mapping[str, Tensor], bases: Mapping[str, Basis]
) -> Iterator[dict[str, Tensor]]:
    """Yield the sum over a batch for each vector: the vector in the model's coordinates, the sum in the bases'."""
    product: dict[str, Tensor] = {}

    def consume(layer: AttributedLayer, terms: GradientTerms) -> None:
        product[layer.name] = terms.joined().gradients(bases[layer.name])[0]

    last = len(next(iter(vectors.values()))) - 1
    with LayerTap(runner.modules) as tap:
        tap.start(batch.tokens)
        logits = runner.model(input_ids=batch.tokens, use_cache=False).logits
        for index in range(last + 1):
            moved = _moved_logits(runner, batch, {name: V[index] for name, V in vectors.items()})
            with tap.consuming(consume):
                logits.backward(_curved(logits.detach(), moved, batch), retain_graph=index < last)
            yield dict(product)


def _moved_logits(runner: Runner, batch: Batch, V: Mapping[str, Tensor]) -> Tensor:
    """Return J V, the change of the logits when the layers' matrices move along V."""
    # Fused attention kernels do not support forward-mode differentiation.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        moves = [
            _move(layer, side, V[layer.name], batch)
            for layer in runner.modules
            for side in layer.rule.sides(layer.module)
        ]
        try:
            logits = runner.model(input_ids=batch.tokens, use_cache=False).logits
        finally:
            for move in moves:
                move.remove()
        tangent: Tensor = _unpacked(logits).tangent
        return tangent


def _move(layer: AttributedLayer, side: str, V: Tensor, batch: Batch) -> Handle:
    """Add V a to the tangent of the layer's output on a side, laid out as the layer rule lays out Ds."""
    rule, module, shape = layer.rule, layer.module, (batch.tokens.shape[0], batch.tokens.shape[1])

    def output_gradients(gradient: Tensor) -> Tensor:
        laid_out = rule.by_sequence(module, gradient, shape)
        assert laid_out is not None  # noqa: S101  # the tap has refused such layers
        return rule.output_gradients(module, laid_out)

    def see(x: Tensor, output: Tensor) -> Tensor:
        laid_out = rule.by_sequence(module, _unpacked(x).primal, shape)
        assert laid_out is not None  # noqa: S101  # the tap has refused such layers
        change = rule.output_change(module, side, laid_out, V)
        adjoint = torch.func.vjp(output_gradients, torch.zeros_like(_unpacked(output).primal))[1]
        (tangent,) = adjoint(change.to(output.dtype))
        return output.add_(forward_ad.make_dual(torch.zeros_like(tangent), tangent))  # type: ignore[no-untyped-call]

    return rule.attach_side(module, side, see)


def _curved(logits: Tensor, moved: Tensor, batch: Batch) -> Tensor:
    """Return (diag p − p pᵀ) J V at the positions that carry a loss, 0 elsewhere."""
    positions = batch.positions.to(logits.device)
    rows, along = (part.flatten(0, 1)[positions] for part in (logits, moved))
    p = rows.softmax(-1, dtype=accumulation_dtype(rows.dtype))
    curved = p * (along - (p * along).sum(-1, keepdim=True))
    spread = torch.zeros_like(logits).flatten(0, 1).index_copy_(0, positions, curved.to(logits.dtype))
    return spread.view_as(logits)


def _unpacked(values: Tensor) -> Any:
    """Return the value and the tangent of a tensor."""
    return forward_ad.unpack_dual(values)  # type: ignore[no-untyped-call]
