"""Query sets: rows, and the boundary between prompt and completion."""

import hashlib
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from small_tokenizers import END, gpt2_like, llama_like

from influence_assets.corpus.queries import QUERY_SCHEMA, read_query_set, tokenize_query
from influence_assets.corpus.sources import SourceFile
from influence_assets.corpus.tokenization import Tokenization
from influence_assets.errors import InputError

GPT2, LLAMA = gpt2_like(), llama_like()


def stored(folder, content):
    (folder / "q.jsonl").write_bytes(content)
    return SourceFile("set/q.jsonl", str(folder / "q.jsonl"), len(content))


def test_rows_of_a_query_set(tmp_path):
    content = (
        b'\xef\xbb\xbf{"prompt": "p ", "completion": " c", "query_id": "mine", "weight": 2, "tags": ["\xc3\xa9"]}\n\n'
        b'{"prompt": "", "completion": "\\n"}\n{"completion": "c", "prompt": "p", "query_id": 12}'
    )
    queries = read_query_set(stored(tmp_path, content))
    assert queries.schema == QUERY_SCHEMA
    derived = hashlib.sha256(b"\0\n").hexdigest()[:16]
    assert queries["query_id"].to_list() == ["mine", derived, "12"]
    assert queries["source_row"].to_list() == [1, 3, 4]
    assert queries["prompt"].to_list() == ["p ", "", "p"]
    assert queries["completion"].to_list() == [" c", "\n", "c"]
    assert set(queries["query_set_id"]) == {"set/q.jsonl"}
    assert json.loads(queries["metadata"][0]) == {"weight": 2, "tags": ["é"]}
    assert queries["metadata"][1] is None


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (b"prompt", "is not JSON"),
        (b"[]", "not an object"),
        (b'{"prompt": "p"}', "has no column `completion`"),
        (b'{"completion": "c", "text": "t"}', "has no column `prompt` (its columns: completion, text)"),
        (b'{"prompt": 1, "completion": "c"}', "`prompt` is a number, not a string"),
        (b'{"prompt": "p", "completion": null}', "`completion` is null, not a string"),
        (b'{"prompt": "p", "completion": ""}', "`completion` is empty"),
        (b'{"prompt": "p", "completion": "c", "query_id": 1.5}', "`query_id` is 1.5"),
        (b'{"prompt": "p", "completion": "c", "query_id": ""}', "`query_id` is ''"),
        (b'{"prompt": "x", "completion": "y", "query_id": "first"}', "that of row 1"),
        (b'{"prompt": "same", "completion": "again"}', "that of row 2"),
        (b'{"prompt": "\xe9", "completion": "c"}', "is not UTF-8"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, problem):
    good = b'{"prompt": "p", "completion": "c", "query_id": "first"}\n{"prompt": "same", "completion": "again"}\n'
    with pytest.raises(InputError) as refused:
        read_query_set(stored(tmp_path, good + row))
    assert refused.value.where.endswith("q.jsonl, row 3")
    assert problem in refused.value.problem
    assert refused.value.remedy


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_query_set(tmp_path, content):
    with pytest.raises(InputError, match=r"q\.jsonl: the file is empty"):
        read_query_set(stored(tmp_path, content))


def test_the_boundary_lies_between_tokens_where_the_texts_part():
    query = tokenize_query("the while", " the end", GPT2, 100, "here")
    prompt = GPT2.encode("the while", "here").tokens.tolist()
    assert query.tokens.tolist()[: query.completion_start] == prompt
    assert GPT2.tokenizer.decode(query.tokens[query.completion_start :].tolist()) == " the end"


def test_a_token_across_the_boundary_belongs_to_the_completion():
    assert len(GPT2.encode(" while", "here")) == 1
    query = tokenize_query("the whi", "le", GPT2, 100, "here")
    assert query.tokens.tolist() == GPT2.encode("the while", "here").tokens.tolist()
    assert GPT2.tokenizer.decode(query.tokens[query.completion_start :].tolist()) == " while"


def test_what_comes_before_a_completion_without_prompt():
    inner = GPT2.encode("while", "here").tokens.tolist()
    bare = tokenize_query("", "while", GPT2, 100, "here")
    assert (bare.tokens.tolist(), bare.completion_start) == ([GPT2.separator_id, *inner], 1)
    swallowed = tokenize_query("w", "hile", GPT2, 100, "here")
    assert (swallowed.tokens.tolist(), swallowed.completion_start) == ([GPT2.separator_id, *inner], 1)
    prefixed = tokenize_query("", "while", LLAMA, 100, "here")
    assert (prefixed.tokens[0], prefixed.completion_start) == (1, 1)
    nothing = Tokenization(GPT2.tokenizer, None, (), GPT2.vocabulary)
    with pytest.raises(InputError, match="Give the query a prompt") as refused:
        tokenize_query("", "while", nothing, 100, "q.jsonl, row 3")
    assert refused.value.where == "q.jsonl, row 3"


def test_the_context_is_the_limit():
    tokens = len(tokenize_query("the while", " statement", LLAMA, 1000, "here").tokens)
    assert len(tokenize_query("the while", " statement", LLAMA, tokens, "here").tokens) == tokens
    with pytest.raises(InputError, match=f"{tokens} tokens, more than the model's context of {tokens - 1}") as refused:
        tokenize_query("the while", " statement", LLAMA, tokens - 1, "q.jsonl, row 3")
    assert refused.value.where == "q.jsonl, row 3"


def test_special_looking_text_and_ids_beyond_the_vocabulary():
    query = tokenize_query(f"a{END}", END, GPT2, 100, "here")
    assert GPT2.separator_id not in query.tokens
    with pytest.raises(InputError, match="does not belong to the model"):
        tokenize_query("a", " while", Tokenization(GPT2.tokenizer, 0, (), 257), 100, "here")


@given(st.text(max_size=30), st.text(min_size=1, max_size=30), st.sampled_from([GPT2, LLAMA]))
def test_the_completion_starts_with_the_first_token_that_reaches_into_it(prompt, completion, tokenization):
    encoding = tokenization.tokenizer.encode(prompt + completion, add_special_tokens=False)
    assume(encoding.ids)
    query = tokenize_query(prompt, completion, tokenization, 1000, "here")
    extra = len(query.tokens) - len(encoding.ids)
    assert query.tokens.tolist()[extra:] == encoding.ids
    inside = [end > len(prompt) for _, end in encoding.offsets]
    assert query.completion_start == extra + inside.index(True)
    assert query.completion_start >= 1
    assert extra == (1 if tokenization is LLAMA or inside[0] else 0)


def test_all_bad_rows_of_a_file_are_named(tmp_path):
    good = b'{"prompt": "p", "completion": "c"}\n'
    bad = b'no JSON\n{"prompt": "q", "completion": ""}\n{"prompt": 1, "completion": "c"}\n'
    (tmp_path / "q.jsonl").write_bytes(good + bad + good)
    with pytest.raises(InputError) as refused:
        read_query_set(SourceFile("q.jsonl", str(tmp_path / "q.jsonl"), 1))
    assert refused.value.problem.startswith("4 rows cannot be used (row 2: is not JSON")
    for number in (3, 4, 5):
        assert f"; row {number}: " in refused.value.problem
    assert "on_bad_row" not in str(refused.value)
