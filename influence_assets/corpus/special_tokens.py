"""Counts the names of special tokens in texts that are read as plain text, each name of which is split into letters."""

import re
from collections import Counter
from collections.abc import Iterable

from influence_assets.corpus.tokenization import Tokenization

NAMED = 4
"""How many special tokens a note names."""

FULL = 0.1
"""The share of texts with special tokens from which on a note says so: a few pages that quote them are no reason."""


class SpecialTokenCounter:
    """Counts texts with names of special tokens, and the names.

    Args:
        tokenization: how the texts become tokens; if it parses special tokens, nothing is counted.
    """

    def __init__(self, tokenization: Tokenization) -> None:
        names = [name for name in tokenization.special_names if name.strip()]
        names = [] if tokenization.special_tokens == "parse" else sorted(names, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names))) if names else None
        self.texts = 0
        self.texts_with_names = 0
        self.names: Counter[str] = Counter()

    def count(self, texts: Iterable[str]) -> None:
        """Count some more texts."""
        for text in texts:
            self.texts += 1
            found = self._names.findall(text) if self._names is not None else ()
            self.texts_with_names += bool(found)
            self.names.update(found)

    def notes(self, of: str, key: str) -> list[str]:
        """Return a sentence if the texts are full of special tokens, else nothing.

        Args:
            of: what the texts are, in the plural.
            key: the key of the study by which special tokens are parsed.
        """
        if not self.texts_with_names or self.texts_with_names < FULL * self.texts:
            return []
        named = ", ".join(f"{name} {count:,} times" for name, count in self.names.most_common(NAMED))
        more = f" and {len(self.names) - NAMED} more" if len(self.names) > NAMED else ""
        return [
            f"{self.texts_with_names:,} of {self.texts:,} {of} have special tokens of the model ({named}{more}), which "
            f"are read as text and split. If the model was trained on the tokens, set {key} to parse."
        ]
