"""Which coordinates sketches keep, against a plain sort."""

import pytest
import torch

from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature
from influence_assets.maths.sketches import strongest_coordinates


def layer(d_out: int, d_in: int, λ: float, seed: int) -> LayerCurvature:
    generator = torch.Generator().manual_seed(seed)
    Λ = torch.rand(d_out, d_in, generator=generator, dtype=torch.float64)
    eye = torch.eye(d_out, dtype=torch.float64), torch.eye(d_in, dtype=torch.float64)
    return LayerCurvature(Eigenbasis(*eye, torch.ones(d_out), torch.ones(d_in)), Λ, λ)


LAYERS = {"first": layer(3, 4, 0.05, 1), "second": layer(2, 5, 2.0, 2)}


@pytest.mark.parametrize("count", [1, 7, 22, 100])
def test_the_kept_coordinates_are_those_of_most_expected_energy_over_all_layers(count):
    found = strongest_coordinates(LAYERS, count)
    energies = sorted(
        ((float(Λ / (Λ + x.λ)), name, i) for name, x in LAYERS.items() for i, Λ in enumerate(x.Λ.flatten())),
        reverse=True,
    )
    expected = energies[:count]
    assert {(name, int(i)) for name, kept in found.kept.items() for i in kept} == {(n, i) for _, n, i in expected}
    assert found.width == len(expected)
    assert found.energy == pytest.approx(sum(e for e, *_ in expected) / sum(e for e, *_ in energies))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 5, 11, 23])
def test_of_equal_coordinates_the_first_are_kept(dtype, count):
    """As a stable sort says; which of them `topk` takes is its own affair."""
    generator = torch.Generator().manual_seed(count)
    layers = {}
    for name, (d_out, d_in) in {"first": (3, 4), "second": (2, 6)}.items():
        Λ = torch.randint(1, 4, (d_out, d_in), generator=generator).to(dtype)  # three values, each many times
        layers[name] = LayerCurvature(LAYERS["first"].basis, Λ, 0.5)
    found = strongest_coordinates(layers, count)
    energies = [float(e) for x in layers.values() for e in (x.Λ / (x.Λ + x.λ)).flatten()]
    order = sorted(range(len(energies)), key=lambda i: (-energies[i], i))
    expected = sorted(order[:count])
    assert torch.cat([found.kept["first"], found.kept["second"] + 12]).tolist() == expected
    last, following = energies[order[count - 1]], energies[order[count]]
    assert found.are_unique == (last != following)
