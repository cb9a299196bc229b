"""Devices that cannot compute in float64, as Apple's: sums that need it are made on the CPU.

There is no such device here. Torch's fake tensors compute nothing, but say of each result on which device it would be
and in which precision, and what such a device would refuse is refused.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from influence_assets.capture.batches import Parts
from influence_assets.capture.correction import CorrectionTotals
from influence_assets.capture.covariance import CovarianceTotals, covariances
from influence_assets.capture.details import Pairs, score_details
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.losses import Head, LabelSampler
from influence_assets.capture.one_pass import measure
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import ScoreTotals, score_all
from influence_assets.capture.sketches import SketchRows, sketches
from influence_assets.errors import InputError
from influence_assets.maths import notation
from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature
from influence_assets.maths.notation import device_of_sums, in_float64
from influence_assets.maths.outer_products import OuterProducts, truncated
from influence_assets.maths.sketches import Coordinates
from influence_assets.models.layers.selection import select_modules
from influence_assets.models.loading import load_model
from tests import cases
from tests.tiers import slow_but

DEVICE = "meta"
"""As far as fake tensors are concerned a device like any other."""


class WithoutFloat64(TorchDispatchMode):
    """Refuses every result in float64 on the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.device.type == DEVICE and value.dtype == torch.float64:
                raise TypeError(f"{function} gives float64 on a device that does not have it")
        return result


@pytest.fixture
def model():
    return cases.llama()


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(notation, "WITHOUT_FLOAT64", {DEVICE})
    monkeypatch.setattr(torch.Tensor, "numpy", lambda tensor: np.zeros(tuple(tensor.shape)))  # there are no values
    with FakeTensorMode(allow_non_fake_inputs=True), WithoutFloat64():
        yield DEVICE


@pytest.fixture(params=slow_but("head by hand", of=["head by hand", "all logits"]))
def runner(request, model, device):
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                if tensor is not None:
                    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
                    fake = torch.empty(tensor.shape, dtype=dtype, device=device)
                    held[key] = nn.Parameter(fake, requires_grad=False) if held is module._parameters else fake
    runner = Runner(model, select_modules(model, "linear"), 4)
    by_hand = request.param == "head by hand"
    runner.__dict__["head"] = Head(model.lm_head.weight, None) if by_hand else None  # found by values
    return runner


def of(runner, *shape):
    return {
        linear.name: torch.empty(
            *shape, linear.output_width, linear.input_width, dtype=torch.float32, device=runner.device
        )
        for linear in runner.modules
    }


def curvature_of(runner):
    found = {}
    for name, Λ in of(runner).items():
        d_out, d_in = Λ.shape
        squares = Λ.new_empty(d_out, d_out), Λ.new_empty(d_in, d_in)
        found[name] = LayerCurvature(Eigenbasis(*squares, Λ.new_empty(d_out), Λ.new_empty(d_in)), Λ, 0.1)
    return found


def test_what_such_a_device_refuses_is_refused_here(device):
    for make in (lambda x: x.double(), lambda x: x.cumsum(0, dtype=torch.float64)):
        with pytest.raises(TypeError, match="float64"):
            make(torch.empty(3, device=device))
    assert in_float64(torch.empty(3, device=device)).device.type == "cpu"
    assert device_of_sums(device).type == "cpu"
    assert device_of_sums("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("sampler", slow_but(LabelSampler(0), of=[None, LabelSampler(0)]), ids=["empirical", "true"])
def test_every_measurement_does_without(runner, sampler):
    sequences, curvature = cases.sequences(), curvature_of(runner)
    bases = {name: layer.basis for name, layer in curvature.items()}
    factors = covariances(runner, sequences, sampler, blocks=2)
    for layer in factors.values():
        assert layer.A.total.device.type == DEVICE
    found = query_gradients(runner, cases.queries(), bases)
    assert {gradient.dtype for gradient in found.layers.values()} == {torch.float32}
    parts = Parts(np.array([0, 0, 2, 2]), np.array([0, 4, 0, 3]), np.array([4, 9, 3, 9]))
    totals = ScoreTotals({"whole": of(runner, 2)}, len(sequences), 9, runner.device, parts)
    totals.include("split", 2, split=True)
    totals.hold("split", of(runner, 2))
    score_all(runner, sequences, totals, bases)
    assert totals.totals()["whole"].shape == (2, 6)
    assert totals.part_totals("split").shape == (2, 4)
    assert score_details(runner, sequences, of(runner, 2), 9, Pairs.every(2, 6)).by_layer.shape == (12, 14)
    for layer in curvature.values():
        V = OuterProducts(*(torch.ones(4, width, device=DEVICE) for width in layer.Λ.shape))
        kept = truncated(V, layer, 1)
        assert kept.sum().device.type == DEVICE
        assert layer.squared_norm(V.sum() - kept.sum()).device.type == "cpu"
    kept = Coordinates({name: torch.arange(3) for name in curvature}, 1.0)
    for batch in sketches(runner, sequences, curvature, kept, of(runner, 2)):
        assert batch.rows.shape[1] == 3 * 14
    batches = []
    rows = SketchRows(runner, curvature, kept, of(runner, 2), batches.append)
    scored = ScoreTotals({"any": of(runner, 2)}, len(sequences), 9, runner.device)
    measure(runner, sequences, [CovarianceTotals(), CorrectionTotals(), rows, scored], bases, sampler)
    assert len(batches) == 2


def test_a_model_in_float64_is_refused_there_before_its_files_are_read(tmp_path):
    with pytest.raises(InputError, match=r"mps cannot compute in float64.*Set model\.dtype to float32"):
        load_model(tmp_path, dtype="float64", device="mps")
