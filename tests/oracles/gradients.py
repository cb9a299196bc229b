"""Per-sequence gradients, likelihoods and dense curvature, by plain autograd, one sequence at a time."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from influence_assets.capture.batches import Sequences
from influence_assets.models.layers.rule import AttributedLayer


def log_likelihood(model: PreTrainedModel, tokens: Tensor, first: int) -> Tensor:
    """Σ log p(token_t | before) for t from `first`, of one unpadded sequence."""
    logits = model(input_ids=tokens[None]).logits[0]
    total = logits.new_zeros(())
    for t in range(first, len(tokens)):
        total = total + logits[t - 1].log_softmax(-1)[tokens[t]]
    return total


def sequence_gradient(modules: tuple[AttributedLayer, ...], objective: Tensor) -> dict[str, Tensor]:
    """The gradient of a scalar with respect to each module's [d_out, d_in] matrix, its bias last."""
    parameters = [dict(linear.module.named_parameters(recurse=False)) for linear in modules]
    gradients = iter(torch.autograd.grad(objective, [p for named in parameters for p in named.values()]))
    by_name = [{name: next(gradients) for name in named} for named in parameters]
    return {linear.name: linear.as_matrix(named) for linear, named in zip(modules, by_name, strict=True)}


class Unfrozen:
    """Parameters of the modules require gradients inside, as autograd's oracle needs them."""

    def __init__(self, modules: tuple[AttributedLayer, ...]) -> None:
        self._parameters = [p for linear in modules for p in linear.module.parameters(recurse=False)]

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)

    def __exit__(self, *_: object) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)


def gradients(
    model: PreTrainedModel, modules: tuple[AttributedLayer, ...], sequences: Sequences, *, sign: float
) -> tuple[dict[str, Tensor], Tensor]:
    """For each module [sequence, d_out, d_in] of sign · log-likelihood, and the log-likelihoods."""
    rows, values = [], []
    with Unfrozen(modules):
        for index in range(len(sequences)):
            tokens = torch.from_numpy(sequences.tokens[index, : sequences.lengths[index]].astype("int64"))
            first = 1 if sequences.first_scored is None else int(sequences.first_scored[index])
            value = log_likelihood(model, tokens, first)
            rows.append(sequence_gradient(modules, sign * value))
            values.append(value.detach())
    stacked = {linear.name: torch.stack([row[linear.name] for row in rows]) for linear in modules}
    return stacked, torch.stack(values)
