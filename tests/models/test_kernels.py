"""The libraries of products and eigenvectors: chosen by what is fastest here, once, and equal in what they compute."""

import pytest
import torch

from influence_assets.maths import kernels as choice
from influence_assets.maths.ekfac import eigendecomposition
from influence_assets.maths.kernels import Kernels
from influence_assets.maths.products import columnwise, product
from influence_assets.models import kernels

SHAPES = [(640, 512), (512, 640)]


@pytest.fixture(autouse=True)
def before():
    """The choice of the process is as it was afterwards."""
    chosen = choice.chosen()
    yield
    choice.choose(chosen)


@pytest.fixture
def slow(monkeypatch):
    """Libraries that are named in it take longer than others, whatever the machine; and what was measured."""
    libraries, turns = set(), []

    def seconds(run):
        turns.append(choice.chosen())
        del run
        return 1.0 + bool({choice.chosen().eigenvectors, choice.chosen().products} & libraries)

    monkeypatch.setattr(kernels, "_seconds", seconds)
    return libraries, turns


@pytest.mark.parametrize("eigenvectors", ["scipy", "torch"])
@pytest.mark.parametrize("products", ["onednn", "torch products"])
def test_the_faster_of_each_is_chosen(tmp_path, monkeypatch, eigenvectors, products):
    products = products.split()[0]
    monkeypatch.setattr(
        kernels,
        "_seconds",
        lambda _run: float(choice.chosen().eigenvectors != eigenvectors) + float(choice.chosen().products != products),
    )
    choice.choose(Kernels())
    kernels.use_fastest(tmp_path / "kernels.json", SHAPES)
    assert choice.chosen() == Kernels(eigenvectors, products)


def test_a_machine_is_measured_once_and_another_by_itself(tmp_path, monkeypatch, slow):
    libraries, turns = slow
    libraries.add("scipy")
    cache = tmp_path / "cache" / "kernels.json"
    kernels.use_fastest(cache, SHAPES)
    assert choice.chosen().eigenvectors == "torch"
    measured = len(turns)
    assert measured == 2 * 2 * kernels.REPETITIONS
    choice.choose(Kernels())
    kernels.use_fastest(cache, reversed(SHAPES))
    assert (choice.chosen().eigenvectors, len(turns)) == ("torch", measured), "read from the cache"
    monkeypatch.setattr(kernels, "_processor", lambda: "another processor")
    libraries.clear()
    kernels.use_fastest(cache, SHAPES)
    assert len(turns) == 2 * measured
    cache.write_text("damaged")
    kernels.use_fastest(cache, SHAPES)
    kernels.use_fastest(cache, SHAPES)
    assert len(turns) == 3 * measured, "measured again, and kept"


def test_nothing_is_measured_for_narrow_layers(tmp_path, slow):
    kernels.use_fastest(tmp_path / "kernels.json", [(kernels.WORTH_MEASURING - 1, 8)])
    kernels.use_fastest(tmp_path / "kernels.json", [])
    assert slow[1] == []
    assert not (tmp_path / "kernels.json").exists()


def test_measuring_leaves_the_choice_as_it_was(slow):
    choice.choose(Kernels("torch", "torch"))
    slow[0].add("torch")
    assert kernels.measured(SHAPES) == Kernels("scipy", "onednn")
    assert choice.chosen() == Kernels("torch", "torch")


def test_they_compute_the_same():
    x = torch.randn(300, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    M, rows, weight = x.T @ x, torch.randn(70, 33), columnwise(torch.randn(33, 20))
    recomposed, products = [], []
    for kernel in (Kernels("scipy", "onednn"), Kernels("torch", "torch")):
        choice.choose(kernel)
        eigenvalues, Q = eigendecomposition(M)
        assert (eigenvalues.diff() >= 0).all()
        recomposed.append((Q * eigenvalues) @ Q.T)
        products.append(product(rows, weight))
    torch.testing.assert_close(*recomposed)
    torch.testing.assert_close(*products)
