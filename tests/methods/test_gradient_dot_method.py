"""The plain product of gradients against those that autograd computes."""

import numpy as np
import torch

from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import scores
from influence_assets.maths.ekfac import eigenbasis
from influence_assets.methods.method import MethodContext
from influence_assets.methods.registry import attribution_methods
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.oracles import gradients as oracle


def test_it_is_the_product_of_gradients():
    model, queries, training = cases.gpt2(), cases.queries(), cases.sequences(5)
    runner = Runner(model, select_modules(model, "mlp"), 4)
    bases = {name: eigenbasis(c.A, c.S) for name, c in covariances(runner, training, None).items()}
    V = query_gradients(runner, queries, bases).layers
    P = attribution_methods()["gradient_dot"].prepare(V, MethodContext(runner, bases))
    f, _ = oracle.gradients(model, runner.modules, queries, sign=+1)
    G, _ = oracle.gradients(model, runner.modules, training, sign=-1)
    flat_f, flat_G = (torch.cat([by_layer[name].flatten(1) for name in P], 1) for by_layer in (f, G))
    # One more copy of a sequence adds its own gradient of log p, of which ∇L is the negative: hence the sign.
    expected = -(flat_f @ flat_G.T) / 9
    measured = scores(runner, training, {"gradient_dot": P}, 9, bases)["gradient_dot"]
    np.testing.assert_allclose(measured, expected, atol=1e-9 * float(expected.abs().max()))
