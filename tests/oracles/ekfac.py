"""EK-FAC scores of a whole corpus from dense pieces: one sequence at a time, factors by plain loops, dense inverse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from influence_assets.models.layers.rule import AttributedLayer
from tests.oracles.gradients import Unfrozen, log_likelihood, sequence_gradient


@dataclass(frozen=True)
class Text:
    """A training sequence or a question: int64 tokens, the first that is scored, and the number that seeds labels."""

    tokens: Tensor
    first: int = 1
    key: int = 0


def sampled_labels(model: PreTrainedModel, text: Text, seed: int) -> list[int]:
    """For each position t < T − 1 the first word whose cumulative probability exceeds the t-th number of its stream."""
    logits = model(input_ids=text.tokens[None]).logits[0].detach()
    stream = np.random.Generator(np.random.Philox(key=(seed, text.key)))
    labels = []
    for position in range(len(text.tokens) - 1):
        probabilities = logits[position].softmax(-1)
        u = stream.random() * float(probabilities.sum())
        word, cumulative = 0, float(probabilities[0])
        while cumulative <= u:
            word += 1
            cumulative += float(probabilities[word])
        labels.append(word)
    return labels


def label_likelihood(model: PreTrainedModel, text: Text, labels: Sequence[int | None]) -> Tensor:
    """Σ_t log p(label_t | tokens up to t) over the positions that have a label."""
    logits = model(input_ids=text.tokens[None]).logits[0]
    total = 0 * logits[0, 0]
    for position, label in enumerate(labels):
        if label is not None:
            total = total + logits[position].log_softmax(-1)[label]
    return total


class Recorder:
    """Keeps every layer's input and output of the passes inside, the outputs with their gradients."""

    def __init__(self, modules: Sequence[AttributedLayer]) -> None:
        self._modules = modules
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}

    def __enter__(self) -> "Recorder":
        self._handles = [m.module.register_forward_hook(self._keep(m)) for m in self._modules]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, linear: AttributedLayer):
        def keep(_module, inputs, output):
            output.retain_grad()
            self.seen[linear.name] = (inputs[0].detach()[0], output)

        return keep


@dataclass(frozen=True)
class Dense:
    """The curvature of one layer as one matrix over its d_out · d_in parameters, rows of [d_out, d_in] one by one."""

    G: Tensor
    damping: float


def dense_curvature(
    model: PreTrainedModel,
    modules: Sequence[AttributedLayer],
    texts: Sequence[Text],
    labels: Sequence[Sequence[int | None]],
    scale: float,
) -> Mapping[str, Dense]:
    """Q diag(Λ) Qᵀ of every layer, with Q = Q_S ⊗ Q_A, and λ = scale · mean(Λ); a label None does not count."""
    A = {m.name: torch.zeros(m.input_width, m.input_width, dtype=torch.float64) for m in modules}
    S = {m.name: torch.zeros(m.output_width, m.output_width, dtype=torch.float64) for m in modules}
    counted = 0
    gradients = []
    with Unfrozen(tuple(modules)):
        for text, drawn in zip(texts, labels, strict=True):
            with Recorder(modules) as recorder:
                loss = -label_likelihood(model, text, drawn)
                loss.backward(retain_graph=True)
            for linear in modules:
                x, y = recorder.seen[linear.name]
                for position in (p for p, label in enumerate(drawn) if label is not None):  # the last has none
                    a, Ds = x[position], y.grad[0, position]
                    if linear.module.bias is not None:
                        a = torch.cat([a, torch.ones(1, dtype=a.dtype)])
                    A[linear.name] += torch.outer(a, a)
                    S[linear.name] += torch.outer(Ds, Ds)
            counted += sum(label is not None for label in drawn)
            if any(label is not None for label in drawn):
                gradients.append(sequence_gradient(tuple(modules), loss))
            model.zero_grad(set_to_none=True)
    dense = {}
    for linear in modules:
        Q_A = torch.linalg.eigh(A[linear.name] / counted).eigenvectors
        Q_S = torch.linalg.eigh(S[linear.name] / counted).eigenvectors
        Q = torch.kron(Q_S, Q_A)
        squares = torch.stack([(Q.T @ G[linear.name].reshape(-1)).square() for G in gradients])
        eigenvalues = squares.mean(0)
        dense[linear.name] = Dense(Q @ torch.diag(eigenvalues) @ Q.T, scale * float(eigenvalues.mean()))
    return dense


def loss_gradients(
    model: PreTrainedModel, modules: Sequence[AttributedLayer], texts: Sequence[Text], *, sign: float
) -> tuple[list[dict[str, Tensor]], list[float]]:
    """For each text the gradient of sign · log-likelihood of its own tokens from `first` on, and that likelihood."""
    gradients, values = [], []
    with Unfrozen(tuple(modules)):
        for text in texts:
            value = log_likelihood(model, text.tokens, text.first)
            gradients.append(sequence_gradient(tuple(modules), sign * value))
            values.append(float(value.detach()))
    return gradients, values


def scores(
    curvature: Mapping[str, Dense], queries: Sequence[Mapping[str, Tensor]], sequences: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """−∇fᵀ (G + λI)⁻¹ ∇L / N of each layer, [query, sequence], with N the number of sequences."""
    found = {}
    for name, layer in curvature.items():
        damped = layer.G + layer.damping * torch.eye(len(layer.G), dtype=torch.float64)
        f = torch.stack([gradient[name].reshape(-1) for gradient in queries])
        L = torch.stack([gradient[name].reshape(-1) for gradient in sequences])
        found[name] = -f @ torch.linalg.solve(damped, L.T) / len(sequences)
    return found
