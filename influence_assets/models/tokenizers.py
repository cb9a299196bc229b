"""A model's fast tokenizer, exported as the two files that the rest of the package reads.

A folder's `tokenizer.json` is the tokenizer that its model was trained with. transformers builds some tokenizers anew
from their class, without the file's normalizer or pre-tokenizer, so what it loads is compared with the file, and the
file is used if they differ. The names of special tokens are those of transformers, which knows the folder's settings.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from influence_assets.errors import InputError
from influence_assets.models.quiet import first_line, quiet
from influence_assets.models.tokenizer_comparison import Difference, difference
from influence_assets.tokenizer_template import template_surroundings

TOKENIZER_FILE = "tokenizer.json"
ORIGIN_FILE = "origin.json"
OWN_CODE = "model.trust_remote_code"

_REMEDY = "Put the tokenizer that the model was trained with into the folder."


@dataclass(frozen=True)
class ExportedTokenizer:
    """What was noticed about a tokenizer.

    Args:
        notes: what a person should know about it, in sentences.
        corrected: its separator and prefix, if earlier releases found others; else None.
    """

    notes: tuple[str, ...]
    corrected: list[Any] | None


def export_tokenizer(
    folder: Path,
    destination: Path,
    *,
    embedding_rows: int,
    trust_remote_code: bool = False,
    texts: Iterable[str] = (),
) -> ExportedTokenizer:
    """Write a model's fast tokenizer as `tokenizer.json`, the tokens around a text as `tokens.json`, and its origin.

    tokens.json holds `separator_id` (the end-of-text id, or null), `prefix_ids` (the ids that the tokenizer's own
    template puts before a text) and `vocabulary` (= `embedding_rows`). origin.json holds `source`: what the tokenizer
    was read by, transformers or the tokenizers library.

    Args:
        folder: the model's folder, with its tokenizer's files.
        destination: the folder to write into.
        embedding_rows: rows of the model's input embedding; every id that text can have must be smaller.
        trust_remote_code: whether Python code beside the tokenizer may run.
        texts: texts on which transformers' tokenizer and the file are compared, beside the probes.

    Raises:
        InputError: the folder has no fast tokenizer, or one that does not belong to the model.
    """
    notes: list[str] = []
    loaded = _load_tokenizer(folder, trust_remote_code, notes)
    made = loaded.backend_tokenizer
    file = _read_file(folder)
    differs = None if file is None else difference(made, file, texts)
    used = made if file is None or differs is None else file
    _refuse_foreign(folder, used, embedding_rows, differs)
    if differs is not None:
        notes.append(_file_is_used(loaded, differs))
    # Some classes of transformers replace the template of the file, too.
    prefix, suffix = map(list, template_surroundings(made if file is None else file))
    separator = _separator(loaded, used, file, embedding_rows, notes)
    _refuse_beyond(folder, used, [*prefix, *([] if separator is None else [separator])], embedding_rows)
    if separator is None and suffix:
        names = " ".join(str(used.id_to_token(number)) for number in suffix)
        notes.append(f"The tokenizer's template ends a text with {names}; `sequences.separator` can add it.")
    surroundings = {"separator_id": separator, "prefix_ids": prefix, "vocabulary": embedding_rows}
    used.no_truncation()
    used.no_padding()
    destination.mkdir(parents=True, exist_ok=True)
    used.save(str(destination / TOKENIZER_FILE))
    (destination / "tokens.json").write_text(json.dumps(surroundings), encoding="utf-8")
    origin = {"source": "transformers" if used is made else "tokenizers"}
    (destination / ORIGIN_FILE).write_text(json.dumps(origin), encoding="utf-8")
    around = [separator, prefix]
    return ExportedTokenizer(tuple(notes), None if around == _around_a(made, loaded.eos_token_id) else around)


def _around_a(made: Tokenizer, separator: int | None) -> list[Any]:
    """Return the tokens around a text as earlier releases found them, by encoding the letter a."""
    made.no_truncation()
    made.no_padding()
    try:
        encoding = made.encode("a", add_special_tokens=True)
    except Exception:  # noqa: BLE001  # tokenizers raises bare Exceptions
        return []
    before = takewhile(lambda pair: pair[1] == 1, zip(encoding.ids, encoding.special_tokens_mask, strict=True))
    return [separator, [token for token, _ in before]]


def _load_tokenizer(folder: Path, trust_remote_code: bool, notes: list[str]) -> Any:  # noqa: FBT001
    """Return the folder's fast tokenizer, whose type differs between versions of transformers."""
    try:
        with quiet():
            # False, not None: transformers would ask on standard input whether the code may run.
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, use_fast=True, trust_remote_code=trust_remote_code
            )
    except Exception as error:  # a damaged file can raise anything; tokenizers itself raises bare Exceptions
        needs_trust = not trust_remote_code and "trust_remote_code" in str(error)
        if not (folder / TOKENIZER_FILE).is_file():
            raise _needs_trust(folder) if needs_trust else _no_tokenizer(folder, first_line(error)) from error
        reason = f"its own Python code does not run without {OWN_CODE}" if needs_trust else first_line(error)
        tokenizer = _without_class(folder, reason, notes)
    if not tokenizer.is_fast and (folder / TOKENIZER_FILE).is_file():
        tokenizer = _without_class(folder, f"{type(tokenizer).__name__} does not know the characters of tokens", notes)
    if not tokenizer.is_fast:
        raise _no_tokenizer(
            folder, f"{type(tokenizer).__name__} has no fast version, and only those know the characters of tokens"
        )
    # For some architectures transformers makes up an empty tokenizer if there are no files. Those that the class names
    # are not all that it reads: transformers saves any fast tokenizer as tokenizer.json alone.
    names = {TOKENIZER_FILE, *tokenizer.vocab_files_names.values()}
    if not any((folder / name).is_file() for name in names):
        raise _no_tokenizer(folder, "no tokenizer files")
    return tokenizer


