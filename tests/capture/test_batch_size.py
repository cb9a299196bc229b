"""The batch size that is found by measuring: what is counted against what is really alive, and what follows from it."""

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from influence_assets.capture import batch_size as measured
from influence_assets.capture.covariance import covariances as measure_covariances
from influence_assets.capture.hooks import LayerTap
from influence_assets.capture.losses import LabelSampler, plain_head
from influence_assets.capture.passes import Pass
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import scores as measure_scores
from influence_assets.maths.gradient_terms import TokenTerms
from influence_assets.models.layers.selection import select_modules
from tests import cases


class MadeStorages(TorchDispatchMode):
    """Remembers every block of memory that an operation makes, without keeping it alive."""

    def __init__(self, model):
        super().__init__()
        self._made = {}
        self._own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._own:
                storage = tensor.untyped_storage()
                self._made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return result

    def alive_bytes(self):
        return sum(size for storage, size in self._made.values() if not storage.expired())


def parts(architecture="gpt2", modules="mlp"):
    model = cases.ARCHITECTURES[architecture]()
    selected = select_modules(model, modules)
    return model, plain_head(model, selected), selected


@pytest.mark.parametrize("modules", ["mlp", "linear"])
@pytest.mark.parametrize("architecture", cases.ARCHITECTURES)
def test_what_is_counted_is_what_is_alive_between_forward_and_backward(architecture, modules):
    """Inputs that several layers share are counted for each: at most as much too much."""
    model, head, selected = parts(architecture, modules)
    (batch,) = cases.sequences(1, ragged=False).batches(1, "cpu")
    with MadeStorages(model) as made, LayerTap(selected) as tap:
        forward = Pass(model, head, tap, batch)
    alive = made.alive_bytes()
    del forward
    inputs = sum(cases.CONTEXT * (m.input_width - ("bias" in dict(m.module.named_parameters()))) * 8 for m in selected)
    found = measured.kept_bytes(model, selected, cases.CONTEXT, has_plain_head=head is not None)
    assert alive - 2 * batch.tokens.shape[1] * 8 * 8 <= found <= alive + inputs


def test_memory_of_a_sequence_grows_with_its_length():
    model, head, selected = parts()
    short, long = (measured.sequence_bytes(model, head, selected, tokens) for tokens in (4, 12))
    # The parameters' gradients do not grow with it; everything else at least in proportion.
    gradients = 2 * 8 * max(m.parameters for m in selected)
    assert long - gradients >= 3 * (short - gradients) * 0.95


def test_a_layer_that_is_attributed_keeps_its_input():
    model, head, mlp = parts()
    every = select_modules(model, "linear")
    assert measured.sequence_bytes(model, head, every, 12) > measured.sequence_bytes(model, head, mlp, 12)


def test_as_many_sequences_as_the_budget_holds(monkeypatch):
    model, head, selected = parts()
    one = measured.sequence_bytes(model, head, selected, 12)
    for budget, size in {
        one // 2: 1,
        one: 1,
        3 * one: 3,
        5 * one - 1: 4,
        10**15: measured.MOST_SEQUENCES_OF_CPU,
    }.items():
        monkeypatch.setattr(measured, "memory_budget", lambda *_, budget=budget: budget)
        assert measured.batch_size(model, head, selected, 12) == size


def test_a_sequence_is_measured_once_for_a_model_and_a_length(monkeypatch):
    model, head, selected = parts()
    passes = []
    really = measured.kept_bytes

    def counted(model, modules, tokens, **how):
        passes.append(tokens)
        return really(model, modules, tokens, **how)

    monkeypatch.setattr(measured, "kept_bytes", counted)
    for tokens in (12, 12, 5, 12):
        measured.batch_size(model, head, selected, tokens)
    assert passes == [12, 5]
    measured.batch_size(*parts(), 12)
    assert len(passes) == 3, "another model"


def test_a_batch_that_does_not_fit_is_halved_until_one_does(monkeypatch):
    model, head, selected = parts()
    tried = []

    def gradients(terms, **_how):
        tried.append(len(terms))
        if len(terms) > 5:
            raise torch.OutOfMemoryError
        return terms.Ds

    monkeypatch.setattr(TokenTerms, "gradients", gradients)
    assert measured._fitting_size(model, head, selected, 12, 32) == 4
    assert list(dict.fromkeys(tried)) == [32, 16, 8, 4]
    tried.clear()
    assert measured._fitting_size(model, head, selected, 12, 32) == 4
    assert tried == [], "known by now"


@pytest.mark.parametrize("modules", ["mlp", "linear"])
def test_results_do_not_depend_on_the_batch_size(modules):
    model, _, selected = parts(modules=modules)
    sequences = cases.sequences(9)
    P = {m.name: torch.randn(2, m.output_width, m.input_width, dtype=torch.float64) for m in selected}
    found = []
    for size in ("auto", 1, 2, 9):
        runner = Runner(model, selected, size)
        covariances = measure_covariances(runner, sequences, LabelSampler(3))
        found.append((covariances, measure_scores(runner, sequences, {"ekfac": P}, 9)["ekfac"]))
    (first, scores), *others = found
    for covariances, other in others:
        np.testing.assert_allclose(other, scores, rtol=1e-10, atol=1e-12 * np.abs(scores).max())
        for name, layer in covariances.items():
            torch.testing.assert_close(layer.A.total, first[name].A.total, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(layer.S.total, first[name].S.total, rtol=1e-10, atol=1e-10)


def test_the_memory_that_is_available_is_less_than_there_is():
    available = measured.available_memory()
    assert 2**20 < available < 2**50
    assert measured.memory_budget(torch.device("cpu")) <= min(2**30, available)


def test_a_limited_process_has_smaller_batches():
    here = torch.device("cpu")
    assert measured.memory_budget(here, 8 * 10**8) == min(10**8, measured.memory_budget(here))
    assert measured.memory_budget(here, 10**15) == measured.memory_budget(here)
