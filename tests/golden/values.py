"""What an artifact holds, in a form that does not depend on the processor; and how two such forms differ.

Numbers are compared to 1e-9 of the largest number beside them, texts and whole numbers exactly. An eigenvector is
known up to its sign alone, so that nothing is compared in an eigenbasis as it lies:

- bases as what they were decomposed from, Q diag(eigenvalues) Qᵀ;
- query gradients rotated back;
- what drift is computed from, of which only the signs depend on them, as sums of absolute values;
- sketches as if the largest component of every eigenvector were positive. A coordinate next to zero may have either
  sign, so that one bit in five hundred may differ.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import duckdb
import numpy as np
import polars as pl

from tests.golden.package import Artifact

TOLERANCES = {"float64": 1e-9, "float32": 1e-5}
"""By which share of the largest number beside it a number may differ, by the type that it was computed in."""

ROUNDED = 2e-4
"""By how much a figure may differ that is rounded to four digits."""

DIFFERING_BITS = 1 / 500

OF_THE_RUN = frozenset(
    {
        "catalogue_bytes", "content_version", "created_at", "folder", "identity", "model_path", "path", "removed_at",
    }
)  # fmt: skip
"""Figures and columns that differ from one run, or folder, to the next."""

OF_VERSIONS = frozenset(
    {
        "document_key", "fitted_shards", "inserted_rows", "loaded_artifacts", "materialization_id", "query_key",
        "removed_artifacts", "tokenizer_hash", "unchanged_artifacts",
    }
)  # fmt: skip
"""Those that follow from data versions, or from how a library's present release hashes or writes."""

OF_RUNS_AND_VERSIONS = OF_THE_RUN | OF_VERSIONS

OF_PARQUET = frozenset({"content_hash", "source_bytes"})
"""Those of a Parquet file, whose bytes are those of the library that wrote it."""

FOR_PEOPLE = frozenset({"rotated", "coordinates_hash"})
"""Figures on how the work was done, on which no result depends."""

LINEAGE = frozenset({"catalogue", "materializations", "materialization_inputs", "partition_states"})
"""Tables of the catalogue that are about artifacts, not about what they hold."""

SUMMED = 32
"""So many neighbouring numbers of a shard's drift statistics are summed."""

Values = dict[str, Any]
Basis = Mapping[str, np.ndarray]
"""Q_S, Q_A and their eigenvalues of all layers, by the names of their arrays."""


def values_of(artifacts: Iterable[Artifact]) -> dict[str, dict[str, Values]]:
    """What artifacts of one study hold, by asset and partition; of assets without partitions it is the empty one."""
    by_asset: dict[str, list[Artifact]] = {}
    for artifact in artifacts:
        by_asset.setdefault(artifact.key.asset, []).append(artifact)
    (bases,), (curvature,) = by_asset["eigenbases"], by_asset["curvature"]
    basis = _arrays(bases)
    special: dict[str, Callable[[Artifact], Values]] = {
        "eigenbases": lambda _artifact: recomposed(basis),
        "corrected_eigenvalues": lambda artifact: _with_summed_drift(_arrays(artifact)),
        "drift_statistics": lambda artifact: _with_summed_drift(_arrays(artifact)),
        "query_gradients": lambda artifact: rotated_back(_arrays(artifact), basis),
        "gradient_sketches": lambda artifact: {
            "scales": artifact.array("scales"),
            "bits": canonical_bits(artifact.array("signs"), basis, _arrays(curvature), curvature.manifest.summary),
        },
    }
    return {
        asset: {
            artifact.key.partition or "": {
                "summary": _summary(artifact),
                "tables": {name: _columns(artifact, name) for name in sorted(artifact.manifest.rows)},
                "arrays": {
                    name: _numbers(values) for name, values in sorted(special.get(asset, _arrays)(artifact).items())
                },
            }
            for artifact in sorted(of_asset, key=lambda artifact: artifact.key.partition or "")
        }
        for asset, of_asset in by_asset.items()
    }