def _without_class(folder: Path, reason: str, notes: list[str]) -> Any:
    """Return the tokenizer of tokenizer.json with the names in its settings, if its class cannot be used."""
    try:
        with quiet():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise _no_tokenizer(folder, first_line(error)) from error
    notes.append(f"The tokenizer is that of {TOKENIZER_FILE}, without the class that its settings name: {reason}.")
    return tokenizer


def _read_file(folder: Path) -> Tokenizer | None:
    """Return the tokenizer of the folder's tokenizer.json as it is written there, or None if there is no such file."""
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        return None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise _no_tokenizer(folder, first_line(error)) from error


def _refuse_foreign(folder: Path, tokenizer: Tokenizer, embedding_rows: int, differs: Difference | None) -> None:
    """Raise if a text can have a token without an embedding; a special token that no text can have does not matter."""
    added = tokenizer.get_added_tokens_decoder()
    special = {token.content for token in added.values() if token.special}
    in_text = {number for token, number in tokenizer.get_vocab().items() if token not in special}
    largest = max(in_text, default=-1)
    if largest < embedding_rows:
        return
    beside = "" if differs is None else f"; it is not what transformers makes of its files, which splits {differs}"
    raise InputError(
        str(folder),
        f"the tokenizer does not belong to the model: its ids go up to {largest}, "
        f"the embedding has {embedding_rows} rows{beside}",
        _REMEDY,
    )


def _file_is_used(loaded: Any, differs: Difference) -> str:
    return (
        f"The tokenizer is that of {TOKENIZER_FILE}; {type(loaded).__name__} of transformers splits text otherwise "
        f"({differs.used_count:,} tokens where the file gives {differs.of_file_count:,}): {differs}."
    )


def _separator(
    loaded: Any, used: Tokenizer, file: Tokenizer | None, embedding_rows: int, notes: list[str]
) -> int | None:
    """Return the id of the end-of-text token, or None if the model knows none.

    transformers appends a class's own end-of-text token to a vocabulary without it. The model never saw that one.
    """
    name = loaded.eos_token
    if name is None:
        return None
    number = used.token_to_id(name)
    is_appended = file is not None and file.token_to_id(name) is None
    if number is None or (is_appended and number >= embedding_rows):
        notes.append(f"No token ends a document: {name} is not in the tokenizer's vocabulary.")
        return None
    return int(number)


def _refuse_beyond(folder: Path, tokenizer: Tokenizer, around: list[int], embedding_rows: int) -> None:
    for number in around:
        if number >= embedding_rows:
            raise InputError(
                str(folder),
                f"the tokenizer does not belong to the model: its {tokenizer.id_to_token(number)} is {number}, "
                f"the embedding has {embedding_rows} rows",
                _REMEDY,
            )


def _needs_trust(folder: Path) -> InputError:
    return InputError(
        str(folder),
        f"the tokenizer needs Python code of its own, which may not run, and there is no {TOKENIZER_FILE}",
        f"Read that code and, if you trust it, set {OWN_CODE} to true.",
    )


def _no_tokenizer(folder: Path, reason: str) -> InputError:
    return InputError(
        str(folder), f"no fast tokenizer can be loaded ({reason})", "Put the model's own tokenizer.json there."
    )
