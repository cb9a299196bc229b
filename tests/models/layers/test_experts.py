"""Experts: each matrix a layer that sees the tokens routed to it, against autograd and the model's own code."""

import copy

import numpy as np
import pytest
import torch

from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.rehearsal import rehearse
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import scores
from influence_assets.models.layers.rule import rule_of
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.architectures.tiny import tiny
from tests.oracles import gradients as oracle

KINDS = ("mixtral", "qwen3_moe", "gpt_oss")
"""Concatenated weights; a norm in attention; interleaved, transposed weights with biases and a clamped gate."""


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_scores_are_those_of_autograd_through_the_models_own_code(kind):
    model, sequences, queries = tiny(kind), cases.sequences(), cases.queries()
    layers = select_modules(model, "mlp")
    runner = Runner(model, layers, 4)
    V, log_probabilities = oracle.gradients(model, layers, queries, sign=+1)
    measured = query_gradients(runner, queries)
    np.testing.assert_allclose(measured.log_probabilities, log_probabilities, rtol=1e-10)
    torch.testing.assert_close(measured.layers, V)
    P = {m.name: torch.randn(3, m.output_width, m.input_width, dtype=torch.float64) for m in layers}
    G, _ = oracle.gradients(model, layers, sequences, sign=-1)
    expected = -sum(torch.einsum("qoi,soi->qs", P[name], G[name]) for name in P) / 40
    np.testing.assert_allclose(scores(runner, sequences, {"any": P}, 40)["any"], expected, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_factors_are_sums_over_the_tokens_that_were_routed(kind):
    model, sequences = tiny(kind), cases.sequences()
    experts = model.model.layers[0].mlp.experts
    seen = []
    handle = experts.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[:2]))
    for row, length in zip(sequences.tokens, sequences.lengths, strict=True):
        model(input_ids=torch.from_numpy(row[None, : length - 1].astype("int64")))
    handle.remove()
    states, chosen = (torch.cat(parts) for parts in zip(*seen, strict=True))
    totals = covariances(Runner(model, select_modules(model, "mlp"), 4), sequences, None)
    for expert in range(4):
        own = states[(chosen == expert).any(-1)]
        a = torch.cat([own, own.new_ones(len(own), int(experts.has_bias))], dim=-1)
        torch.testing.assert_close(totals[f"model.layers.0.mlp.experts.{expert}.gate_up_proj"].A.total, a.T @ a)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", ["distinct", "one twice", "one for all"])
def test_a_watched_module_computes_what_it_does_itself(kind, choice):
    """Also where a router chooses an expert twice for a token, or most experts have no tokens."""
    experts = tiny(kind).model.layers[0].mlp.experts
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((11, 16), generator=generator, dtype=torch.float64)
    index = torch.stack([torch.randperm(4, generator=generator)[:2] for _ in range(11)])
    index = {"distinct": index, "one twice": index[:, :1].expand(-1, 2), "one for all": torch.full_like(index, 2)}[
        choice
    ]
    weights = torch.rand((11, 2), generator=generator, dtype=torch.float64)
    expected = experts(x, index, weights)
    layers = rule_of(experts).layers("experts", experts)
    observed = []
    handles = [m.rule.attach(m.module, lambda a, y: (observed.append((a, y)), y)[1]) for m in layers]
    torch.testing.assert_close(experts(x, index, weights), expected)
    assert len(observed) == len(layers) == 8
    for handle in handles:
        handle.remove()
    assert "forward" not in vars(experts)
    torch.testing.assert_close(experts(x, index, weights), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_that_computes_something_else_behind_the_same_interface_is_refused(kind):
    model = tiny(kind)
    experts = model.model.layers[0].mlp.experts
    other = copy.copy(experts)
    other.__class__ = type("Other", (type(experts),), {"forward": lambda _self, *inputs: 2 * experts(*inputs)})
    model.model.layers[0].mlp.experts = other
    with pytest.raises(Exception, match="computes something else while its layers are measured"):
        rehearse(model, select_modules(model, "mlp"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_lower_precision_is_near(kind, dtype):
    exact = tiny(kind)
    model = copy.deepcopy(exact).to(dtype)
    found, expected = (
        query_gradients(Runner(m, select_modules(m, "linear"), 3), cases.queries()).layers for m in (model, exact)
    )
    for name in select_names(exact):
        apart = (found[name].double() - expected[name]).norm() / expected[name].norm()
        assert apart < {torch.float32: 1e-4, torch.bfloat16: 0.5}[dtype], name


def select_names(model):
    """The layers below the first router, whose gradients no rounding of a choice changes much."""
    return [layer.name for layer in select_modules(model, ["*.layers.1.self_attn.o_proj"])]
