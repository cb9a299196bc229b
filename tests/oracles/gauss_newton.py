"""The Gauss-Newton Hessian as one dense matrix over the matrices of several layers, by torch.func."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from influence_assets.capture.batches import Sequences
from influence_assets.models.layers.rule import AttributedLayer


def dense_gauss_newton(
    model: PreTrainedModel, layers: Sequence[AttributedLayer], shards: Iterable[Sequences]
) -> Tensor:
    """E_sequence[Σ_t J_tᵀ (diag p − p pᵀ) J_t] over the layers' matrices, row by row, one layer after another."""
    names = {id(p): n for n, p in model.named_parameters()}
    sizes = [layer.parameters for layer in layers]
    total, count = torch.zeros(sum(sizes), sum(sizes), dtype=torch.float64), 0
    matrices = [layer.as_matrix(dict(layer.module.named_parameters())) for layer in layers]
    at = torch.cat([matrix.flatten() for matrix in matrices])

    def logits(flat: Tensor, tokens: Tensor) -> Tensor:
        replaced = {}
        for layer, part in zip(layers, torch.split(flat, sizes), strict=True):
            matrix = part.view(layer.output_width, layer.input_width)
            own = dict(layer.module.named_parameters())
            if "bias" in own:
                replaced[names[id(own["bias"])]], matrix = matrix[:, -1], matrix[:, :-1]
            # GPT-2 stores its weights the other way round; a square one would be ambiguous.
            is_as_given = type(layer.module) is torch.nn.Linear or layer.outputs != "factor"
            is_own_layout = own["weight"].shape == matrix.shape and is_as_given
            replaced[names[id(own["weight"])]] = matrix if is_own_layout else matrix.T
        return torch.func.functional_call(model, replaced, (tokens,), {"use_cache": False}).logits[0, :-1]

    for sequences in shards:
        for row, length in zip(sequences.tokens, sequences.lengths, strict=True):
            tokens = torch.from_numpy(row[None, :length].astype("int64"))
            J = torch.func.jacrev(logits)(at, tokens)  # [token, word, parameter]
            p = logits(at, tokens).softmax(-1)
            H = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
            total += torch.einsum("twx,twv,tvy->xy", J, H, J)
            count += 1
    return total / count
