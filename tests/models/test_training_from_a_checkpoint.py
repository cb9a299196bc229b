"""Training from a checkpoint against a plain loop, and what decides its bits."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from influence_assets.errors import InputError
from influence_assets.models import training_run
from influence_assets.models.fine_tuning import fine_tune
from influence_assets.models.training_run import one_cycle
from influence_assets.study import Tuning
from influence_assets.training_tokens import TrainingTokens

WORDS, LENGTH = 40, 10
TUNING = Tuning(base="base", epochs=2, batch_sequences=3, learning_rate=1e-2, seed=4)


class InterruptionError(Exception):
    pass


def base(folder, dropout):
    torch.manual_seed(0)
    drop = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    sizes = {"vocab_size": WORDS, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**sizes, **drop, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    return folder


def part():
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, WORDS, (7, LENGTH)).astype(np.int32)
    lengths = generator.integers(4, LENGTH + 1, 7).astype(np.int32)
    return TrainingTokens(tokens, lengths, (generator.random(tokens.shape) < 0.6).astype(np.uint8))


@pytest.fixture
def tune(tmp_path):
    def call(sequences=None, tuning=TUNING, *, run="run", dropout=0.0, interrupt_at=None):
        folder = tmp_path / f"base{dropout}"
        if not folder.exists():
            base(folder, dropout)

        def progress(state):
            if state.step == interrupt_at:
                raise InterruptionError

        trained = fine_tune(
            folder, "hash", part() if sequences is None else sequences, tuning,
            device="cpu", workspace=tmp_path / run, progress=progress,
        )  # fmt: skip
        return trained, load_file(trained.folder / "model.safetensors")

    return call


def test_weights_are_those_of_a_plain_loop(tune, tmp_path):
    _, weights = tune()
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "base0.0")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=0.01)
    tokens, lengths, loss = part()
    steps = 2 * math.ceil(7 / 3)
    for step in range(steps):
        epoch, batch = divmod(step, math.ceil(7 / 3))
        rows = np.random.default_rng([4, epoch]).permutation(7)[3 * batch : 3 * batch + 3]
        losses = []
        for row in rows:
            log_p = model(input_ids=torch.from_numpy(tokens[None, row].astype(np.int64))).logits[0].log_softmax(-1)
            losses += [-log_p[at - 1, int(tokens[row, at])] for at in range(1, lengths[row]) if loss[row, at]]
        optimizer.param_groups[0]["lr"] = one_cycle(step, steps, peak=1e-2)
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    expected = model.state_dict()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_an_interrupted_run_ends_with_the_same_bits(tune, monkeypatch, dropout):
    _, whole = tune(run="whole", dropout=dropout)
    monkeypatch.setattr(training_run, "_SECONDS_BETWEEN_SAVES", -1.0)
    with pytest.raises(InterruptionError):
        tune(run="parts", dropout=dropout, interrupt_at=5)
    resumed, weights = tune(run="parts", dropout=dropout)
    assert resumed.resumed_from_step == 4 + 1
    assert all(torch.equal(weights[name], whole[name]) for name in whole)


def test_seeds_differ_and_one_seed_does_not(tune):
    first, again = tune(run="a")[1], tune(run="b")[1]
    other = tune(tuning=TUNING.model_copy(update={"seed": 5}), run="c")[1]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_tokens_after_the_last_loss_have_no_effect(tune):
    tokens, lengths, loss = part()
    loss[:, 6:] = 0
    changed = tokens.copy()
    changed[:, 6:] = (changed[:, 6:] + 1) % WORDS
    first = tune(TrainingTokens(tokens, lengths, loss), run="a")[1]
    other = tune(TrainingTokens(changed, lengths, loss), run="b")[1]
    assert all(torch.equal(first[name], other[name]) for name in first)


def test_tokens_that_the_checkpoint_lacks_are_refused(tune):
    tokens, lengths, loss = part()
    tokens[0, 0] = WORDS
    with pytest.raises(InputError, match=r"model\.tuned\.base: has an embedding of 40 tokens"):
        tune(TrainingTokens(tokens, lengths, loss))
