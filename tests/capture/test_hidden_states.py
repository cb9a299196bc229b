"""Hidden states as they are stored, against the model's own logits and its output of hidden states."""

import numpy as np
import pytest
import torch

from influence_assets.capture import hidden_states as captured
from influence_assets.capture.batches import Sequences
from influence_assets.capture.hidden_states import hidden_states, state_width
from influence_assets.capture.likelihoods import log_probabilities
from influence_assets.errors import InputError
from tests import cases, studies

WORDS = 16


def sequences(first_scored=None, loss=None):
    generator = np.random.default_rng(0)
    lengths = np.array([7, 2, 9, 5], np.int32)
    tokens = generator.integers(0, WORDS, (4, 9)).astype(np.int32)
    tokens[np.arange(9) >= lengths[:, None]] = 0
    return Sequences(tokens, lengths, np.arange(4), first_scored, loss)


def loss_mask():
    return np.random.default_rng(1).integers(0, 2, (4, 9)).astype(np.uint8)


KINDS = {"all": {}, "completions": {"first_scored": np.array([4, 1, 8, 2], np.int32)}, "masked": {"loss": loss_mask()}}


def network(architecture):
    return studies.network(architecture, vocabulary=WORDS).double().eval()


@pytest.mark.parametrize("tokens_at_once", [9, 2048])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox"])
def test_states_are_those_that_the_model_returns(architecture, kind, tokens_at_once, monkeypatch):
    monkeypatch.setattr(captured, "TOKENS_AT_ONCE", tokens_at_once)
    model, given = network(architecture), sequences(**KINDS[kind])
    counted = {(row, p) for row, p in zip(*np.nonzero(given.counted(np.arange(4), 9)), strict=True)}
    found = {}
    for some in hidden_states(model, given):
        found |= dict(zip(zip(some.sequences, some.positions, strict=True), some.states, strict=True))
    assert found.keys() == counted
    for row in range(4):
        tokens = torch.from_numpy(given.tokens[row, : given.lengths[row]].astype(np.int64))[None]
        states = model(input_ids=tokens, output_hidden_states=True).hidden_states[-1][0]
        for position in range(len(states)):
            if (row, position) in found:
                torch.testing.assert_close(found[row, position], states[position].detach())


def test_the_head_makes_the_models_log_probabilities_of_them():
    model, given = network("gpt2"), sequences(**KINDS["completions"])
    found = np.zeros(4)
    for some in hidden_states(model, given):
        logp = model.lm_head(some.states).log_softmax(1).detach().numpy()
        labels = given.tokens[some.sequences, some.positions + 1]
        np.add.at(found, some.sequences, logp[np.arange(len(labels)), labels])
    np.testing.assert_allclose(found, log_probabilities(model, given))


def test_nothing_is_left_on_the_model_and_every_sequence_counts_as_progress():
    model, done = network("gpt2"), []
    assert sum(len(some.states) for some in hidden_states(model, sequences(), done.append)) == 19
    assert sum(done) == 4
    assert not model.lm_head._forward_pre_hooks
    assert state_width(model) == 8


def test_states_in_half_precision_are_in_float32():
    assert {some.states.dtype for some in hidden_states(network("llama").bfloat16(), sequences())} == {torch.float32}


def test_what_is_not_finite_is_refused():
    model = network("gpt2")
    model.transformer.ln_f.weight.data[0] = torch.inf
    with pytest.raises(FloatingPointError, match="not finite"):
        list(hidden_states(model, sequences()))


def test_a_cap_on_the_logits_does_not_matter():
    model = cases.gemma2(cap=1e4)
    states = torch.cat([some.states for some in hidden_states(model, sequences())])
    assert states.shape == (19, model.config.hidden_size)


def test_a_model_without_a_head_is_refused():
    model = network("gpt2")
    model.lm_head = torch.nn.Sequential(model.lm_head)
    with pytest.raises(InputError, match="no linear head"):
        list(hidden_states(model, sequences()))
