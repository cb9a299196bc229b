"""A model's fast tokenizer, exported as the two files that the rest of the package reads."""

import json
from itertools import takewhile
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from influence_assets.errors import InputError
from influence_assets.models.quiet import first_line, quiet


def export_tokenizer(folder: Path, destination: Path, *, embedding_rows: int) -> None:
    """Write a model's fast tokenizer as `tokenizer.json`, and the tokens around a text as `tokens.json`.

    tokens.json holds `separator_id` (the end-of-text id, or null), `prefix_ids` (the ids that the tokenizer's own
    template puts before a text) and `vocabulary` (= `embedding_rows`).

    Args:
        folder: the model's folder, with its tokenizer's files.
        destination: the folder to write into.
        embedding_rows: rows of the model's input embedding; every id must be smaller.

    Raises:
        InputError: the folder has no fast tokenizer, or one that does not belong to the model.
    """
    tokenizer = _load_tokenizer(folder)
    largest = max(tokenizer.get_vocab().values())
    if largest >= embedding_rows:
        raise InputError(
            str(folder),
            f"the tokenizer does not belong to the model: its ids go up to {largest}, "
            f"the embedding has {embedding_rows} rows",
            "Put the tokenizer that the model was trained with into the folder.",
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    template = backend.encode("a", add_special_tokens=True)
    before = takewhile(lambda pair: pair[1] == 1, zip(template.ids, template.special_tokens_mask, strict=True))
    surroundings = {
        "separator_id": tokenizer.eos_token_id,
        "prefix_ids": [token for token, _ in before],
        "vocabulary": embedding_rows,
    }
    destination.mkdir(parents=True, exist_ok=True)
    backend.save(str(destination / "tokenizer.json"))
    (destination / "tokens.json").write_text(json.dumps(surroundings), encoding="utf-8")


def _load_tokenizer(folder: Path) -> Any:
    """Return the folder's fast tokenizer, whose type differs between versions of transformers."""
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
    except Exception as error:  # a damaged file can raise anything; tokenizers itself raises bare Exceptions
        raise _no_tokenizer(folder, first_line(error)) from error
    if not tokenizer.is_fast:
        raise _no_tokenizer(
            folder, f"{type(tokenizer).__name__} has no fast version, and only those know the characters of tokens"
        )
    # For some architectures transformers makes up an empty tokenizer if there are no files.
    if not any((folder / name).is_file() for name in tokenizer.vocab_files_names.values()):
        raise _no_tokenizer(folder, "no tokenizer files")
    return tokenizer


def _no_tokenizer(folder: Path, reason: str) -> InputError:
    return InputError(
        str(folder), f"no fast tokenizer can be loaded ({reason})", "Put the model's own tokenizer.json there."
    )
