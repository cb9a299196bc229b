"""Comparison of the tokenizer that a library made of a model's files with its tokenizer.json, without that library."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, product

from tokenizers import Tokenizer

PROBES = (
    "The lighthouse keeper climbs the tower every evening; it isn't far, and she'll return.",
    " lead",
    "   three blanks before, two  between, some after    ",
    "\ta tab\tand\r\nlines\n\n\nof several\n \n kinds \n",
    "1 12 123 1234 12345678901234567890 3.14159 1,000,000 2024-11-05 0x1F 1e-9 ½ ² Ⅳ ١٢٣ १२३",
    "def while_loop(x: int = 0) -> None:\n    if x != 1 and (y := x**2) >= 3:\n\t\treturn {'a': [1, 2]}  # done\n",
    "Größe, naïve café, Ångström, e\u0301 and é, ﬁ, ǅ, İstanbul, STRASSE, CamelCase, snake_case, UPPER",
    "Жизнь, Ελλάδα, שלום, سلام, नमस्ते, สวัสดี, 日本語のテキスト, 中文, 한국어",
    "😀👩‍👩‍👧 🇩🇪 —–… “quoted” ‘so’ «ici» \u00a0\u2003\u200b\ufeff ▁ Ġ ##",
    "https://example.org/a?b=c&d=%20#e user@example.org @name #tag $5.00 100% C++ <b>html</b> [MASK] <s>",
    "ACGTTGCAACGTNNNNACGT acgt MKTAYIAKQRQISFVKSHFSRQ",
)
"""Texts on which tokenizers tend to differ: digits, blanks, lines, scripts, accents, code, symbols."""

_PARTS = (
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\r\n",
    "a",
    "the",
    "B",
    "7",
    "42",
    ".",
    "'s",
    "_",
    "é",
    "e\u0301",
    "Ж",
    "日本",
    "😀",
)
_VOCABULARY_SAMPLED = 4096
_WORDS_ALONE = 256
_TOKENS_A_LINE = 16
_SHOWN = 12
_CHARACTERS_SHOWN = 40


@dataclass(frozen=True)
class Difference:
    """The first text that two tokenizers split into different tokens.

    Args:
        text: the text from the first difference on; empty if it is not one of ours, because it is somebody's document.
        used: the tokens of the first tokenizer from there.
        of_file: the tokens of the second tokenizer from there.
        used_count: the number of tokens of the first tokenizer in all texts that were compared.
        of_file_count: that of the second.
    """

    text: str
    used: tuple[str, ...]
    of_file: tuple[str, ...]
    used_count: int
    of_file_count: int

    def __str__(self) -> str:
        """Return both tokenizations side by side."""
        if not self.text:
            return "on a document of the corpus"
        return f"{self.text!r} as {_listed(self.used)} instead of {_listed(self.of_file)}"


def difference(used: Tokenizer, of_file: Tokenizer, texts: Iterable[str] = ()) -> Difference | None:
    """Return how two tokenizers differ on probe texts, on words of the vocabulary and on further texts.

    Special tokens and what a template puts around a text are not compared.

    Args:
        used: the first tokenizer.
        of_file: the second, whose vocabulary is sampled.
        texts: further texts, such as the first documents of a corpus.
    """
    first: Difference | None = None
    used_count = of_file_count = 0
    own = [*PROBES, *_combinations(), *_vocabulary_texts(of_file)]
    with _plain(used), _plain(of_file):
        for place, text in enumerate(chain(own, texts)):
            ours, theirs = _ids(used, text), _ids(of_file, text)
            used_count += len(ours or ())
            of_file_count += len(theirs or ())
            if first is None and ours != theirs:
                start = _first_different(ours or [], theirs or [])
                begin = _character(of_file, text, start) if theirs is not None else 0
                words = _words(used, ours, start), _words(of_file, theirs, start)
                shown = text[begin : begin + _CHARACTERS_SHOWN] or text[-_CHARACTERS_SHOWN:]
                first = Difference(shown, *words, 0, 0) if place < len(own) else Difference("", (), (), 0, 0)
    return None if first is None else replace(first, used_count=used_count, of_file_count=of_file_count)


@contextmanager
def _plain(tokenizer: Tokenizer) -> Iterator[None]:
    """Let a tokenizer treat special tokens as text, as documents are treated, inside the block."""
    before = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = True
    try:
        yield
    finally:
        tokenizer.encode_special_tokens = before


def _combinations() -> Iterator[str]:
    """Yield every pair of kinds of characters, and texts with every three of them beside one another."""
    yield from map("".join, product(_PARTS, repeat=2))
    for first in _PARTS:
        yield "".join(first + "".join(others) for others in product(_PARTS, repeat=2))


def _vocabulary_texts(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield words that the tokenizer knows, alone and in lines; they need not be those of any language."""
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ids = sorted({*tokenizer.get_vocab(with_added_tokens=False).values()} - special)
    step = max(1, len(ids) // _VOCABULARY_SAMPLED)
    words = [tokenizer.decode([number], skip_special_tokens=False) for number in ids[::step]]
    yield from words[:_WORDS_ALONE]
    for word in words:  # rules that split it depend on what is beside it
        yield "".join(before + word for before in ("x", "7", ".", " ", "\n", "  ", "日")) + "7"
    for start in range(0, len(words), _TOKENS_A_LINE):
        line = words[start : start + _TOKENS_A_LINE]
        yield " ".join(line)
        yield "".join(line)


def _ids(tokenizer: Tokenizer, text: str) -> list[int] | None:
    """Return a text's tokens, or None if the tokenizer cannot encode it."""
    try:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)
    except Exception:  # noqa: BLE001  # tokenizers raises bare Exceptions
        return None


def _first_different(ours: list[int], theirs: list[int]) -> int:
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(ours), len(theirs)))


def _character(tokenizer: Tokenizer, text: str, token: int) -> int:
    """Return the character at which a token begins; at the text's end there is none."""
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    return int(offsets[token][0]) if token < len(offsets) else max(0, len(text) - 20)


def _words(tokenizer: Tokenizer, ids: list[int] | None, start: int) -> tuple[str, ...]:
    if ids is None:
        return ("(an error)",)
    return tuple(str(tokenizer.id_to_token(number)) for number in ids[start : start + _SHOWN])


def _listed(tokens: tuple[str, ...]) -> str:
    return " | ".join(tokens) or "nothing"
