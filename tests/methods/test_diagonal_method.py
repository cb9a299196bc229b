"""The diagonal of a layer's curvature against that of the dense matrix, in every form that curvature is kept in."""

import pytest
import torch

from influence_assets.maths.diagonal import diagonal
from influence_assets.methods.method import MethodContext
from influence_assets.methods.registry import attribution_methods
from tests.methods.forms import D_IN, D_OUT, FORMS, dense, gradients, λ


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_diagonal_of_the_dense_matrix(form):
    curvature = FORMS[form]
    expected = dense(curvature).diagonal().view(D_OUT, D_IN) - λ
    torch.testing.assert_close(diagonal(curvature), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_the_method_divides_by_it(form):
    curvature = FORMS[form]
    context = MethodContext(None, {"layer": curvature.basis}, {"layer": curvature})
    V = {"layer": curvature.basis.rotate(gradients())}
    P = attribution_methods()["diagonal"].prepare(V, context)["layer"]
    expected = gradients() / dense(curvature).diagonal().view(D_OUT, D_IN)
    torch.testing.assert_close(curvature.basis.rotate_back(P.clone()), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_rotating_there_and_back_changes_nothing(form):
    basis = FORMS[form].basis
    torch.testing.assert_close(basis.rotate_back(basis.rotate(gradients())), gradients())
