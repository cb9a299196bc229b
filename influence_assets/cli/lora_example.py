"""The model of the LoRA example: a small GPT-2 that knows the texts, and an adapter that learnt the conversations."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from influence_assets.study import Training

MODEL, ADAPTER = "model", "adapter"
TRAINING = Training(layers=2, width=64, heads=4, vocabulary=512, epochs=40)
LENGTH = 64
RANK, STEPS, RATE = 4, 300, 0.01


def write_fine_tuned(folder: Path, texts: Sequence[str], conversations: Sequence[Mapping[str, Any]]) -> None:
    """Train both within seconds, and write them as `model` and `adapter` into a folder.

    PEFT has to be installed.

    Args:
        folder: the study's folder.
        texts: what the base model is trained on.
        conversations: rows with `messages`, on whose answers the adapter is trained.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other longer than they multiply such small matrices
    try:
        _write_both(folder, texts, conversations)
    finally:
        torch.set_num_threads(threads)


def _write_both(folder: Path, texts: Sequence[str], conversations: Sequence[Mapping[str, Any]]) -> None:
    _write_base(folder / MODEL, texts, [m["content"] for row in conversations for m in row["messages"]])
    _write_adapter(folder / ADAPTER, folder / MODEL, conversations)


def _write_base(folder: Path, texts: Sequence[str], also_said: Sequence[str]) -> None:
    import numpy as np

    from influence_assets.corpus.packing import pack
    from influence_assets.corpus.tokenization import Tokenization
    from influence_assets.models.chat_templates import CHATML, CHATML_TOKENS, FILE
    from influence_assets.models.training import END_OF_TEXT, train_language_model, train_tokenizer

    tokenizer = train_tokenizer([*texts, *also_said], TRAINING.vocabulary, CHATML_TOKENS)
    tokenization = Tokenization.of(tokenizer, tokenizer.token_to_id(END_OF_TEXT), tokenizer.get_vocab_size())
    documents = pl.DataFrame({"document_id": texts, "source_row": range(1, len(texts) + 1), "text": texts})
    packed = list(pack([documents], tokenization, LENGTH, "example"))
    tokens, lengths = (np.concatenate([getattr(part, name) for part in packed]) for name in ("tokens", "lengths"))
    with TemporaryDirectory(dir=folder.parent) as scratch:
        trained = train_language_model(
            tokens, lengths, TRAINING, tokenizer=tokenizer, workspace=Path(scratch), progress=lambda _: None
        )
        trained.folder.rename(folder)
    (folder / FILE).write_text(CHATML, encoding="utf-8")


def _write_adapter(folder: Path, base: Path, conversations: Sequence[Mapping[str, Any]]) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from influence_assets.models.quiet import quiet

    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of PEFT's use of transformers
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base)
        torch.manual_seed(0)
        # GPT-2's linear layers store their weights transposed.
        settings = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", fan_in_fan_out=True)
        tuned = get_peft_model(model, settings)
        optimizer = torch.optim.AdamW((p for p in tuned.parameters() if p.requires_grad), lr=RATE)
        rendered: list[Any] = [
            tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
            for row in conversations
        ]
        longest = max(len(row["input_ids"]) for row in rendered)
        tokens = torch.zeros(len(rendered), longest, dtype=torch.long)
        labels = torch.full_like(tokens, -100)  # no loss outside of answers
        for number, row in enumerate(rendered):
            ids, is_answer = (torch.tensor(row[name]) for name in ("input_ids", "assistant_masks"))
            tokens[number, : len(ids)] = ids
            labels[number, : len(ids)] = ids.masked_fill(is_answer == 0, -100)
        for _ in range(STEPS):
            tuned(input_ids=tokens, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        tuned.save_pretrained(str(folder), save_embedding_layers=False)
