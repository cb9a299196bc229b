"""Excerpts: whole words, with the influence of their tokens, around those that matter."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from influence_assets.report.excerpt import MATTERS, Word, excerpt, words_of

TEXTS = st.text(st.sampled_from("ab é\n—日本9."), min_size=1, max_size=60)


@st.composite
def split_texts(draw):
    """A text cut anywhere into tokens, some of them empty, each with an influence."""
    text = draw(TEXTS)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=20)))
    places = [0, *cuts, len(text)]
    influences = draw(st.lists(st.integers(-50, 50), min_size=len(places) - 1, max_size=len(places) - 1))
    return text, [(a, b, float(i)) for a, b, i in zip(places, places[1:], influences, strict=False)]


def last_word_by_hand(text, start, end):
    """The place of the last character that is no blank, or None."""
    return next((place for place in range(end - 1, start - 1, -1) if not text[place].isspace()), None)


@given(split_texts())
def test_each_token_counts_once_for_the_last_word_that_it_touches(split):
    text, tokens = split
    words = words_of(text, tokens)
    for word in words:
        inside = [
            i for a, b, i in tokens if (p := last_word_by_hand(text, a, b)) is not None and word.start <= p < word.end
        ]
        assert word.influence_nats == pytest.approx(sum(inside))
    covered = "".join(text[word.start : word.end] for word in words)
    assert covered == re.sub(r"\s", "", text)


def test_words_are_whole_but_for_scripts_without_blanks():
    words = words_of("The größer 日本 ends.", [(0, 3, 1.0), (3, 6, 2.0), (6, 10, 3.0), (10, 12, 4.0), (12, 13, 5.0)])
    assert [(w.start, w.end, w.influence_nats) for w in words][:4] == [
        (0, 3, 1.0),
        (4, 10, 5.0),
        (11, 12, 4.0),
        (12, 13, 5.0),
    ]


@given(split_texts(), st.integers(5, 70))
def test_an_excerpt_is_no_wider_and_has_the_heaviest_run_of_words(split, width):
    text, tokens = split
    words = words_of(text, tokens)
    found = excerpt(text, words, width)
    assert 0 <= found.start <= found.end <= len(text)
    assert "".join(piece for piece, _ in found.pieces()) == text[found.start : found.end]
    if len(text) <= width:
        assert (found.start, found.end) == (0, len(text))
        return
    longest = max((w.end - w.start for w in words), default=0)
    if longest <= width:
        assert found.end - found.start <= width

        def weight(start, end):
            return sum(max(w.influence_nats, 0) for w in words if start <= w.start and w.end <= end)

        if words:
            best = max(weight(w.start, w.start + width) for w in words)
            assert weight(found.start, found.end) == pytest.approx(best)
            cut = {w.start for w in words} | {w.end for w in words}
            assert {found.start, found.end} <= cut


def test_words_that_matter_are_marked():
    words = [Word(0, 3, 8.0), Word(4, 7, 8.0 * MATTERS), Word(8, 11, 0.1), Word(12, 15, -7.0)]
    pieces = list(excerpt("one two six ten", words, 100).pieces())
    assert [(p, i) for p, i in pieces if i is not None] == [("one", 8.0), ("two", 2.0), ("ten", -7.0)]
