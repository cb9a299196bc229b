import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from influence_assets.errors import InputError
from influence_assets.models import training_run
from influence_assets.models.loading import load_model
from influence_assets.models.tokenizers import export_tokenizer
from influence_assets.models.training import train_language_model, train_tokenizer
from influence_assets.models.training_run import one_cycle
from influence_assets.study import Training

TEXTS = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs"] * 5
SETTINGS = Training(layers=1, width=16, heads=2, vocabulary=280, epochs=3, batch_sequences=3, learning_rate=1e-2)
LENGTH = 12


class InterruptionError(Exception):
    pass


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, SETTINGS.vocabulary)


@pytest.fixture(scope="module")
def packed(tokenizer):
    """Ten sequences, the last padded, as (tokens, lengths)."""
    ids = [token for text in TEXTS for token in [*tokenizer.encode(text).ids, 0]][: 10 * LENGTH - 5]
    tokens = np.zeros(10 * LENGTH, np.int32)
    tokens[: len(ids)] = ids
    lengths = np.full(10, LENGTH, np.int32)
    lengths[-1] -= 5
    return tokens.reshape(10, LENGTH), lengths


@pytest.fixture
def train(packed, tokenizer, tmp_path):
    def call(settings=SETTINGS, *, sequences=None, lengths=None, workspace="run", interrupt_at=None):
        steps = []

        def progress(report):
            steps.append(report)
            if report.step == interrupt_at:
                raise InterruptionError

        trained = train_language_model(
            packed[0] if sequences is None else sequences,
            packed[1] if lengths is None else lengths,
            settings,
            tokenizer=tokenizer,
            workspace=tmp_path / workspace,
            progress=progress,
        )
        return trained, steps

    return call


def _weights(folder):
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(folder / "model.safetensors").items()}


def test_interrupted_run_ends_with_the_same_bits(train):
    """Three epochs of four steps: stopped in the third, again at its first step, then finished."""
    whole, _ = train(workspace="whole")
    with pytest.raises(InterruptionError):
        train(workspace="parts", interrupt_at=10)
    with pytest.raises(InterruptionError):
        train(workspace="parts", interrupt_at=9)
    resumed, steps = train(workspace="parts")
    assert resumed.resumed_from_step == 8
    assert [report.step for report in steps] == [9, 10, 11, 12]
    assert _weights(resumed.folder) == _weights(whole.folder)
    assert resumed.final_loss == whole.final_loss
    assert whole.resumed_from_step == 0


def test_state_saved_within_an_epoch_resumes_to_the_same_bits(train, monkeypatch):
    whole, _ = train(workspace="whole")
    monkeypatch.setattr(training_run, "_SECONDS_BETWEEN_SAVES", -1.0)
    with pytest.raises(InterruptionError):
        train(workspace="parts", interrupt_at=6)
    resumed, _ = train(workspace="parts")
    assert resumed.resumed_from_step == 6
    assert _weights(resumed.folder) == _weights(whole.folder)
    assert resumed.final_loss == whole.final_loss


def test_finished_run_is_not_run_again(train):
    first, _ = train()
    before = _weights(first.folder)
    again, steps = train()
    assert steps == []
    assert (again.resumed_from_step, again.final_loss) == (first.steps, first.final_loss)
    assert _weights(again.folder) == before


@pytest.mark.parametrize("change", ["seed", "epochs", "learning_rate", "tokens", "lengths"])
def test_other_settings_or_tokens_start_over(train, packed, change):
    with pytest.raises(InterruptionError):
        train(interrupt_at=5)
    tokens, lengths = packed
    others = {
        "seed": {"settings": SETTINGS.model_copy(update={"seed": 1})},
        "epochs": {"settings": SETTINGS.model_copy(update={"epochs": 4})},
        "learning_rate": {"settings": SETTINGS.model_copy(update={"learning_rate": 2e-2})},
        "tokens": {"sequences": np.where(tokens == tokens[0, 0], 5, tokens).astype(np.int32)},
        "lengths": {"lengths": lengths - 1},
    }[change]
    trained, _ = train(**others)
    fresh, _ = train(**others, workspace="fresh")
    assert trained.resumed_from_step == 0
    assert _weights(trained.folder) == _weights(fresh.folder)


def test_damaged_state_starts_over(train, tmp_path):
    with pytest.raises(InterruptionError):
        train(interrupt_at=5)
    state = tmp_path / "run" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    trained, _ = train()
    assert trained.resumed_from_step == 0


def test_training_leaves_the_global_generator_alone(train):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train()
    assert torch.equal(torch.rand(2), expected)


def test_seed_decides_the_weights(train):
    first, _ = train(workspace="a")
    other, _ = train(SETTINGS.model_copy(update={"seed": 1}), workspace="b")
    assert _weights(first.folder) != _weights(other.folder)


