"""Rows that are more than a text: how they are read, known by, and refused."""

import json

import pytest
from small_corpora import lines, shards_of

from influence_assets.corpus.documents import document_ids, read_documents
from influence_assets.corpus.forms import Conversation, PromptedText, read_form
from influence_assets.corpus.readers import file_kind, read_rows
from influence_assets.errors import InputError
from influence_assets.study import Corpus

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


def corpus_of(folder, *rows, name="a.jsonl", **keys):
    (folder / name).write_bytes(lines(*rows))
    return Corpus(path=str(folder), **keys)


def rows_of(corpus):
    return [row for shard in shards_of(corpus) for frame in read_rows(shard, corpus) for row in frame.rows(named=True)]


@pytest.mark.parametrize(
    ("row", "text", "form"),
    [
        ({"messages": TURNS}, "user: Hi\n\nassistant: Ho", Conversation(tuple(TURNS), {})),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}]},
            "user: Hi",
            Conversation(tuple(TURNS[:1]), {}),
        ),
        ({"prompt": "Hi", "completion": " Ho"}, "Hi Ho", PromptedText(2)),
        (
            {"prompt": TURNS[:1], "completion": TURNS[1:]},
            "user: Hi\n\nassistant: Ho",
            Conversation(tuple(TURNS), {}, 1),
        ),
        (
            {"messages": TURNS, "tools": [{"name": "look"}]},
            "user: Hi\n\nassistant: Ho",
            Conversation(tuple(TURNS), {"tools": [{"name": "look"}]}),
        ),
        ({"text": "Only text", "messages": TURNS}, "Only text", None),
    ],
)
def test_forms(tmp_path, row, text, form):
    (found,) = rows_of(corpus_of(tmp_path, {**row, "page": 3}))
    assert found["text"] == text
    assert (None if found["form"] is None else read_form(found["form"])) == form
    assert json.loads(found["metadata"])["page"] == 3
    if form is not None:
        assert json.loads(found["metadata"]) == {"page": 3}


def test_a_text_column_can_hold_messages(tmp_path):
    (found,) = rows_of(corpus_of(tmp_path, {"turns": TURNS}, text_column="turns"))
    assert read_form(found["form"]) == Conversation(tuple(TURNS), {})


def test_contents_start_where_the_text_has_them():
    conversation = Conversation(({"role": "system", "content": "s\n\nuser: x"}, *TURNS), {})
    for message, start in zip(conversation.messages, conversation.content_starts(), strict=True):
        assert conversation.text[start:].startswith(message["content"])


def test_the_same_text_in_another_form_is_another_document(tmp_path):
    corpus = corpus_of(tmp_path, {"prompt": "Hi", "completion": " Ho"}, {"prompt": "Hi H", "completion": "o"})
    (tmp_path / "b.jsonl").write_bytes(lines({"text": "Hi Ho"}))
    first, second = shards_of(corpus)
    assert len(document_ids(first, corpus) | document_ids(second, corpus)) == 3
    stream = read_documents(first, corpus)
    ids = [identity for frame in stream for identity in frame["document_id"]]
    assert set(ids) == document_ids(first, corpus)
    assert stream.forms["document_id"].to_list() == ids


@pytest.mark.parametrize(
    "row",
    [
        {"messages": []},
        {"messages": "Hi"},
        {"messages": ["Hi"]},
        {"messages": [{"from": "human", "value": "Hi"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": 3}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
        {"messages": [{"role": "user", "content": " "}]},
        {"prompt": TURNS[:1], "completion": "Ho"},
        {"prompt": "Hi", "completion": " "},
        {"prompt": "Hi", "completion": None},
        {"prompt": 3, "completion": "Ho"},
    ],
)
def test_what_is_no_conversation_is_refused_by_its_row(tmp_path, row):
    good = (
        {"messages": TURNS}
        if "messages" in row or isinstance(row["prompt"], list)
        else {"prompt": "a", "completion": "b"}
    )
    with pytest.raises(InputError, match=r"a\.jsonl, row 2"):
        rows_of(corpus_of(tmp_path, good, row))


def test_forms_are_not_mixed_in_a_file_also_across_its_slices(tmp_path):
    corpus = corpus_of(tmp_path, {"messages": TURNS}, {"text": "Only text"}, shard_bytes=1)
    first, second = shards_of(corpus)
    assert file_kind(first, corpus) == file_kind(second, corpus) == "messages"
    assert len(list(read_rows(first, corpus))) == 1
    with pytest.raises(InputError, match="row 2: has text, but the file's first row has messages"):
        list(read_rows(second, corpus))