def catalogue_tables(path: str) -> Values:
    """The rows of the catalogue's tables, by column, in an order of their own."""
    tables: Values = {}
    with duckdb.connect(path, read_only=True) as connection:
        found = connection.execute("select table_name from duckdb_tables() where not internal").fetchall()
        # Scores are stored by the query's key; the views have its name.
        names = {name for (name,) in found} - LINEAGE - {"influence_scores", "part_scores", "self_influence_parts"}
        names |= {"current_scores", "current_scores_by_document"}
        for name in sorted(names):
            frame = connection.sql(f"from {name}").pl()
            kept = [column for column in frame.columns if column not in OF_RUNS_AND_VERSIONS | OF_PARQUET]
            exact = [column for column in kept if not frame.schema[column].is_float()]
            tables[name] = _plain_columns(frame.select(kept).sort(exact, nulls_last=True))
    return tables


def _arrays(artifact: Artifact) -> dict[str, np.ndarray]:
    return {name: artifact.array(name) for name in artifact.array_names()}


def recomposed(basis: Basis) -> dict[str, np.ndarray]:
    """Q diag(eigenvalues) Qᵀ of every factor, which is what was decomposed."""
    factors = {}
    for name, Q in basis.items():
        layer, is_basis, letter = name.rpartition(".Q_")
        if is_basis:
            factors[f"{layer}.{letter}"] = (Q * basis[f"{layer}.eigenvalues_{letter}"]) @ Q.T
    return factors


def rotated_back(arrays: Mapping[str, np.ndarray], basis: Basis) -> dict[str, np.ndarray]:
    """Query gradients in the model's coordinates: Q_S V Q_Aᵀ, and the rows of outer products, L Q_Sᵀ and R Q_Aᵀ."""
    rotated = {}
    for name, values in arrays.items():
        layer, _, letter = name.rpartition(".")
        if letter in ("L", "R"):
            values = values @ basis[f"{layer}.Q_{'S' if letter == 'L' else 'A'}"].T
        elif layer:  # V, and P of methods; ranks are of no layer
            values = basis[f"{layer}.Q_S"] @ values @ basis[f"{layer}.Q_A"].T
        rotated[name] = values
    return rotated


