"""The names of special tokens in texts: plain text, or the tokens themselves."""

import copy
import pickle

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import byte_level, chat_like, llama_like

from influence_assets.corpus.packing import pack
from influence_assets.corpus.queries import tokenize_query
from influence_assets.corpus.special_tokens import SpecialTokenCounter
from influence_assets.corpus.tokenization import Tokenization

TEXT, PARSED = chat_like(), chat_like("parse")
START, END = (PARSED.tokenizer.token_to_id(name) for name in ("<|im_start|>", "<|im_end|>"))
CHAT = "<|im_start|>user\nthe while<|im_end|>\n<|im_start|>assistant\nis used<|im_end|>"
PLAIN = byte_level()
PARTS = st.lists(st.sampled_from(["<|im_start|>", "<|im_end|>", "the", " while", "\n", "<|", "é"]), max_size=8)


def plain_ids(text):
    return PLAIN.encode(text, add_special_tokens=False).ids


def pieced_together(parts):
    """The tokens of each run of plain text by a tokenizer that knows no chat, with the special ids between them."""
    ids, run = [], ""
    for part in [*parts, None]:
        if part in ("<|im_start|>", "<|im_end|>", None):
            ids += plain_ids(run)
            ids += [] if part is None else [START if part == "<|im_start|>" else END]
            run = ""
        else:
            run += part
    return ids


@given(PARTS)
def test_parsed_text_is_its_runs_of_plain_text_with_the_tokens_between(parts):
    text = "".join(parts)
    assert PARSED.encode(text, "here").tokens.tolist() == pieced_together(parts)
    assert TEXT.encode(text, "here").tokens.tolist() == plain_ids(text)


def test_parsed_tokens_have_the_characters_of_their_names():
    encoded = PARSED.encode(CHAT, "here")
    named = {
        CHAT[start:end]
        for token, start, end in zip(encoded.tokens, encoded.character_start, encoded.character_end, strict=True)
        if token in (START, END)
    }
    assert named == {"<|im_start|>", "<|im_end|>"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda kept: pickle.loads(pickle.dumps(kept))])
def test_copies_parse_too(copied):
    assert copied(PARSED).encode(CHAT, "here").tokens.tolist() == PARSED.encode(CHAT, "here").tokens.tolist()


def packed_tokens(text, tokenization):
    frame = pl.DataFrame({"document_id": ["d"], "source_row": [1], "text": [text]})
    (batch,) = pack([frame], tokenization, 200, "a.jsonl")
    return batch.tokens[0, : batch.lengths[0]].tolist()


def test_a_document_that_has_the_end_of_text_gets_no_other():
    assert packed_tokens(CHAT, PARSED) == PARSED.encode(CHAT, "here").tokens.tolist()
    assert packed_tokens(CHAT + "\n", PARSED)[-1] == END
    assert packed_tokens(CHAT, TEXT) == [*plain_ids(CHAT), END]


def test_a_text_that_has_the_prefix_gets_no_other():
    text = llama_like()
    parsed = Tokenization(text.tokenizer, text.separator_id, text.prefix_ids, text.vocabulary, "parse")
    assert packed_tokens("<s> the while", parsed).count(1) == 1
    assert packed_tokens(" the while", parsed)[0] == 1
    query = tokenize_query("<s> the", " while", parsed, 100, "here")
    assert query.tokens.tolist().count(1) == 1
    assert tokenize_query("<s> the", " while", text, 100, "here").tokens[0] == 1


def test_a_completion_can_end_with_the_token_that_ends_a_turn():
    prompt, completion = CHAT[:-17], CHAT[-17:]
    assert completion == "is used<|im_end|>"
    query = tokenize_query(prompt, completion, PARSED, 100, "here")
    assert query.tokens[query.completion_start :].tolist() == [*plain_ids("is used"), END]
    assert query.tokens.tolist() == PARSED.encode(CHAT, "here").tokens.tolist()


@given(st.lists(PARTS.map("".join), max_size=12))
def test_special_tokens_in_texts_are_counted(texts):
    counter = SpecialTokenCounter(TEXT)
    counter.count(texts)
    names = ("<|im_start|>", "<|im_end|>")
    assert {name: counter.names[name] for name in names} == {name: "".join(texts).count(name) for name in names}
    with_names = [text for text in texts if any(name in text for name in names)]
    notes = counter.notes("documents", "corpus.special_tokens")
    assert bool(notes) == (len(with_names) > 0 and 10 * len(with_names) >= len(texts))


def test_the_note_names_the_tokens_and_the_key():
    counter = SpecialTokenCounter(TEXT)
    counter.count([CHAT, "plain", "plain"])
    (note,) = counter.notes("documents", "corpus.special_tokens")
    assert "1 of 3 documents" in note
    assert "<|im_start|> 2 times, <|im_end|> 2 times" in note
    assert "set corpus.special_tokens to parse" in note
    parsed = SpecialTokenCounter(PARSED)
    parsed.count([CHAT])
    assert parsed.notes("documents", "corpus.special_tokens") == []
