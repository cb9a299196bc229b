"""Packing, against a packer that joins everything and cuts it, one token at a time."""

import hashlib

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import END, gpt2_like, llama_like

from influence_assets.corpus import packing
from influence_assets.corpus.documents import document_id
from influence_assets.corpus.packing import SEQUENCE_DOCUMENT_SCHEMA, SEQUENCE_SCHEMA, pack
from influence_assets.corpus.tokenization import Tokenization
from influence_assets.errors import InputError

GPT2, LLAMA = gpt2_like(), llama_like()
BARE = Tokenization(GPT2.tokenizer, None, (), GPT2.vocabulary)
TOKENIZATIONS = st.sampled_from([GPT2, LLAMA, BARE])
TEXTS = st.lists(
    st.one_of(
        st.text(min_size=1, max_size=60),
        st.text("the while\n😀é", min_size=1, max_size=60),
        st.just(f"a{END}b</s>"),
    ),
    min_size=1,
    max_size=12,
    unique=True,
)
LENGTHS = st.integers(2, 40)


def frame(texts, first_row=1):
    return pl.DataFrame(
        {
            "document_id": [document_id(text) for text in texts],
            "source_row": range(first_row, first_row + len(texts)),
            "text": texts,
        }
    )


def packed(texts, tokenization, length, shard_id="a.jsonl"):
    return list(pack([frame(texts)], tokenization, length, shard_id))


def joined(batches, name):
    """The real entries of an array, without the padding, one sequence after the other."""
    return [
        int(value)
        for batch in batches
        for row, length in zip(getattr(batch, name), batch.lengths, strict=True)
        for value in row[:length]
    ]


def expected_tokens(texts, tokenization):
    """(token, document, start, end) of every token, before cutting."""
    stream = []
    for text in texts:
        encoding = tokenization.tokenizer.encode(text, add_special_tokens=False)
        stream += [(identity, text, 0, 0) for identity in tokenization.prefix_ids]
        stream += [(identity, text, *place) for identity, place in zip(encoding.ids, encoding.offsets, strict=True)]
        if tokenization.separator_id is not None:
            stream.append((tokenization.separator_id, text, len(text), len(text)))
    return stream


def kept_of(stream, length):
    return stream[:-1] if len(stream) % length == 1 else stream


@given(TEXTS, TOKENIZATIONS, LENGTHS)
def test_sequences_joined_are_the_documents_tokens(texts, tokenization, length):
    batches = packed(texts, tokenization, length)
    stream = kept_of(expected_tokens(texts, tokenization), length)
    assert joined(batches, "tokens") == [token for token, *_ in stream]
    assert joined(batches, "character_start") == [start for *_, start, _ in stream]
    assert joined(batches, "character_end") == [end for *_, end in stream]
    for batch in batches:
        n = len(batch.lengths)
        beyond = np.arange(length) >= batch.lengths[:, None]
        for array in (batch.tokens, batch.character_start, batch.character_end):
            assert array.dtype == np.int32
            assert array.shape == (n, length)
            assert not array[beyond].any()
    lengths = [length for batch in batches for length in batch.lengths.tolist()]
    assert all(full == length for full in lengths[:-1])
    assert all(2 <= last <= length for last in lengths[-1:])


@given(TEXTS, TOKENIZATIONS, LENGTHS)
def test_spans_tile_the_sequences_and_name_their_documents(texts, tokenization, length):
    stream = expected_tokens(texts, tokenization)
    position = 0
    for batch in packed(texts, tokenization, length):
        assert batch.sequence_documents.schema == SEQUENCE_DOCUMENT_SCHEMA
        for row, identity in enumerate(batch.sequences["sequence_id"]):
            spans = batch.sequence_documents.filter(pl.col("sequence_id") == identity).rows(named=True)
            reached = 0
            for span in spans:
                assert span["token_start"] == reached < span["token_end"]
                run = stream[position + span["token_start"] : position + span["token_end"]]
                assert {document_id(text) for _, text, *_ in run} == {span["document_id"]}
                assert span["character_start"] == min(start for *_, start, _ in run)
                assert span["character_end"] == max(end for *_, end in run)
                reached = span["token_end"]
            assert reached == batch.lengths[row]
            assert len({span["document_id"] for span in spans}) == len(spans)
            position += reached


@given(TEXTS, TOKENIZATIONS, LENGTHS)
def test_text_is_the_source_text_of_the_spans(texts, tokenization, length):
    by_id = {document_id(text): text for text in texts}
    for batch in packed(texts, tokenization, length):
        assert batch.sequences.schema == SEQUENCE_SCHEMA
        for sequence in batch.sequences.rows(named=True):
            spans = batch.sequence_documents.filter(pl.col("sequence_id") == sequence["sequence_id"])
            slices = [
                by_id[span["document_id"]][span["character_start"] : span["character_end"]]
                for span in spans.rows(named=True)
            ]
            assert sequence["text"] == "\n\n".join(part for part in slices if part)


@given(TEXTS, LENGTHS)
def test_tokens_decode_to_the_characters_they_name(texts, length):
    """Where a character is not cut, a span's tokens decode to its slice of the document (byte-level BPE)."""
    by_id = {document_id(text): text for text in texts}
    for batch in packed(texts, GPT2, length):
        place = {identity: row for row, identity in enumerate(batch.sequences["sequence_id"])}
        for span in batch.sequence_documents.rows(named=True):
            ids = batch.tokens[place[span["sequence_id"]], span["token_start"] : span["token_end"]].tolist()
            decoded = GPT2.tokenizer.decode([i for i in ids if i != GPT2.separator_id]).strip("\ufffd")
            source = by_id[span["document_id"]][span["character_start"] : span["character_end"]]
            assert decoded in source
            assert len(source) - len(decoded) <= 2 + source.count("\ufffd")


