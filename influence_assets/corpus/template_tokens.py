"""Tokens of a text that a chat template wrote, in which only the template's special tokens are tokens.

A special token's name in what a user wrote must stay text. The tokenizer can only parse all of them or none, so those
of the template are replaced by markers, which a copy of the tokenizer knows as tokens that are not special.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer

from influence_assets.corpus.tokenization import Tokenization, TokenizedText
from influence_assets.errors import InputError

_EDGE = "\U0010fffd"
"""Begins and ends a marker: a character for private use that no text has."""


class TemplateTokens:
    """Tokenizes texts with special tokens at places that are known.

    Args:
        tokenization: how texts become tokens.
    """

    def __init__(self, tokenization: Tokenization) -> None:
        self._parsing = Tokenization(
            tokenization.tokenizer, tokenization.separator_id, tokenization.prefix_ids, tokenization.vocabulary, "parse"
        )
        self._added = {
            number: token
            for number, token in tokenization.tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        names = sorted((token.content for token in self._added.values() if token.content), key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names))) if names else None
        self._marking: tuple[Tokenizer, dict[int, int]] | None = None

    def names_in(self, text: str) -> list[tuple[int, int]]:
        """Return the characters of each special token's name in a text."""
        return [] if self._names is None else [match.span() for match in self._names.finditer(text)]

    def encode(self, text: str, plain: Sequence[tuple[int, int]], where: str) -> TokenizedText:
        """Return the tokens of a text.

        Args:
            text: the text.
            plain: the characters in which names of special tokens are text; elsewhere they are tokens.
            where: the file and row, for errors.

        Raises:
            InputError: as `Tokenization.encode`.
        """
        named = self.names_in(text)
        parsed = [span for span in named if not any(start < span[1] and span[0] < end for start, end in plain)]
        if len(parsed) == len(named):
            return self._parsing.encode(text, where)
        if _EDGE in text:
            raise InputError(where, f"has the character {_EDGE!r}, which is for private use", "Remove it.")
        return self._encode_marked(text, parsed, where)

    def _encode_marked(self, text: str, parsed: Sequence[tuple[int, int]], where: str) -> TokenizedText:
        numbers = {token.content: number for number, token in self._added.items()}
        pieces: list[str] = []
        origins: list[Any] = []  # of each character of the marked text, its place in the text
        position = 0
        for start, end in [*parsed, (len(text), len(text))]:
            pieces.append(text[position:start])
            origins.append(np.arange(position, start))
            if start < end:
                pieces.append(_marker(numbers[text[start:end]]))
                origins.append(np.full(len(pieces[-1]), start))
            position = end
        origin = np.concatenate([*origins, [len(text)]])
        tokenizer, special = self._marking or self._with_markers()
        try:
            encoding = tokenizer.encode("".join(pieces), add_special_tokens=False)
        except Exception as error:  # tokenizers raises bare Exceptions
            problem = f"the tokenizer has no token for some of its text ({error})"
            raise InputError(where, problem, "Leave this text out, or give the tokenizer an unknown token.") from error
        ids = np.array([special.get(number, number) for number in encoding.ids], dtype=np.int32)
        offsets = origin[np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)].astype(np.int32)
        self._parsing.check(ids.astype(np.int64), where)
        return TokenizedText(ids, np.ascontiguousarray(offsets[:, 0]), np.ascontiguousarray(offsets[:, 1]))

    def _with_markers(self) -> tuple[Tokenizer, dict[int, int]]:
        tokenizer = Tokenizer.from_str(self._parsing.tokenizer.to_str())
        for number, token in sorted(self._added.items()):
            marker = AddedToken(
                _marker(number),
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                single_word=token.single_word,
                normalized=False,
                special=False,
            )
            tokenizer.add_tokens([marker])
        tokenizer.encode_special_tokens = True
        special = {int(tokenizer.token_to_id(_marker(number)) or 0): number for number in self._added}
        self._marking = tokenizer, special
        return tokenizer, special


def _marker(number: int) -> str:
    return f"{_EDGE}{number}{_EDGE}"
