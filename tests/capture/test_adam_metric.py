"""Scores in Adam's metric against autograd, and against a training that leaves a sequence out."""

import numpy as np
import torch

from influence_assets.capture.adam_metric import adam_metric
from influence_assets.capture.runner import Runner
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.oracles import gradients as oracle


def runner(modules="mlp"):
    model = cases.gpt2()
    return Runner(model, select_modules(model, modules), 4)


def moments(model):
    generator = torch.Generator().manual_seed(4)
    return {name: torch.rand(p.shape, generator=generator, dtype=torch.float64) for name, p in model.named_parameters()}


def roots(v):
    return lambda name: v[name].sqrt() + 1e-8


def parameters(modules):
    return [p for module in modules for p in module.module.parameters(recurse=False)]


def test_each_weight_is_divided_by_its_own_root():
    made, sequences, queries = runner(), cases.sequences(4), cases.queries(2)
    v, modules = moments(made.model), made.modules
    names = {id(p): name for name, p in made.model.named_parameters()}
    chosen = parameters(modules)

    def gradients(texts, sign):
        found = []
        for row in range(len(texts)):
            text = torch.from_numpy(texts.tokens[row, : texts.lengths[row]].astype(np.int64))
            first = 1 if texts.first_scored is None else int(texts.first_scored[row])
            with oracle.Unfrozen(modules):
                value = sign * oracle.log_likelihood(made.model, text, first)
                found.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, chosen)]))
        return torch.stack(found)

    divisor = torch.cat([v[names[id(p)]].flatten() for p in chosen]).sqrt() + 1e-8
    expected = -0.7 * gradients(queries, 1) / divisor @ gradients(sequences, -1).T
    found, _ = adam_metric(made, sequences, queries, roots(v), 0.7)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-9, atol=1e-12)


def test_a_score_is_what_preconditioned_steps_gain_by_the_sequence():
    """Steps of −η g/(√v̂ + ε) with v̂ held and a small rate, with and without the loss of one sequence."""
    made, sequences, queries, rate = runner(), cases.sequences(4), cases.queries(2), 1e-7
    modules, v, tokens = made.modules, moments(made.model), int(sequences.counted_tokens().sum())
    names = {id(p): name for name, p in made.model.named_parameters()}
    start = {name: p.clone() for name, p in made.model.state_dict().items()}

    def trained(kept):
        made.model.load_state_dict(start)
        for _ in range(2):
            total = 0
            with oracle.Unfrozen(modules):
                for row in kept:
                    text = torch.from_numpy(sequences.tokens[row, : sequences.lengths[row]].astype(np.int64))
                    total = total - oracle.log_likelihood(made.model, text, 1) / tokens
                gradients = torch.autograd.grad(total, parameters(modules))
            with torch.no_grad():
                for parameter, gradient in zip(parameters(modules), gradients, strict=True):
                    parameter -= rate * gradient / (v[names[id(parameter)]].sqrt() + 1e-8)
        return oracle.gradients(made.model, modules, queries, sign=+1)[1]

    gained = trained(range(4)) - trained([0, 2, 3])
    made.model.load_state_dict(start)
    found, _ = adam_metric(made, sequences, queries, roots(v), 2 * rate / tokens)
    np.testing.assert_allclose(found[:, 1], gained.numpy(), rtol=1e-3)
