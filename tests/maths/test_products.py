"""Products by oneDNN against torch's own in float64, whatever the widths and the layouts."""

import pytest
import torch
from torch.testing import assert_close

from influence_assets.maths import products
from influence_assets.maths.block_diagonal import BlockDiagonal
from influence_assets.maths.ekfac import TOKENS_WORTH_ONE_BY_ONE, eigenbasis, sequence_gradients
from influence_assets.maths.moments import SecondMoment
from influence_assets.maths.products import columnwise, left_product, product

WIDTHS = [(1, 1), (1, 7), (16, 16), (17, 64), (65, 33), (257, 128)]
LAYOUTS = {
    "row by row": lambda M: M,
    "column by column": columnwise,
    "every other column": lambda M: torch.stack([M, M], -1).flatten(1)[:, ::2],
    "expanded": lambda M: M[:, :1].expand(*M.shape),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("k", "m"), WIDTHS)
@pytest.mark.parametrize("batch", [(1,), (5,), (2, 3), (2500,)])
def test_a_product_is_the_sum_over_the_shared_axis(batch, k, m, layout):
    x, M, bias = torch.randn(*batch, k), LAYOUTS[layout](torch.randn(k, m)), torch.randn(m)
    expected = torch.einsum("...k,km->...m", x.double(), M.double())
    assert_close(product(x, M).double(), expected, rtol=1e-4, atol=1e-4)
    assert_close(product(x, M, bias=bias).double(), expected + bias.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_any_layout_are_multiplied(layout):
    x, M = LAYOUTS[layout](torch.randn(9, 6)), torch.randn(6, 4)
    assert_close(product(x, M).double(), x.double() @ M.double(), rtol=1e-5, atol=1e-5)
    assert_close(left_product(x, M).double(), x.double() @ M.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_multiplied_by_torch(dtype):
    x, M, bias = (torch.randn(shape, dtype=dtype) for shape in ((2, 3, 5), (5, 4), (4,)))
    assert_close(product(x, M), x @ M)
    assert_close(product(x, M, bias=bias), x @ M + bias)


def test_a_layout_that_onednn_is_slow_with_is_not_given_to_it(monkeypatch):
    def refused(*_arguments):
        raise AssertionError("a thousand times slower")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", refused, raising=False)
    strided = torch.randn(6, 12)[:, ::2]
    product(strided, torch.randn(6, 4))
    product(torch.randn(3, 6), strided)
    with pytest.raises(AssertionError, match="slower"):
        product(torch.randn(3, 6), torch.randn(6, 4))


def test_what_has_a_gradient_keeps_it():
    x, M = torch.randn(3, 5, requires_grad=True), torch.randn(5, 2)
    product(x, M).sum().backward()
    assert_close(x.grad, M.sum(1).expand(3, 5))


def test_blocks_are_multiplied_each():
    M, bias = BlockDiagonal((torch.randn(2, 2), torch.randn(3, 3))), torch.randn(5)
    whole = torch.block_diag(*M.blocks)
    x = torch.randn(4, 5)
    assert_close(product(x, M), x @ whole)
    assert_close(product(x, M, bias=bias), x @ whole + bias)
    assert_close(left_product(M, x.T.contiguous()), whole @ x.T)
    assert [block.T.is_contiguous() for block in columnwise(M).blocks] == [True, True]


@pytest.mark.parametrize("tokens", [TOKENS_WORTH_ONE_BY_ONE - 1, TOKENS_WORTH_ONE_BY_ONE])
@pytest.mark.parametrize("given_a_place", [False, True])
def test_gradients_of_long_sequences_are_those_of_short_ones(tokens, given_a_place):
    Ds, a = torch.randn(3, tokens, 5), torch.randn(3, tokens, 7)
    out = torch.full((3, 5, 7), torch.nan) if given_a_place else None
    found = sequence_gradients(Ds, a, out=out)
    assert (found is out) == given_a_place
    assert_close(found.double(), torch.einsum("sto,sti->soi", Ds.double(), a.double()), rtol=1e-4, atol=1e-4)


def test_a_factor_is_decomposed_and_stays_as_it_was():
    x = torch.randn(40, 12, dtype=torch.float64)
    A = x.T @ x
    before = A.clone()
    basis = eigenbasis(SecondMoment(A, 40), SecondMoment(torch.eye(3, dtype=torch.float64), 40))
    assert torch.equal(A, before)
    assert_close(basis.Q_A @ torch.diag(basis.eigenvalues_A) @ basis.Q_A.T, A / 40)
    assert bool((basis.eigenvalues_A.diff() >= 0).all())


def test_a_matrix_is_multiplied_in_its_own_layout_where_copying_does_not_pay(monkeypatch):
    monkeypatch.setattr(products, "_ROWS_WORTH_A_COPY", 4)
    M = torch.randn(6, 5)
    for rows in (3, 4):
        x = torch.randn(rows, 6)
        assert_close(product(x, M), x @ M, rtol=1e-5, atol=1e-5)
