"""Tokenization of documents and queries into the ids that the model reads."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from influence_assets.errors import InputError
from influence_assets.study import SpecialTokens
from influence_assets.tokenizer_template import template_surroundings

_REMEDY = "This tokenizer does not belong to the model: use the one that the model was trained with."


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """The tokens of one text, without any special ones.

    Attributes:
        tokens: int32 [T].
        character_start: int32 [T], the first Unicode character of the text that the token covers.
        character_end: int32 [T], one past the last. Tokens that share a character share its range.
    """

    tokens: NDArray[np.int32]
    character_start: NDArray[np.int32]
    character_end: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, eq=False)
class Tokenization:
    """A tokenizer, and the ids that surround a text.

    Attributes:
        tokenizer: a copy of the model's, without its template, truncation and padding.
        separator_id: the id that ends a document, or None.
        prefix_ids: the ids that the model's own template puts before a text (Llama: its bos id; GPT-2: none).
        vocabulary: rows of the model's embedding; every id must be smaller.
        special_tokens: whether the name of a special token in a text stays text, or is parsed as the token.

    Raises:
        InputError: a special id is not in the vocabulary.
    """

    tokenizer: Tokenizer
    separator_id: int | None
    prefix_ids: tuple[int, ...]
    vocabulary: int
    special_tokens: SpecialTokens = "text"

    def __post_init__(self) -> None:
        tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # The template would add ids, and ByteLevel's would trim white space from the offsets.
        tokenizer.post_processor = None
        # A document that quotes "<|endoftext|>" must not end there. tokenizer.json and copies lose this setting.
        tokenizer.encode_special_tokens = self.special_tokens == "text"
        object.__setattr__(self, "tokenizer", tokenizer)
        object.__setattr__(self, "prefix_ids", tuple(self.prefix_ids))
        special = [*self.prefix_ids, *([] if self.separator_id is None else [self.separator_id])]
        self.check(np.array(special, dtype=np.int64), "the tokenizer's special ids")

    def __reduce__(self) -> tuple[type["Tokenization"], tuple[Any, ...]]:
        """Make copies run `__post_init__`, which restores a setting that copies of a tokenizer lose."""
        fields = (self.tokenizer, self.separator_id, self.prefix_ids, self.vocabulary, self.special_tokens)
        return (type(self), fields)

    @classmethod
    def of(cls, tokenizer: Tokenizer, separator_id: int | None, vocabulary: int) -> "Tokenization":
        """Return the tokenization of a model from its own tokenizer, which is left as it is.

        Args:
            tokenizer: the model's, with its template.
            separator_id: the id of its end-of-text token, or None if it has none.
            vocabulary: rows of the model's embedding.

        Raises:
            InputError: a special id is not in the vocabulary.
        """
        return cls(tokenizer, separator_id, template_surroundings(tokenizer)[0], vocabulary)

    @classmethod
    def load(cls, folder: Path) -> "Tokenization":
        """Read the files that `save` wrote."""
        saved = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return cls(tokenizer, saved["separator_id"], tuple(saved["prefix_ids"]), saved["vocabulary"])

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokens.json` into a folder that exists."""
        self.tokenizer.save(str(folder / "tokenizer.json"))
        saved = {"separator_id": self.separator_id, "prefix_ids": self.prefix_ids, "vocabulary": self.vocabulary}
        (folder / "tokens.json").write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")

    @property
    def special_names(self) -> list[str]:
        """The names of all special tokens."""
        added = self.tokenizer.get_added_tokens_decoder()
        return [token.content for _, token in sorted(added.items()) if token.special]

    def before(self, text: TokenizedText) -> list[int]:
        """Return the ids to put before a text: the prefix, unless special tokens are parsed and the text has it."""
        prefix = list(self.prefix_ids)
        return [] if self.special_tokens == "parse" and text.tokens[: len(prefix)].tolist() == prefix else prefix

    def after(self, text: TokenizedText) -> list[int]:
        """Return the ids to put after a text: the separator, unless special tokens are parsed and the text has it."""
        suffix = [] if self.separator_id is None else [self.separator_id]
        return [] if self.special_tokens == "parse" and text.tokens[-1:].tolist() == suffix else suffix

    def encode(self, text: str, where: str) -> TokenizedText:
        """Return the tokens of a text, without any special ones.

        Raises:
            InputError: an id is not in the model's vocabulary, or the tokenizer has none for some of the text; the
                error names `where`.
        """
        try:
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
        except Exception as error:  # tokenizers raises bare Exceptions
            problem = f"the tokenizer has no token for some of its text ({error})"
            raise InputError(where, problem, "Leave this text out, or give the tokenizer an unknown token.") from error
        return self._checked(encoding, where)

    def encode_batch(self, texts: Sequence[str], places: Sequence[str]) -> list[TokenizedText]:
        """Return the tokens of several texts, using all cores; see `encode`."""
        try:
            encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        except Exception:  # noqa: BLE001  # tokenizers raises bare Exceptions; one by one, the text is named
            return [self.encode(text, where) for text, where in zip(texts, places, strict=True)]
        return [self._checked(encoding, where) for encoding, where in zip(encodings, places, strict=True)]

    def _checked(self, encoding: Encoding, where: str) -> TokenizedText:
        tokens = np.array(encoding.ids, dtype=np.int64)
        self.check(tokens, where)
        offsets = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        start, end = np.ascontiguousarray(offsets[:, 0]), np.ascontiguousarray(offsets[:, 1])
        return TokenizedText(tokens.astype(np.int32), start, end)

    def check(self, ids: NDArray[np.int64], where: str) -> None:
        """Raise if an id is not in the model's vocabulary.

        Raises:
            InputError: one is not; the error names `where`.
        """
        beyond = ids[(ids < 0) | (ids >= self.vocabulary)]
        if beyond.size:
            problem = f"token id {beyond[0]} is beyond the model's {self.vocabulary} embeddings"
            raise InputError(where, problem, _REMEDY)
