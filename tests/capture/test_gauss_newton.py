"""Exact products with the Gauss-Newton Hessian, against the dense matrix by torch.func."""

import pytest
import torch

from influence_assets.capture.covariance import covariances
from influence_assets.capture.gauss_newton import gauss_newton_products
from influence_assets.capture.runner import Runner
from influence_assets.maths.ekfac import eigenbasis
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.oracles.gauss_newton import dense_gauss_newton


@pytest.mark.parametrize("batch_sequences", [1, 4])
@pytest.mark.parametrize(("architecture", "modules"), [("gpt2", "linear"), ("llama_tied", "mlp"), ("gemma2", "mlp")])
def test_products_are_those_of_the_dense_matrix(architecture, modules, batch_sequences):
    model = (cases.ARCHITECTURES | cases.SCALED_LOGITS)[architecture]()
    layers = select_modules(model, modules)[-3:]
    runner = Runner(model, layers, batch_sequences)
    shards = [cases.sequences(3, seed=1), cases.sequences(2, seed=2)]
    bases = {name: eigenbasis(c.A, c.S) for name, c in covariances(runner, shards[0], None).items()}
    V = {m.name: torch.randn(2, m.output_width, m.input_width, dtype=torch.float64) for m in layers}
    before = {name: v.clone() for name, v in V.items()}
    products = gauss_newton_products(runner, shards, V, bases)
    assert all(torch.equal(V[name], before[name]) for name in V)
    G = dense_gauss_newton(model, layers, shards)
    rotated = torch.cat([(bases[n].Q_S @ v @ bases[n].Q_A.T).flatten(1) for n, v in V.items()], 1)
    expected = torch.split(rotated @ G, [m.parameters for m in layers], dim=1)
    for layer, flat in zip(layers, expected, strict=True):
        basis = bases[layer.name]
        matrices = flat.view(2, layer.output_width, layer.input_width)
        torch.testing.assert_close(products[layer.name], basis.Q_S.T @ matrices @ basis.Q_A)
    assert not any(module._forward_hooks for module in model.modules()), "nothing is left on the model"


def test_a_mean_over_no_sequences_is_refused():
    model = cases.gpt2()
    runner = Runner(model, select_modules(model, "mlp"), 4)
    bases = {name: eigenbasis(c.A, c.S) for name, c in covariances(runner, cases.sequences(2), None).items()}
    V = {m.name: torch.randn(1, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}
    with pytest.raises(ValueError, match="there are none"):
        gauss_newton_products(runner, [], V, bases)