@given(TEXTS, LENGTHS, st.randoms(use_true_random=False))
def test_the_result_does_not_depend_on_batches(texts, length, draw):
    whole = frame(texts)
    cuts = sorted(draw.choices(range(len(texts) + 1), k=3))
    parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(texts)], strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        expected = list(pack([whole], LLAMA, length, "a.jsonl"))
        patch.setattr(packing, "_BATCH_SEQUENCES", draw.randint(1, 5))
        patch.setattr(packing, "_ENCODED_AT_ONCE", draw.randint(1, 5))
        batches = list(pack(iter(parts), LLAMA, length, "a.jsonl"))
    for name in ("tokens", "lengths", "character_start", "character_end"):
        got, wanted = ([getattr(batch, name) for batch in side] for side in (batches, expected))
        assert [row.tolist() for array in got for row in array] == [row.tolist() for array in wanted for row in array]
    for name in ("sequences", "sequence_documents"):
        got, wanted = ([getattr(batch, name) for batch in side] for side in (batches, expected))
        assert bool(got) == bool(wanted)
        if wanted:
            assert pl.concat(got).equals(pl.concat(wanted))


def test_batches_are_bounded(monkeypatch):
    monkeypatch.setattr(packing, "_BATCH_TOKENS", 64)
    batches = packed(["the while " * 100], GPT2, 8)
    assert {len(batch.lengths) for batch in batches[:-1]} == {8}
    assert len(batches) > 2
    indices = [index for batch in batches for index in batch.sequences["sequence_index"]]
    assert indices == list(range(len(indices)))


def test_sequence_ids_are_what_their_definition_says():
    (batch,) = packed(["the while statement is used for", "x"], GPT2, 8, "folder/b.txt")
    assert len(batch.lengths) > 1
    for row in batch.sequences.rows(named=True):
        index = row["sequence_index"]
        tokens = batch.tokens[index, : batch.lengths[index]]
        little_endian = b"".join(int(token).to_bytes(4, "little") for token in tokens)
        digest = hashlib.sha256(b"folder/b.txt\0" + str(index).encode() + b"\0" + little_endian).hexdigest()
        assert row["sequence_id"] == int(digest[:16], 16) // 2
        assert row["tokens"] == len(tokens)
    (elsewhere,) = packed(["the while statement is used for", "x"], GPT2, 8, "folder/c.txt")
    assert not set(elsewhere.sequences["sequence_id"]) & set(batch.sequences["sequence_id"])


def test_a_quoted_end_of_text_does_not_end_a_document():
    (batch,) = packed([f"one {END} two", "three"], GPT2, 100)
    assert batch.tokens[0].tolist()[: batch.lengths[0]].count(GPT2.separator_id) == 2
    assert batch.sequences["text"].to_list() == [f"one {END} two\n\nthree"]


def test_a_last_sequence_of_one_token_is_dropped():
    (two,) = packed(["ab"[:1]], GPT2, 2)  # "a" and the separator
    assert two.lengths.tolist() == [2]
    assert packed(["a"], BARE, 2) == []
    stream = expected_tokens(["the while 日"], GPT2)
    (batch,) = packed(["the while 日"], GPT2, len(stream) - 1)
    assert batch.lengths.tolist() == [len(stream) - 1]
    assert batch.sequence_documents["token_end"].to_list() == [len(stream) - 1]


def test_a_document_with_a_token_beyond_the_vocabulary_is_named():
    narrow = Tokenization(GPT2.tokenizer, 0, (), 257)
    documents = [frame(["x", "y"]), frame(["z", "while"], first_row=7)]
    with pytest.raises(InputError, match="does not belong to the model") as refused:
        list(pack(documents, narrow, 4, "folder/a.jsonl"))
    assert refused.value.where == "folder/a.jsonl, row 8"


def by_hand(texts, tokenization, length, *, one_document, blind):
    """Runs of (document, token) of each sequence, one token at a time."""
    rows = [[]]
    for text in texts:
        if one_document:
            rows.append([])
        for token, of, *_ in expected_tokens([text], tokenization):
            if len(rows[-1]) == length:
                rows.append([])
            rows[-1].append((of, token))
    if blind:
        rows = [
            [pair for pair in row if pair[0] == text] for row in rows for text in dict.fromkeys(of for of, _ in row)
        ]
    return [row for row in rows if len(row) > 1]


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("mode", ["packed", "one_document"])
@given(texts=TEXTS, tokenization=TOKENIZATIONS, length=LENGTHS, draw=st.randoms(use_true_random=False))
def test_each_way_of_packing(mode, blind, texts, tokenization, length, draw):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_BATCH_SEQUENCES", draw.randint(1, 5))
        found = list(pack([frame(texts)], tokenization, length, "a", packing=mode, documents_see_each_other=not blind))
    wanted = by_hand(texts, tokenization, length, one_document=mode == "one_document", blind=blind)
    by_id = {document_id(text): text for text in texts}
    rows = []
    for batch in found:
        spans = batch.sequence_documents.partition_by("sequence_id", maintain_order=True)
        for tokens, own in zip(batch.tokens, spans, strict=True):
            rows.append(
                [
                    (by_id[span["document_id"]], token)
                    for span in own.rows(named=True)
                    for token in tokens[span["token_start"] : span["token_end"]].tolist()
                ]
            )
    assert rows == wanted
    assert [n for batch in found for n in batch.lengths] == list(map(len, wanted))
    ids = [identity for batch in found for identity in batch.sequences["sequence_id"]]
    assert len(set(ids)) == len(ids)
    if blind or mode == "one_document":
        assert all(len({of for of, _ in row}) == 1 for row in rows)
