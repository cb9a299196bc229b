"""Models whose layers lie on several devices.

There is one real device here. That tensors of different devices never meet is tried with torch's fake tensors, which
compute nothing but refuse what a machine with two devices would refuse; that values stay the same, with accelerate's
own hooks on one device.
"""

import importlib.util

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from influence_assets.capture.correction import CorrectionTotals, eigenvalue_corrections
from influence_assets.capture.covariance import CovarianceTotals, covariances
from influence_assets.capture.details import Pairs, score_details
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.losses import Head, LabelSampler
from influence_assets.capture.one_pass import measure
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import ScoreTotals, scores
from influence_assets.capture.sketches import SketchRows, sketches
from influence_assets.errors import InputError
from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature
from influence_assets.maths.sketches import Coordinates
from influence_assets.models.layers.selection import select_modules
from influence_assets.models.loading import load_model
from tests import cases
from tests.tiers import slow_but

FIRST, SECOND = "cpu", "meta"
"""As far as fake tensors are concerned two devices like any others."""


def device_of(name):
    on_second = ("model.layers.1.", "model.norm.", "lm_head.")
    return SECOND if name.startswith(on_second) else FIRST


def spread(model):
    """The same model without values, its second half on another device, with inputs moved as accelerate's hooks do."""
    for name, module in model.named_modules():
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                if tensor is not None:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=device_of(f"{name}.{key}"))
                    held[key] = nn.Parameter(fake, requires_grad=False) if held is module._parameters else fake

    def move(module, args, kwargs):
        there = next(module.parameters()).device
        return tree_map(lambda x: x.to(there) if isinstance(x, torch.Tensor) else x, (args, kwargs))

    for part in (*model.model.layers, model.model.norm, model.lm_head):
        part.register_forward_pre_hook(move, with_kwargs=True)
    return model


@pytest.fixture(params=slow_but("head by hand", of=["head by hand", "all logits"]))
def runner(request, monkeypatch):
    model = cases.llama()
    monkeypatch.setattr(torch.Tensor, "numpy", lambda tensor: np.zeros(tuple(tensor.shape)))  # there are no values
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = spread(model)
        runner = Runner(model, select_modules(model, "linear"), 4)
        assert runner.device == FIRST
        assert {linear.device.type for linear in runner.modules} == {FIRST, SECOND}
        plain = request.param == "head by hand"
        runner.__dict__["head"] = Head(model.lm_head.weight, None) if plain else None  # found by values
        yield runner


def curvature_of(runner):
    found = {}
    for linear in runner.modules:
        Q = (torch.empty(n, n, dtype=torch.float64) for n in (linear.output_width, linear.input_width))
        eigenvalues = (torch.empty(n, dtype=torch.float64) for n in (linear.output_width, linear.input_width))
        Λ = torch.empty(linear.output_width, linear.input_width, dtype=torch.float64)
        found[linear.name] = LayerCurvature(Eigenbasis(*Q, *eigenvalues), Λ, 0.1)
    return found


def gradients_of(runner):
    shapes = {linear.name: (2, linear.output_width, linear.input_width) for linear in runner.modules}
    return {name: torch.empty(shape, dtype=torch.float64) for name, shape in shapes.items()}


@pytest.mark.parametrize("sampler", [None, LabelSampler(0)], ids=["empirical", "true"])
def test_statistics_are_summed_where_their_layer_is(runner, sampler):
    found = covariances(runner, cases.sequences(), sampler, blocks=2)
    bases = {name: layer.basis for name, layer in curvature_of(runner).items()}
    corrections = eigenvalue_corrections(runner, cases.sequences(), bases, sampler)
    for linear in runner.modules:
        layer = found[linear.name]
        assert {layer.A.total.device, layer.S.total.device, corrections[linear.name].total.device} == {linear.device}


@pytest.mark.parametrize("in_eigenbases", [False, True])
def test_queries_and_scores_come_back_to_the_first_device(runner, in_eigenbases):
    sequences, curvature = cases.sequences(), curvature_of(runner)
    bases = {name: layer.basis for name, layer in curvature.items()} if in_eigenbases else None
    found = query_gradients(runner, cases.queries(), bases)
    assert {gradient.device.type for gradient in found.layers.values()} == {FIRST}
    assert scores(runner, sequences, {"any": gradients_of(runner)}, 9, bases)["any"].shape == (2, 6)
    assert score_details(runner, sequences, gradients_of(runner), 9, Pairs.every(2, 6)).by_layer.shape == (12, 14)


@pytest.mark.slow
def test_sketches_and_the_one_pass_meet_no_tensor_of_another_device(runner):
    sequences, curvature = cases.sequences(), curvature_of(runner)
    kept = Coordinates({name: torch.arange(3) for name in curvature}, 1.0)
    probes = gradients_of(runner)
    for batch in sketches(runner, sequences, curvature, kept, probes):
        assert batch.rows.shape[1] == 3 * 14
    for sampler in (None, LabelSampler(0)):
        batches = []
        scored = ScoreTotals({"any": gradients_of(runner)}, 6, 9, runner.device)
        rows = SketchRows(runner, curvature, kept, probes, batches.append)
        bases = {name: layer.basis for name, layer in curvature.items()}
        measure(runner, sequences, [CovarianceTotals(), CorrectionTotals(), rows, scored], bases, sampler)
        assert len(batches) == 2
        assert scored.totals()["any"].shape == (2, 6)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "llama_tied", "gemma2"])
def test_hooks_of_accelerate_change_nothing(architecture):
    build = (cases.ARCHITECTURES | cases.SCALED_LOGITS)[architecture]
    alone, dispatched = build(), build()
    places = {name: "cpu" for name, module in dispatched.named_modules() if list(module.parameters(recurse=False))}
    dispatch_model(dispatched, device_map=places, force_hooks=True)
    found, expected = (
        query_gradients(Runner(model, select_modules(model, "linear"), 4), cases.queries())
        for model in (dispatched, alone)
    )
    np.testing.assert_allclose(found.log_probabilities, expected.log_probabilities, rtol=1e-12)
    for name, gradient in expected.layers.items():
        torch.testing.assert_close(found.layers[name], gradient, rtol=1e-10, atol=1e-12)


def test_a_model_is_spread_over_what_there_is(tmp_path):
    model = cases.llama()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype="float64", device="cpu", device_map="auto")
    tokens = torch.arange(8)[None]
    torch.testing.assert_close(loaded(input_ids=tokens).logits.cpu(), model(input_ids=tokens).logits)


def test_a_model_that_does_not_fit_is_refused_with_what_would_be_offloaded(tmp_path, monkeypatch):
    cases.llama().save_pretrained(tmp_path)
    places = dict.fromkeys(("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    monkeypatch.setattr("transformers.modeling_utils._get_device_map", lambda *_: {**places, "model.layers.1": "disk"})
    with pytest.raises(InputError, match=r"model\.device_map: the model does not fit.*model\.layers\.1\..* and 8 more"):
        load_model(tmp_path, dtype="float64", device="cpu", device_map="auto")


def test_without_accelerate_the_remedy_is_named(tmp_path, monkeypatch):
    cases.llama().save_pretrained(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "accelerate" else found(name))
    with pytest.raises(InputError, match=r"model\.device_map: .*needs accelerate.*`pip install accelerate`"):
        load_model(tmp_path, dtype="float64", device="cpu", device_map="auto")
    load_model(tmp_path, dtype="float64", device="cpu")
