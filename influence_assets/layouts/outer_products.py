"""The layout of query gradients: by layer the outer products of each query's tokens, or V where that is smaller.

Arrays of a layer have the rows of all queries, one query after the other: `layer.L` and `layer.R` [row, width] the
outer products, `layer.V` [query, d_out, d_in] the gradients that are stored in full. An array without rows is left out.
How many rows a query has in L and R is in `ranks` [layer, query].

Of a layer with a row for each word, `layer.X` [row, d_in] are vectors that are added to single rows of V, and
`layer.rows` which ones. How many a query has is in `own_rows` [layer, query], which is left out if none has any.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from influence_assets.capture.gradients import QueryOuterProducts
from influence_assets.layouts.factors import layers_of
from influence_assets.maths.curvature import Curvature
from influence_assets.maths.notation import in_float64
from influence_assets.maths.outer_products import GradientParts, OuterProducts, truncated
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.arrays import RowWriter
from influence_assets.storage.artifacts.drafts import Draft

LARGEST_QUERY_BYTES = 20 * 10**6
"""Bytes of a query's outer products over all layers, above which they are truncated."""

LOWEST_RANK = 24
"""The rank that a gradient keeps however many layers there are."""

IN_FULL = -1
"""The rank in `ranks` of a gradient that is stored as V."""


def stored_numbers(outer_products: float, d_out: int, d_in: int) -> float:
    """Return how many numbers of a layer's gradient are stored: of its outer products, or of V if those are fewer."""
    return min(outer_products * (d_out + d_in), d_out * d_in)


def stored_bytes(
    outer_products: float | Sequence[float], shapes: Sequence[tuple[int, int]], itemsize: int, rank: int | None
) -> float:
    """Return the bytes of a query's stored gradient over all layers.

    Args:
        outer_products: how many of them each layer's gradient has, or a number for all layers.
        shapes: d_out and d_in of each layer.
        itemsize: bytes of a number.
        rank: the largest rank of a gradient; None: as `fitting_rank` says.
    """
    of_layers = [outer_products] * len(shapes) if isinstance(outer_products, int | float) else outer_products
    if rank is None:
        rank = fitting_rank(of_layers, shapes, itemsize)
    counts = of_layers if rank is None else [min(count, rank) for count in of_layers]
    return itemsize * sum(stored_numbers(count, *shape) for count, shape in zip(counts, shapes, strict=True))


def fitting_rank(outer_products: Sequence[float], shapes: Sequence[tuple[int, int]], itemsize: int) -> int | None:
    """Return the largest rank at which a query's gradient takes at most `LARGEST_QUERY_BYTES`, or the lowest rank.

    None if nothing is to be truncated; arguments as in `stored_bytes`.
    """
    most = math.ceil(max(outer_products, default=0))
    if most <= LOWEST_RANK or stored_bytes(outer_products, shapes, itemsize, most) <= LARGEST_QUERY_BYTES:
        return None
    fitting = bisect_right(
        range(LOWEST_RANK, most),
        LARGEST_QUERY_BYTES,
        key=lambda rank: math.ceil(stored_bytes(outer_products, shapes, itemsize, rank)),
    )
    return LOWEST_RANK + max(0, fitting - 1)


def outer_product_bytes(tokens: float, shapes: Sequence[tuple[int, int]], itemsize: int) -> int:
    """Return the most bytes of a query's outer products over all layers, before any are truncated.

    Args:
        tokens: the query's tokens.
        shapes: d_out and d_in of each layer.
        itemsize: bytes of a number.
    """
    return math.ceil(tokens * itemsize * sum(map(sum, shapes)))


class GradientWriter:
    """A writer of the gradients of queries, chunk after chunk.

    Args:
        draft: the artifact that is being written.
        curvature: the curvature of every layer, in the model's order.
        rank: the largest rank of a gradient; None truncates those alone that take more than `LARGEST_QUERY_BYTES`.
    """

    def __init__(self, draft: Draft, curvature: Mapping[str, Curvature], rank: int | None) -> None:
        self._draft = draft
        self._curvature = curvature
        self._rank = rank
        self._arrays: dict[str, RowWriter] = {}
        self._ranks: list[list[int]] = []
        self._own_rows: list[list[int]] = []
        self.norms: list[float] = []
        """‖∇f‖ of each query over all layers, before its gradient is truncated."""
        self.squared_norms: list[float] = []
        """∇fᵀ (G+λI)⁻¹ ∇f of each query over all layers, before its gradient is truncated."""
        self.truncation_errors: list[float] = []
        """√(‖V − V_r‖² / ‖V‖²) of each query in the norm of the damped inverse over all layers; 0 if V is stored."""

    def append(self, gradients: QueryOuterProducts) -> None:
        """Write the gradients of the next queries."""
        for number in range(len(gradients.log_probabilities)):
            self._append({name: of_layer[number] for name, of_layer in gradients.layers.items()})

    def _append(self, layers: Mapping[str, OuterProducts]) -> None:
        highest, ranks, own_rows, squares = self._highest_rank(layers), [], [], []
        whole: list[Tensor] = []
        lost: list[Tensor] = []
        for name, layer in self._curvature.items():
            products = layers[name]
            V = products.sum()
            squares.append(in_float64(V).square().sum())
            whole.append(layer.squared_norm(V))
            rows = len(products) if highest is None else min(len(products), highest)
            own_rows.append(0)
            if stored_numbers(rows, *layer.shape) == V.numel():
                self._write(f"{name}.V", V[None])
                ranks.append(IN_FULL)
                continue
            if products.indices is not None and products.X is not None:
                self._write(f"{name}.rows", products.indices)
                self._write(f"{name}.X", products.X)
                own_rows[-1] = len(products.X)
            if rows < len(products):
                products = truncated(products, layer, rows)
                lost.append(layer.squared_norm(V - products.sum()))
            self._write(f"{name}.L", products.L)
            self._write(f"{name}.R", products.R)
            ranks.append(rows)
        self._ranks.append(ranks)
        self._own_rows.append(own_rows)
        self.norms.append(math.sqrt(_total(squares)))
        self.squared_norms.append(_total(whole))
        error = _total(lost)
        self.truncation_errors.append(math.sqrt(error / self.squared_norms[-1]) if error else 0.0)

    def _highest_rank(self, layers: Mapping[str, OuterProducts]) -> int | None:
        if self._rank is not None:
            return self._rank
        shapes = [layer.shape for layer in self._curvature.values()]
        itemsize = max((products.L.element_size() for products in layers.values()), default=0)
        return fitting_rank([len(layers[name]) for name in self._curvature], shapes, itemsize)

    def _write(self, name: str, rows: Tensor) -> None:
        values = rows.cpu().numpy()
        if name not in self._arrays and len(values):
            self._arrays[name] = self._draft.growing_array(name, values.shape[1:], values.dtype, sharded=False)
        if len(values):
            self._arrays[name].append(values)

    def finish(self) -> None:
        """Write how many rows the queries have."""
        ranks, own_rows = (
            np.ascontiguousarray(np.array(counts, np.int32).reshape(-1, len(self._curvature)).T)
            for counts in (self._ranks, self._own_rows)
        )
        self._draft.array("ranks", ranks)
        if own_rows.any():
            self._draft.array("own_rows", own_rows)