def test_padding_does_not_count(train, packed):
    """Whatever stands after a sequence's length, the weights and the loss are the same."""
    tokens, lengths = packed
    filled = tokens.copy()
    filled[-1, lengths[-1] :] = 77
    first, _ = train(workspace="a")
    other, _ = train(sequences=filled, workspace="b")
    torch.testing.assert_close(first.final_loss, other.final_loss, rtol=1e-6, atol=0)
    a, b = load_file(first.folder / "model.safetensors"), load_file(other.folder / "model.safetensors")
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_sequence_without_a_target_is_harmless(train, packed):
    lengths = packed[1].copy()
    lengths[:4] = 1
    trained, _ = train(SETTINGS.model_copy(update={"batch_sequences": 1}), lengths=lengths)
    assert math.isfinite(trained.final_loss)


def test_first_loss_is_that_of_the_untrained_model(train, tokenizer):
    """The logits start small, so the tokens start nearly equally likely: log(vocabulary) nats each."""
    _, steps = train()
    assert steps[0].loss == pytest.approx(math.log(tokenizer.get_vocab_size()), rel=0.1)


def test_final_loss_is_the_last_epochs_mean_per_token(train, packed):
    """At a vanishing learning rate every epoch measures the same model: compare with transformers' own loss."""
    settings = SETTINGS.model_copy(update={"learning_rate": 1e-30, "batch_sequences": 4})
    trained, _ = train(settings)
    model = load_model(trained.folder, dtype="float64", device="cpu")
    tokens, lengths = (torch.from_numpy(array.astype(np.int64)) for array in packed)
    labels = tokens.masked_fill(torch.arange(LENGTH) >= lengths[:, None], -100)
    assert trained.final_loss == pytest.approx(model(input_ids=tokens, labels=labels).loss.item(), rel=1e-5)


def test_model_learns_its_text(train):
    trained, steps = train(SETTINGS.model_copy(update={"epochs": 60}))
    assert trained.final_loss < 0.5 < steps[0].loss / 5
    assert [report.step for report in steps] == list(range(1, 241))
    assert (steps[3].epoch, steps[4].epoch, steps[-1].epoch) == (1, 2, 60)
    assert trained.steps == steps[-1].steps == 240


def test_result_is_a_standard_folder(train, tokenizer, tmp_path):
    trained, _ = train()
    model = load_model(trained.folder, dtype="float32", device="cpu")
    assert model.config.n_positions == LENGTH
    assert model.config.vocab_size == tokenizer.get_vocab_size()
    export_tokenizer(trained.folder, tmp_path / "out", embedding_rows=model.config.vocab_size)
    exported = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert exported.encode(TEXTS[0]).ids == tokenizer.encode(TEXTS[0]).ids
    assert json.loads((tmp_path / "out" / "tokens.json").read_text()) == {
        "separator_id": 0,
        "prefix_ids": [],
        "vocabulary": tokenizer.get_vocab_size(),
    }
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"model", "state.safetensors"}


def test_nothing_to_train_on_is_refused(train):
    with pytest.raises(InputError, match=r"corpus\.path: holds no text"):
        train(sequences=np.zeros((0, LENGTH), np.int32), lengths=np.zeros(0, np.int32))


def test_one_cycle_rises_to_the_peak_and_falls():
    rates = [one_cycle(step, 1000, peak=4e-3) for step in range(1000)]
    assert rates[0] == pytest.approx(4e-3 / 25)
    assert rates[150] == max(rates) == 4e-3
    assert rates[75] == pytest.approx((4e-3 / 25 + 4e-3) / 2)
    assert rates[-1] == pytest.approx(4e-3 / 250_000)
    assert rates[:151] == sorted(rates[:151])
    assert rates[150:] == sorted(rates[150:], reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_one_cycle_of_a_few_steps_is_usable(steps):
    assert all(0 < one_cycle(step, steps, peak=1.0) <= 1 for step in range(steps))


def test_tokenizer_is_byte_level_and_the_same_each_time():
    tokenizer = train_tokenizer(iter(TEXTS), 280)
    assert tokenizer.to_str() == train_tokenizer(iter(TEXTS), 280).to_str()
    assert tokenizer.token_to_id("<|endoftext|>") == 0
    assert tokenizer.get_vocab_size() == 280
    unseen = "naïve 漢字 \t\n «» 🙂"
    assert tokenizer.decode(tokenizer.encode(unseen).ids) == unseen


def test_tokens_without_a_loss_are_not_learnt(packed, tokenizer, tmp_path):
    """Of a model that does not move, the loss of the only epoch is the mean over the tokens with a loss, by hand."""
    tokens, lengths = packed
    mask = (np.random.default_rng(0).random(tokens.shape) < 0.3).astype(np.uint8)
    mask[2] = 0
    still = SETTINGS.model_copy(update={"epochs": 1, "learning_rate": 1e-30})
    trained = train_language_model(
        tokens, lengths, still, tokenizer=tokenizer, workspace=tmp_path, progress=lambda _: None, loss_mask=mask
    )
    model = load_model(trained.folder, dtype="float64", device="cpu")
    losses = []
    for row, length, carries in zip(tokens, lengths, mask, strict=True):
        logits = model(input_ids=torch.from_numpy(row[None].astype(np.int64))).logits[0].log_softmax(-1)
        losses += [-float(logits[t, row[t + 1]]) for t in range(length - 1) if carries[t + 1]]
    assert trained.final_loss == pytest.approx(np.mean(losses), rel=1e-5)
