"""How long models of the demo's size take when they are trained at once and one by one.

python -m benchmarks.many_models --device cuda --models 64
"""

import copy
import time
from functools import partial
from typing import Annotated

import numpy as np
import typer
from transformers import GPT2Config, GPT2LMHeadModel

from influence_assets.models.fine_tuning import summed_loss
from influence_assets.models.training_run import TrainingRun
from influence_assets.models.training_together import train_together
from influence_assets.study import Tuning
from influence_assets.training_tokens import TrainingTokens

WORDS, LENGTH = 2048, 128


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    models: Annotated[int, typer.Option(help="How many are trained at once.")] = 4,
    steps: Annotated[int, typer.Option(help="Optimiser steps of each.")] = 10,
) -> None:
    """Train the models in both ways, and print the seconds of a step of one model."""
    sizes = {"vocab_size": WORDS, "n_positions": LENGTH, "n_embd": 128, "n_layer": 3, "n_head": 4}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "attn_implementation": "eager"}
    config = GPT2Config(**sizes, **still, activation_function="gelu_pytorch_tanh", bos_token_id=0, eos_token_id=0)
    first = GPT2LMHeadModel(config).train()
    recipe = Tuning(base="base", epochs=1, batch_sequences=16, learning_rate=4e-3)
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, WORDS, (steps * recipe.batch_sequences, LENGTH)).astype(np.int32)
    part = TrainingTokens(tokens, np.full(len(tokens), LENGTH, np.int32), None)

    alone = copy.deepcopy(first).to(device)
    run = TrainingRun(alone, partial(summed_loss, alone), part, recipe, {})
    run.take_step()  # compiles and allocates
    started = time.perf_counter()
    while run.step < run.steps:
        run.take_step()
    print(f"one by one: {(time.perf_counter() - started) / (steps - 1):.4f} s a step of one model")

    started = time.perf_counter()
    train_together([first] * models, [part] * models, [recipe] * models, device=device)
    seconds = time.perf_counter() - started
    print(f"{models} at once: {seconds / steps / models:.4f} s a step of one model")


if __name__ == "__main__":
    typer.run(main)
