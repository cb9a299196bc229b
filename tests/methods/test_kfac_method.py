"""K-FAC against its dense Kronecker product, in every form that curvature is kept in."""

import pytest
import torch

from influence_assets.maths.kfac import uncorrected
from influence_assets.methods.method import MethodContext
from influence_assets.methods.registry import attribution_methods
from tests.methods.forms import D_IN, D_OUT, FORMS, dense, dense_factor, gradients, λ


def expected_matrix(curvature):
    """c · S ⊗ A + λI with a row for each weight, with c such that the trace is that of the measured curvature."""
    S, A = dense_factor(curvature, "S"), dense_factor(curvature, "A")
    product = torch.kron(S, A)
    measured = dense(curvature) - λ * torch.eye(D_OUT * D_IN, dtype=torch.float64)
    return product * measured.trace() / product.trace() + λ * torch.eye(D_OUT * D_IN, dtype=torch.float64)


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_kronecker_product_of_the_factors(form):
    curvature = FORMS[form]
    torch.testing.assert_close(dense(uncorrected(curvature)), expected_matrix(curvature), rtol=1e-9, atol=1e-11)
    assert isinstance(uncorrected(curvature), type(curvature))


@pytest.mark.parametrize("form", FORMS)
def test_the_method_solves_that_system(form):
    curvature, basis = FORMS[form], FORMS[form].basis
    context = MethodContext(None, {"layer": basis}, {"layer": curvature})
    P = attribution_methods()["kfac"].prepare({"layer": basis.rotate(gradients())}, context)["layer"]
    expected = torch.linalg.solve(expected_matrix(curvature), gradients().flatten(1).T).T
    torch.testing.assert_close(basis.rotate_back(P).flatten(1), expected, rtol=1e-9, atol=1e-11)


def test_factors_that_say_nothing_leave_the_damping_alone():
    curvature = FORMS["whole"]
    nothing = torch.zeros(D_IN, dtype=torch.float64)
    basis = type(curvature.basis)(curvature.basis.Q_S, curvature.basis.Q_A, curvature.basis.eigenvalues_S, nothing)
    empty = uncorrected(type(curvature)(basis, curvature.Λ, λ))
    assert not empty.Λ.any()
