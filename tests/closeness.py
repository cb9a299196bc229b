"""What an artifact holds, compared as numbers: the same computation elsewhere, or in another order, rounds otherwise.

Text, ids, tokens and counts must be equal; measured numbers to rounding; eigenvectors by the matrices that they
recompose, as their signs, and their directions where eigenvalues coincide, are anybody's choice; packed signs but for
the few whose number is next to nothing.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from polars.testing import assert_frame_equal

from influence_assets.storage.artifacts import Artifact

FILES = "files"
RELATIVE = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-4}


def values_of(artifact: Artifact) -> dict[str, Any]:
    """Arrays and tables by name, and the checksums of whatever else there is."""
    held: dict[str, Any] = {name: artifact.array(name) for name in artifact.array_names()}
    held |= {f"{name}.parquet": artifact.table(name).collect() for name in artifact.manifest.rows}
    others = {str(path): record for path, record in artifact.manifest.files.items() if not _is_of_values(str(path))}
    return held | {FILES: others}


def assert_same_values(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Two artifacts hold the same, to rounding."""
    assert found.keys() == expected.keys()
    found, expected = _recomposed(found), _recomposed(expected)
    for name, values in expected.items():
        if isinstance(values, pl.DataFrame):
            assert_frame_equal(found[name], values, rel_tol=1e-9, abs_tol=1e-12)
        elif isinstance(values, np.ndarray):
            _assert_same_array(name, found[name], values)
        else:
            assert found[name] == values, name


def assert_same_scores(found: Mapping[Any, float], expected: Mapping[Any, float]) -> None:
    """The scores of the same pairs, to rounding of float64."""
    assert found.keys() == expected.keys()
    largest = max(map(abs, expected.values()))
    np.testing.assert_allclose(
        [found[pair] for pair in expected], list(expected.values()), rtol=1e-9, atol=1e-12 * largest
    )


def _is_of_values(path: str) -> bool:
    return path.startswith("arrays/") or path.endswith(".parquet")


def _recomposed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Q diag(λ) Qᵀ in the place of every Q that has its eigenvalues beside it."""
    made = dict(values)
    for name, Q in values.items():
        eigenvalues = values.get(name.replace(".Q_", ".eigenvalues_"))
        if ".Q_" in name and isinstance(eigenvalues, np.ndarray):
            made[name] = Q * eigenvalues @ Q.T
    return made


def _assert_same_array(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
    if name == "signs":
        assert np.unpackbits(found ^ expected).mean() < 0.01
    elif np.issubdtype(expected.dtype, np.integer):
        np.testing.assert_array_equal(found, expected, err_msg=name)
    else:
        rounding = RELATIVE[expected.dtype]
        largest = np.abs(expected).max(initial=0, where=np.isfinite(expected))
        np.testing.assert_allclose(found, expected, rtol=rounding, atol=rounding * 1e-3 * largest, err_msg=name)
