"""No output changes without its code version: else the store would go on serving what the earlier code computed."""

import json

import numpy as np
import pytest

from tests.golden import make
from tests.golden.package import assets
from tests.golden.values import canonical_bits, deviations, recomposed, rotated_back

REMEDY = "Then `python -m tests.golden.make` writes the golden values anew."


@pytest.mark.parametrize("asset", assets())
def test_every_asset_has_golden_values_of_its_code_version(asset):
    assert make.golden_values(asset) is not None, f"{asset} has no golden values yet. {REMEDY}"
    assert make.is_of_these_versions(asset), f"the golden values of {asset} are those of other code versions. {REMEDY}"


def test_no_golden_values_are_of_an_asset_that_is_gone():
    assert {file.stem for file in make.FOLDER.glob("*.json")} == set(assets()), REMEDY


@pytest.mark.slow
def test_no_output_changed_while_its_code_version_did_not():
    changed = {asset: make.changes(asset) for asset in assets() if make.is_of_these_versions(asset)}
    lines = [f"{asset}: {line}" for asset, found in changed.items() for line in found[:5]]
    remedy = f"If it is meant to, raise the code_version of the first of these assets. {REMEDY}"
    assert not lines, "\n".join(["an output changed while no code version did:", *lines, remedy])


@pytest.mark.parametrize("asset", assets())
def test_a_changed_number_is_noticed(asset):
    golden = make.golden_values(asset)
    changed = json.loads(json.dumps(golden["partitions"]))
    assert list(deviations(golden["partitions"], changed)) == []
    assert _change_the_first_number(changed)
    assert len(list(deviations(golden["partitions"], changed))) == 1


def _change_the_first_number(content):
    """Add a millionth part to the first number anywhere below, or one to a whole number."""
    entries = content.items() if isinstance(content, dict) else enumerate(content)
    for place, value in entries:
        if isinstance(value, dict | list):
            if _change_the_first_number(value):
                return True
        elif isinstance(value, int | float) and not isinstance(value, bool) and value:
            content[place] = value * (1 + 1e-6) if isinstance(value, float) else value + 1
            return True
    return False


@pytest.fixture
def basis():
    """Of one layer, 3 wide on the way in and 2 on the way out."""
    generator = np.random.default_rng(0)
    found = {}
    for letter, width in (("S", 2), ("A", 3)):
        values = generator.standard_normal((width, width))
        found[f"mlp.eigenvalues_{letter}"], found[f"mlp.Q_{letter}"] = np.linalg.eigh(values @ values.T)
    return found


def test_the_sign_of_an_eigenvector_changes_nothing(basis):
    generator = np.random.default_rng(1)
    G, Λ = generator.standard_normal((5, 2, 3)), generator.random((2, 3)) + 1
    curvature, figures = {"mlp.corrected_eigenvalues": Λ}, {"layers": ["mlp"], "damping": {"mlp": 0.1}}
    seen = []
    for flipped in (basis, {**basis, "mlp.Q_S": basis["mlp.Q_S"] * [-1, 1], "mlp.Q_A": basis["mlp.Q_A"] * [1, -1, -1]}):
        rotated = flipped["mlp.Q_S"].T @ G @ flipped["mlp.Q_A"]
        signs = np.packbits(rotated.reshape(5, 6)[:, :6] > 0, axis=1)
        seen.append(
            (recomposed(flipped), rotated_back({"mlp.gradient": rotated}, flipped)["mlp.gradient"],
             canonical_bits(signs, flipped, curvature, figures))
        )  # fmt: skip
    (first, other), (back, again), (bits, same) = zip(*seen, strict=True)
    for letter in ("mlp.S", "mlp.A"):
        np.testing.assert_allclose(first[letter], other[letter], rtol=1e-12)
    np.testing.assert_allclose(back, G, rtol=1e-12)
    np.testing.assert_allclose(again, G, rtol=1e-12)
    assert bits.shape == (5, 6)
    assert (bits == same).all()
    assert 0 < bits.sum() < bits.size


def test_recomposed_bases_are_what_was_decomposed():
    M = np.array([[2.0, 1.0], [1.0, 5.0]])
    eigenvalues, Q = np.linalg.eigh(M)
    arrays = {"mlp.Q_S": Q, "mlp.eigenvalues_S": eigenvalues}
    np.testing.assert_allclose(recomposed(arrays)["mlp.S"], M, rtol=1e-12)
