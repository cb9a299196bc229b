"""Excerpts of passages, around the words through which they act."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

MATTERS = 0.25
"""A word matters if its influence is at least this share of the passage's largest, in size."""

_WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]|[^\s\u2e80-\u9fff\uac00-\ud7af]+")
"""Runs without blanks; scripts that are written without any, a character each."""


@dataclass(frozen=True)
class Word:
    """A word of a text, from `start` to before `end`, with the sum of its tokens' influence in nats."""

    start: int
    end: int
    influence_nats: float


@dataclass(frozen=True)
class Excerpt:
    """A part of a text, from `start` to before `end`, and its words that matter."""

    text: str
    start: int
    end: int
    words: tuple[Word, ...]

    def pieces(self) -> Iterable[tuple[str, float | None]]:
        """Yield the excerpt in pieces, each with its influence if it is a word that matters."""
        reached = self.start
        for word in self.words:
            yield self.text[reached : word.start], None
            yield self.text[word.start : word.end], word.influence_nats
            reached = word.end
        yield self.text[reached : self.end], None


def words_of(text: str, tokens: Iterable[tuple[int, int, float]]) -> list[Word]:
    """Return a text's words with the influence of their tokens.

    A token counts for the last word that it touches, since tokens begin with the blank before a word; one that touches
    none counts for nothing.

    Args:
        text: the text.
        tokens: first character, one past the last, and influence in nats of each token, in order.
    """
    words = [[found.start(), found.end(), 0.0] for found in _WORD.finditer(text)]
    place = 0
    for start, end, influence in tokens:
        while place < len(words) and words[place][1] < end:
            place += 1
        of = place if place < len(words) and words[place][0] < end else place - 1
        if end > start and 0 <= of < len(words) and words[of][1] > start:
            words[of][2] += influence
    return [Word(int(start), int(end), influence) for start, end, influence in words]


def excerpt(text: str, words: list[Word], width: int) -> Excerpt:
    """Return the part of a text, of about `width` characters, whose words add most to the score.

    Args:
        text: the text.
        words: its words; without any, the excerpt is the text's beginning.
        width: the largest number of characters; a text that is not longer is returned whole.
    """
    matter = _mattering(words)
    if len(text) <= width or not words:
        end = len(text) if len(text) <= width else _before_blank(text, width)
        return Excerpt(text, 0, end, tuple(word for word in matter if word.end <= end))
    first, last = _heaviest(words, width)
    start, end = words[first].start, words[last].end
    spare = (width - (end - start)) // 2
    start = next((word.start for word in words if word.start >= start - spare), start)
    end = next((word.end for word in reversed(words) if word.end <= max(end, start + width)), end)
    return Excerpt(text, start, end, tuple(word for word in matter if start <= word.start and word.end <= end))


def _mattering(words: list[Word]) -> list[Word]:
    largest = max((abs(word.influence_nats) for word in words), default=0.0)
    return [word for word in words if largest > 0 and abs(word.influence_nats) >= MATTERS * largest]


def _heaviest(words: list[Word], width: int) -> tuple[int, int]:
    """Return the first and last word of the heaviest run of words that is not wider, without words that add nothing."""
    best, chosen, total, first = -1.0, (0, 0), 0.0, 0
    for last, word in enumerate(words):
        total += max(word.influence_nats, 0.0)
        while first < last and word.end - words[first].start > width:
            total -= max(words[first].influence_nats, 0.0)
            first += 1
        if total > best:
            best, chosen = total, (first, last)
    first, last = chosen
    while first < last and words[first].influence_nats <= 0:
        first += 1
    return first, last


def _before_blank(text: str, width: int) -> int:
    """Return where a word ends at or before this place, or the place if there is no blank."""
    return next((place for place in range(width, 0, -1) if text[place : place + 1].isspace()), width)
