"""Models that are trained at once are those that are trained one by one, in float64."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, MixtralConfig

from influence_assets.errors import InputError
from influence_assets.models.training_run import TrainingRun
from influence_assets.models.training_together import can_be_together, size_of_one, train_together
from influence_assets.study import Tuning
from influence_assets.training_tokens import TrainingTokens

WORDS, LENGTH = 30, 8


def model(seed):
    torch.manual_seed(seed)
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "attn_implementation": "eager"}
    sizes = {"vocab_size": WORDS, "n_positions": LENGTH, "n_embd": 8, "n_layer": 2, "n_head": 2}
    config = GPT2Config(**sizes, **still, initializer_range=0.3, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).double().train()


def part(sequences, seed):
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, WORDS, (sequences, LENGTH)).astype(np.int32)
    lengths = generator.integers(3, LENGTH + 1, sequences).astype(np.int32)
    return TrainingTokens(tokens, lengths, (generator.random(tokens.shape) < 0.7).astype(np.uint8))


def float64_loss(trained, tokens, labels):
    logits = trained(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")


def test_they_are_those_of_training_one_by_one(tmp_path):
    """Of 7, 5 and 10 sequences in batches of 3: 3, 2 and 4 steps an epoch, two of them with a smaller last batch."""
    parts = [part(count, count) for count in (7, 5, 10)]
    recipes = [Tuning(base="b", epochs=2, batch_sequences=3, learning_rate=1e-2, seed=seed) for seed in (1, 2, 3)]
    models = [model(seed) for seed in (1, 2, 3)]
    together = train_together(models, parts, recipes)
    for number, (among, each, recipe) in enumerate(zip(together, parts, recipes, strict=True)):
        alone = copy.deepcopy(models[number])
        run = TrainingRun(alone, partial(float64_loss, alone), each, recipe, {})
        trained = run.train(tmp_path / str(number), lambda _: None, lambda folder: folder.mkdir())
        assert among.steps == trained.steps
        assert among.final_loss == pytest.approx(trained.final_loss)
        for name, expected in alone.named_parameters():
            torch.testing.assert_close(among.weights[name], expected.detach(), rtol=1e-7, atol=1e-9)
            assert not torch.equal(among.weights[name], dict(models[number].named_parameters())[name])


def test_nothing_to_train_on_is_refused():
    recipe = Tuning(base="b")
    with pytest.raises(InputError, match="holds no text"):
        train_together([model(0)], [part(0, 0)], [recipe])


def test_dropout_and_experts_keep_models_apart():
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    assert can_be_together(GPT2Config(**none))
    assert not can_be_together(GPT2Config())
    assert not can_be_together(GPT2Config(**none | {"attn_pdrop": 0.1}))
    assert can_be_together(LlamaConfig())
    assert not can_be_together(LlamaConfig(attention_dropout=0.1))
    assert not can_be_together(MixtralConfig())


def test_the_size_is_that_of_the_weights_and_of_a_batch():
    config = model(0).config
    sizes = [size_of_one(config, batch, LENGTH) for batch in (2, 4, 6)]
    weights = 4 * sum(parameter.numel() for parameter in model(0).parameters())
    assert {size.weights for size in sizes} == {weights}
    first, second, third = (size.training for size in sizes)
    assert first > 5 * weights
    # What does not depend on the batch are copies of the weights, causal masks and positions.
    assert second - first == pytest.approx(third - second, rel=0.05)
    assert second - first > 2 * 4 * LENGTH * WORDS
