"""Gradients of queries' log-probabilities, layer by layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.hooks import Consumer
from influence_assets.capture.runner import Runner
from influence_assets.maths.curvature import Basis
from influence_assets.maths.gradient_terms import GradientTerms
from influence_assets.maths.notation import accumulation_dtype
from influence_assets.maths.outer_products import OuterProducts
from influence_assets.models.layers.rule import AttributedLayer

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class QueryGradients:
    """∇f of every query, layer by layer, and f itself.

    Args:
        layers: [query, d_out, d_in] for each layer; Q_Sᵀ ∇f Q_A if bases were given.
        log_probabilities: float64 [query]: f = log p(completion given prompt), in nats.
    """

    layers: dict[str, Tensor]
    log_probabilities: np.ndarray


def query_gradients(runner: Runner, queries: Sequences, bases: Mapping[str, Basis] | None = None) -> QueryGradients:
    """Return the gradient of each completion's log-probability given its prompt.

    Args:
        runner: runs the model.
        queries: the queries, with the starts of their completions.
        bases: the eigenbases of every layer, to return the gradients in them; rotating a query's tokens takes fewer
            operations than rotating its gradient later.
    """
    layers: dict[str, Tensor] = {}
    if not len(queries):
        none = torch.zeros(0, dtype=accumulation_dtype(runner.dtype), device=runner.device)
        layers = {m.name: none.new_zeros(0, m.output_width, m.input_width) for m in runner.modules}
    if bases is not None:
        bases = runner.placed(bases)

    def consumer(batch: Batch) -> Consumer:
        rows = torch.from_numpy(batch.rows).to(runner.device, non_blocking=True)
        first, last = int(batch.rows[0]), int(batch.rows[-1])
        rows_are_consecutive = bool((np.diff(batch.rows) == 1).all())

        def consume(linear: AttributedLayer, terms: GradientTerms) -> None:
            if linear.name not in layers:
                shape = len(queries), linear.output_width, linear.input_width
                layers[linear.name] = terms.a.new_empty(shape, device=runner.device)
            whole = layers[linear.name]
            out = whole[first : last + 1] if rows_are_consecutive and whole.device == terms.a.device else None
            gradients = terms.gradients(None if bases is None else bases[linear.name], out=out)
            if out is None:
                whole.index_copy_(0, rows, gradients.to(runner.device))

        return consume

    likelihoods = runner.run(queries, consumer, sign=+1.0)
    return QueryGradients(layers, likelihoods)


@dataclass(frozen=True)
class QueryOuterProducts:
    """∇f of every query, layer by layer, as the outer products of its tokens, and f itself.

    Args:
        layers: for each layer the outer products of each query, in the coordinates of its basis: one for each token at
            which the gradient of the layer's output is not zero.
        log_probabilities: float64 [query]: f, as in `QueryGradients`.
    """

    layers: dict[str, list[OuterProducts]]
    log_probabilities: np.ndarray


def query_outer_products(runner: Runner, queries: Sequences, bases: Mapping[str, Basis]) -> QueryOuterProducts:
    """Return the gradients that `query_gradients` returns, before their sums over tokens.

    Tokens without a part in a gradient are left out: padding, the last token, in the last layers those of the prompt,
    and those that an expert does not see.

    Args:
        runner: runs the model.
        queries: the queries, with the starts of their completions.
        bases: the eigenbases of every layer.
    """
    layers, likelihoods = _outer_products(runner, queries, bases, lambda products: products)
    return QueryOuterProducts(layers, likelihoods)


def gradients_in_parts(
    runner: Runner, sequences: Sequences, bases: Mapping[str, Basis]
) -> dict[str, list[OuterProducts | Tensor]]:
    """Return each layer's gradients of log-likelihoods, as outer products, or summed where that has fewer numbers.

    Args:
        runner: runs the model.
        sequences: the sequences.
        bases: the eigenbases of every layer.
    """

    def smaller(products: OuterProducts) -> OuterProducts | Tensor:
        d_out, d_in = products.L.shape[1], products.R.shape[1]
        return products if len(products) * (d_out + d_in) < d_out * d_in else products.sum()

    return _outer_products(runner, sequences, bases, smaller)[0]


def _outer_products(
    runner: Runner, queries: Sequences, bases: Mapping[str, Basis], keep: Callable[[OuterProducts], Kept]
) -> tuple[dict[str, list[Kept]], np.ndarray]:
    """Return what is kept of each layer's outer products of each query, and log-likelihoods."""
    layers: dict[str, list[Kept | None]] = {m.name: [None] * len(queries) for m in runner.modules}
    bases = runner.placed(bases)

    def consumer(batch: Batch) -> Consumer:
        def consume(linear: AttributedLayer, terms: GradientTerms) -> None:
            for query, products in zip(batch.rows, terms.outer_products(bases[linear.name]), strict=True):
                layers[linear.name][query] = keep(products.to(runner.device))

        return consume

    likelihoods = runner.run(queries, consumer, sign=+1.0)
    return {n: [V for V in each if V is not None] for n, each in layers.items()}, likelihoods