def _with_summed_drift(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    # Of narrow layers the sketch is every entry off the diagonal, whose sign is that of two eigenvectors.
    if "drift" not in arrays:
        return arrays
    statistics = np.abs(arrays["drift"])
    return {**arrays, "drift": np.add.reduceat(statistics, np.arange(0, statistics.shape[-1], SUMMED), axis=-1)}


def canonical_bits(
    signs: np.ndarray, basis: Basis, curvature: Mapping[str, np.ndarray], figures: Mapping[str, Any]
) -> np.ndarray:
    """The bits of sketches [sequence, coordinate] as they would be with the largest component of each vector positive.

    Args:
        signs: uint8 [sequence, bytes], eight coordinates a byte.
        basis: of the generation.
        curvature: its Λ, by the names of their arrays.
        figures: the curvature's `layers`, in order, and the `damping` of each.
    """
    energies, flips = [], []
    for layer in figures["layers"]:
        Λ = curvature[f"{layer}.corrected_eigenvalues"]
        energies.append((Λ / (Λ + figures["damping"][layer])).ravel())
        flips.append(np.outer(_signs(basis[f"{layer}.Q_S"]), _signs(basis[f"{layer}.Q_A"])).ravel())
    energy, flip = np.concatenate(energies), np.concatenate(flips)
    count = min(8 * signs.shape[1], len(energy))
    kept = np.sort(np.argsort(-energy, kind="stable")[:count])
    return np.unpackbits(signs, axis=1, count=count) ^ (flip[kept] < 0)


def _signs(Q: np.ndarray) -> np.ndarray:
    """The sign of the largest component of each column."""
    return np.sign(np.take_along_axis(Q, np.abs(Q).argmax(axis=0)[None], axis=0)[0])


def _summary(artifact: Artifact) -> Values:
    left_out = OF_RUNS_AND_VERSIONS | FOR_PEOPLE | _of_its_source(artifact)
    return {name: value for name, value in sorted(artifact.manifest.summary.items()) if name not in left_out}


def _columns(artifact: Artifact, table: str) -> Values:
    frame = artifact.table(table).collect()
    return _plain_columns(frame.drop(OF_RUNS_AND_VERSIONS | _of_its_source(artifact), strict=False))


def _of_its_source(artifact: Artifact) -> frozenset[str]:
    return OF_PARQUET if ".parquet" in (artifact.key.partition or "") else frozenset()


def _plain_columns(frame: pl.DataFrame) -> Values:
    return {name: [_rounded(value, 12) for value in column] for name, column in frame.to_dict(as_series=False).items()}


def _numbers(values: np.ndarray) -> Values:
    """Shape, type and numbers of an array, row by row; of a symmetric matrix its lower triangle."""
    shape = list(values.shape)
    if values.ndim == 2 and shape[0] == shape[1] and np.allclose(values, values.T, rtol=0, atol=1e-12 * _size(values)):
        values = values[np.tril_indices(shape[0])]
    if values.dtype == bool or values.dtype == np.uint8:
        return {"dtype": "bits", "shape": shape, "numbers": ["".join("01"[bit] for bit in row) for row in values]}
    digits = 8 if values.dtype == np.float32 else 12
    numbers = [_rounded(number, digits) for number in values.ravel().tolist()]
    return {"dtype": str(values.dtype), "shape": shape, "numbers": numbers}


def _size(values: Any) -> float:
    return float(np.max(np.abs(values), initial=0.0))


def _rounded(value: Any, digits: int) -> Any:
    return float(f"{value:.{digits}g}") if isinstance(value, float) and math.isfinite(value) else value


def deviations(expected: Any, actual: Any, place: str = "") -> Iterator[str]:
    """Say where two values differ by more than another processor explains, one line each."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        if "numbers" in expected and "numbers" in actual:
            yield from _array_deviations(expected, actual, place)
            return
        for name in [*expected, *(name for name in actual if name not in expected)]:
            where = f"{place}.{name}" if place else name
            if name not in actual or name not in expected:
                yield f"{where} is {'new' if name in actual else 'no longer there'}"
            else:
                yield from deviations(expected[name], actual[name], where)
    elif isinstance(expected, list) and isinstance(actual, list):
        yield from _list_deviations(expected, actual, place, TOLERANCES["float64"])
    elif isinstance(expected, float) or isinstance(actual, float):
        agreement = ".agreement." in place or ".sketch_agreement." in place
        allowed = ROUNDED if agreement else TOLERANCES["float64"] * abs(expected or 0.0)
        if actual is None or expected is None or not abs(expected - actual) <= allowed:
            yield f"{place} was {expected} and is {actual}"
    elif expected != actual:
        yield f"{place} was {expected!r} and is {actual!r}"


def _array_deviations(expected: Values, actual: Values, place: str) -> Iterator[str]:
    for name in ("dtype", "shape"):
        if expected[name] != actual[name]:
            yield f"{place} was of {name} {expected[name]} and is of {actual[name]}"
            return
    if expected["dtype"] != "bits":
        yield from _list_deviations(
            expected["numbers"], actual["numbers"], place, TOLERANCES.get(expected["dtype"], 0.0)
        )
        return
    bits = [np.array([list(row) for row in values["numbers"]]) for values in (expected, actual)]
    differing = int((bits[0] != bits[1]).sum())
    if differing > DIFFERING_BITS * bits[0].size:
        yield f"{place}: {differing} of {bits[0].size} bits are others"


def _list_deviations(expected: list[Any], actual: list[Any], place: str, tolerance: float) -> Iterator[str]:
    if len(expected) != len(actual):
        yield f"{place} had {len(expected)} entries and has {len(actual)}"
        return
    numbers = [value for value in (*expected, *actual) if isinstance(value, float)]
    allowed = tolerance * max(map(abs, numbers), default=0.0)
    for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
        is_number = isinstance(one, int | float) and isinstance(other, int | float) and bool(numbers)
        if not (abs(one - other) <= allowed if is_number else one == other):
            yield f"{place}[{index}] was {one!r} and is {other!r}"
            return