class StoredGradients:
    """The stored gradients of a query set.

    Args:
        artifact: the query set's artifact of `query_gradients`.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        ranks = artifact.array("ranks")
        own_rows = artifact.array("own_rows") if "own_rows" in artifact.array_names() else np.zeros_like(ranks)
        self._ranks, self._own_rows = (dict(zip(layers_of(artifact), of, strict=True)) for of in (ranks, own_rows))

    def of_layer(
        self, layer: str, rows: slice, shape: tuple[int, int], dtype: torch.dtype, device: str | torch.device = "cpu"
    ) -> Tensor:
        """Return V of some queries in the coordinates of a layer's basis, [query, d_out, d_in].

        Args:
            layer: the layer's name.
            rows: the queries.
            shape: d_out and d_in.
            dtype: the dtype of the result.
            device: its device.
        """
        return self.parts_of_layer(layer, rows, shape, dtype, device).sums()

    def parts_of_layer(
        self, layer: str, rows: slice, shape: tuple[int, int], dtype: torch.dtype, device: str | torch.device = "cpu"
    ) -> GradientParts:
        """Return what V of some queries is the sum of, in memory; arguments as in `of_layer`."""
        ranks = self._ranks[layer]
        like = torch.zeros(0, *shape, dtype=dtype, device=device)
        is_full, counts = ranks == IN_FULL, np.maximum(ranks, 0)
        whole = zip(np.flatnonzero(is_full[rows]), self._read(f"{layer}.V", is_full, rows, like), strict=True)
        parts: dict[int, Tensor | OuterProducts] = {int(query): V for query, V in whole}
        L, R = (
            torch.split(self._read(f"{layer}.{letter}", counts, rows, like), counts[rows].tolist()) for letter in "LR"
        )
        own = self._own_rows[layer]
        X, indices = (
            torch.split(self._read(f"{layer}.{name}", own, rows, of), own[rows].tolist())
            for name, of in (("X", like), ("rows", like.new_zeros(0, dtype=torch.long)))
        )
        for query in np.flatnonzero(counts[rows] + own[rows]).tolist():
            of_rows = (indices[query], X[query]) if own[rows][query] else ()
            parts[query] = OuterProducts(_of_width(L[query], shape[0]), _of_width(R[query], shape[1]), *of_rows)
        return GradientParts(len(ranks[rows]), parts, like)

    def outer_products(self, rows: slice, shapes: Mapping[str, tuple[int, int]]) -> dict[str, float]:
        """Return how many outer products V of some queries has, on average, by layer.

        V that is stored in full, and vectors of single rows, count as that many which have as many numbers.

        Args:
            rows: the queries.
            shapes: d_out and d_in of each layer.
        """
        means = {}
        for name, (d_out, d_in) in shapes.items():
            ranks, own_rows = self._ranks[name][rows], self._own_rows[name][rows]
            of_parts = ranks + own_rows * d_in / (d_out + d_in)
            counts = np.where(ranks == IN_FULL, d_out * d_in / (d_out + d_in), of_parts)
            means[name] = float(counts.mean()) if counts.size else 0.0
        return means

    def _read(self, name: str, counts: np.ndarray, rows: slice, like: Tensor) -> Tensor:
        """Return the rows of some queries in an array that has `counts` [query] rows of each query."""
        start, count = int(counts[: rows.start].sum()), int(counts[rows].sum())
        if not count:  # there may be no such array
            return like.new_zeros(0, 0)
        return torch.from_numpy(np.ascontiguousarray(self._artifact.rows(name, start, start + count))).to(like)


def _of_width(rows: Tensor, width: int) -> Tensor:
    """Return rows; if there are none, as many numbers wide as they would be."""
    return rows if len(rows) else rows.new_zeros(0, width)


def _total(values: Sequence[Tensor]) -> float:
    return float(torch.stack([value.cpu() for value in values]).sum()) if values else 0.0
