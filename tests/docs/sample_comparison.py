"""Compare a sample in the pages with the same sample made anew: numbers as numbers, times, sizes and hashes masked."""

import re
from itertools import zip_longest

TOLERANCE = 0.05
"""Of numbers with a fraction, relative: they differ a little between processors."""

SMALL = 0.02
"""Numbers with a fraction that differ by no more than this are equal, however small they are."""

_MASKS = (
    (re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d(\.\d+)?(\+\d\d:\d\d)?)?"), "<date>"),
    (re.compile(r"> (?=[\d.]+ (?:ms|s|min|h|d)\b)"), ""),  # a lower limit becomes a time once a stage was measured
    (re.compile(r"[\d.]+(e[+-]\d+)? (?:ms|s|min|h|d)\b"), "<time>"),
    (re.compile(r"[\d.,]+ (?:[kMGT]?B|bytes)\b"), "<size>"),
    (re.compile(r"[\d.,]+ <figure>"), "<size>"),  # where only the unit stands below the end of a column's head
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8}(?:[0-9a-f]{24})?\b"), "<hash>"),
)
_COUNT_ABOVE_NOISE = re.compile(r"\b[\d,]+ (?=of [\d,]+ \w+ stands? above)")
"""How many scores stand above the noise: one that is near the threshold falls on either side of it."""

_VOLATILE = re.compile(r"(^|_)(seconds|bytes)$")
_FIGURE = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?|[kMGT]?B|ms|s|min|h|d|[–│]|<\w+>")
_TOKEN = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?|[^\W\d]+|\S")
_NUMBER = re.compile(r"[-+]?\d")


def differences(shown: str, made: str) -> list[str]:
    """Return a line for every place where a sample no longer says what is made today."""
    lines = zip_longest(_plain(shown), _plain(made), fillvalue="")
    return [f"shown: {old}\nmade:  {new}" for old, new in lines if not _alike(old, new)]


def _alike(shown: str, made: str) -> bool:
    tokens = list(zip_longest(_TOKEN.findall(shown), _TOKEN.findall(made), fillvalue=""))
    return all(old == new or _near(old, new) for old, new in tokens)


def _near(shown: str, made: str) -> bool:
    """Whether both are numbers, at least one has a fraction, and they are close."""
    if not (_NUMBER.match(shown) and _NUMBER.match(made)):
        return False
    if not any(mark in number for number in (shown, made) for mark in ".e"):
        return False
    old, new = (float(number.replace(",", "")) for number in (shown, made))
    return abs(old - new) <= max(SMALL, TOLERANCE * max(abs(old), abs(new)))


def _plain(text: str) -> list[str]:
    """The lines of a sample without the figures of volatile columns and what differs at each run.

    The lines of the command are left as they are: what is typed must be right.
    """
    lines = _without_volatile_columns(text.splitlines())
    return [line if line.startswith("$ ") else _masked(line) for line in lines]


def _masked(line: str) -> str:
    for pattern, mask in _MASKS:
        line = pattern.sub(mask, line)
    return _COUNT_ABOVE_NOISE.sub("<count> ", line)


def _without_volatile_columns(lines: list[str]) -> list[str]:
    """Mask the figures below heads such as `seconds` and `peak_memory_bytes`, which are aligned to the right."""
    masked, ends = [], []
    for line in lines:
        if "  " not in line.strip():
            ends = []
        elif not ends:
            ends = [word.end() for word in re.finditer(r"\S+", line) if _VOLATILE.search(word[0])]
        else:
            for end in reversed(ends):
                figure = re.search(r"\S+$", line[:end])
                # Words at that place are those of another table, which follows without a line between.
                if figure and _FIGURE.fullmatch(figure[0]):
                    line = f"{line[: figure.start()]}<figure>{line[end:]}"
        masked.append(line)
    return masked
