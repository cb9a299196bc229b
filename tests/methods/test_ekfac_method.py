"""EK-FAC's P against the damped curvature as one dense matrix a layer, inverted by a general solver."""

import torch

from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.runner import Runner
from influence_assets.maths.ekfac import LayerCurvature, damping, eigenbasis
from influence_assets.methods.method import MethodContext
from influence_assets.methods.registry import attribution_methods
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.oracles import gradients as oracle


def test_it_solves_the_dense_system_of_each_layer():
    model, queries = cases.gpt2(width=4, layers=1), cases.queries(2)
    runner, training = Runner(model, select_modules(model, "mlp"), 4), cases.sequences(5)
    bases = {name: eigenbasis(c.A, c.S) for name, c in covariances(runner, training, None).items()}
    Λ = {name: m.mean() for name, m in eigenvalue_corrections(runner, training, bases, None).items()}
    curvature = {name: LayerCurvature(bases[name], Λ[name], damping(float(Λ[name].mean()), 0.1)) for name in bases}
    V = query_gradients(runner, queries, bases).layers
    P = attribution_methods()["ekfac"].prepare(V, MethodContext(runner, bases, curvature))
    f, _ = oracle.gradients(model, runner.modules, queries, sign=+1)
    assert P.keys() == f.keys()
    for name, layer in curvature.items():
        Q = torch.kron(layer.basis.Q_S, layer.basis.Q_A)  # of matrices laid out row by row
        G = Q @ torch.diag(layer.Λ.flatten()) @ Q.T + layer.λ * torch.eye(len(Q), dtype=Q.dtype)
        expected = torch.linalg.solve(G, f[name].flatten(1).T).T
        torch.testing.assert_close(layer.basis.rotate_back(P[name]).flatten(1), expected, rtol=1e-9, atol=1e-12)
