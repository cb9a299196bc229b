"""Reading of query sets, the prompts and completions to explain."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from influence_assets.corpus import columns
from influence_assets.corpus.bad_rows import BadRows
from influence_assets.corpus.columns import kind_of_value
from influence_assets.corpus.formats.jsonl import json_lines, parsed
from influence_assets.corpus.forms import ASSISTANT, OPTIONS, Conversation, conversation_messages, said
from influence_assets.corpus.sources import SourceFile
from influence_assets.corpus.tokenization import Tokenization
from influence_assets.errors import InputError

QUERY_SCHEMA = pl.Schema(
    {
        "query_id": pl.String(),
        "query_set_id": pl.String(),
        "source_row": pl.Int64(),
        "prompt": pl.String(),
        "completion": pl.String(),
        "metadata": pl.String(),
        "chat": pl.String(),
    }
)

QUERY_COLUMNS = ("query_id", "prompt", "completion")
"""The columns of a query file that have a meaning; all others are metadata."""

_LONGEST_ROW_BYTES = 16 * 2**20


@dataclass(frozen=True, eq=False)
class TokenizedQuery:
    """A query as the model reads it.

    Attributes:
        tokens: int32 [T], prompt and completion.
        completion_start: position of the completion's first token, at least 1.
    """

    tokens: NDArray[np.int32]
    completion_start: int


def read_query_set(file: SourceFile) -> pl.DataFrame:
    """Return the queries of one .jsonl file, as a frame of `QUERY_SCHEMA`.

    `source_row` is the line's number. A row without a `query_id` gets one computed from its prompt and completion.
    Every other column goes to `metadata`, as JSON text. `chat` is null unless the prompt is a list of messages; then it
    is the conversation as `corpus.forms.read_form` reads it, with the completion if that is a message too, and `prompt`
    and `completion` are its text for people.

    Raises:
        InputError: the file is empty, or a row is not UTF-8, is not JSON, lacks its prompt or completion, or has an
            empty completion or the query_id of an earlier row; the error names the file and row.
    """
    queries: list[dict[str, Any]] = []
    rows_by_id: dict[str, int] = {}
    bad_rows = BadRows()
    for source_row, line in json_lines(file.url, _LONGEST_ROW_BYTES, "Shorten the row."):
        where = f"{file.url}, row {source_row}"
        try:
            query = _query(parsed(line, where), where)
            earlier = rows_by_id.setdefault(query["query_id"], source_row)
            if earlier != source_row:
                problem = f"query_id {query['query_id']!r} is that of row {earlier} too"
                raise InputError(where, problem, "Give each row a query_id of its own, and each question once.")
        except InputError as error:
            bad_rows.note(source_row, error)
        else:
            queries.append({**query, "query_set_id": file.name, "source_row": source_row})
    if bad_rows.count:
        raise bad_rows.as_error(file.url, may_be_left_out=False)
    if not queries:
        raise InputError(file.url, "the file is empty", "Remove it, or write a row with prompt and completion.")
    return pl.DataFrame(queries, schema=QUERY_SCHEMA)


def query_id(prompt: str, completion: str, chat: str | None = None) -> str:
    r"""Return the id for a query without one: 16 hex digits of the SHA-256 of prompt + `\0` + completion.

    If the prompt is a list of messages, `\0` and the conversation as JSON follow.
    """
    end = "" if chat is None else f"\0{chat}"
    return hashlib.sha256(f"{prompt}\0{completion}{end}".encode()).hexdigest()[:16]


def tokenize_query(
    prompt: str, completion: str, tokenization: Tokenization, context: int, where: str
) -> TokenizedQuery:
    """Tokenize prompt and completion as one text.

    A token that extends past the prompt's last character belongs to the completion. The template's prefix comes first,
    or the separator if there would be nothing before the completion.

    Args:
        prompt: may be empty.
        completion: the text whose probability is explained.
        tokenization: the model's.
        context: the most tokens that the model can read.
        where: the file and row, for errors.

    Raises:
        InputError: there are more tokens than `context`, the completion has no tokens, nothing precedes it from which
            it could be predicted, or an id is beyond the vocabulary; the error names `where`.
    """
    text = tokenization.encode(prompt + completion, where)
    in_completion = np.flatnonzero(text.character_end > len(prompt))
    if not completion or not in_completion.size:
        raise InputError(where, "the completion has no tokens", "Write the text to explain as `completion`.")
    first = int(in_completion[0])
    before = tokenization.before(text)
    if first == 0 and not before:
        if tokenization.separator_id is None:
            problem = "nothing comes before the completion's first token, so its probability is not defined"
            raise InputError(where, problem, "Give the query a prompt.")
        before = [tokenization.separator_id]
    tokens = np.concatenate([before, text.tokens]).astype(np.int32)
    return fitting(TokenizedQuery(tokens, len(before) + first), context, where)


def fitting(query: TokenizedQuery, context: int, where: str) -> TokenizedQuery:
    """Return the query after checking that the model can read it, and that its completion has tokens.

    Raises:
        InputError: there are more tokens than `context`, or none in the completion; the error names `where`.
    """
    if not 0 < query.completion_start < len(query.tokens):
        raise InputError(where, "the completion has no tokens", "Write the text to explain as `completion`.")
    if len(query.tokens) > context:
        problem = f"prompt and completion have {len(query.tokens)} tokens, more than the model's context of {context}"
        raise InputError(where, problem, "Shorten the prompt or the completion.")
    return query


def _query(row: dict[str, Any], where: str) -> dict[str, Any]:
    chat = _take_chat(row, where) if isinstance(row.get("prompt"), list) else None
    prompt, completion = _string(row, "prompt", where), _string(row, "completion", where)
    if not completion:
        raise InputError(where, "`completion` is empty", "Write the text whose probability is to be explained.")
    own_id = row.get("query_id")
    if own_id is not None and (not isinstance(own_id, str | int) or isinstance(own_id, bool) or own_id == ""):
        raise InputError(where, f"`query_id` is {own_id!r}", "Make it a string or a whole number, or leave it out.")
    identity = query_id(prompt, completion, chat) if own_id is None else str(own_id)
    metadata = {name: value for name, value in row.items() if name not in QUERY_COLUMNS}
    return {
        "query_id": identity,
        "prompt": prompt,
        "completion": completion,
        "metadata": columns.metadata(metadata),
        "chat": chat,
    }


def _take_chat(row: dict[str, Any], where: str) -> str:
    """Replace messages in a row by their text, and return the conversation as JSON."""
    messages = conversation_messages(row["prompt"], "prompt", where)
    options = {name: row.pop(name) for name in OPTIONS if row.get(name) is not None}
    prompt = Conversation(messages, options, len(messages))
    row["prompt"] = prompt.text
    if not isinstance(row.get("completion"), list):
        return prompt.as_json()
    answers = conversation_messages(row["completion"], "completion", where)
    if len(answers) != 1 or answers[0]["role"] != ASSISTANT:
        raise InputError(where, "`completion` is not one message of the assistant", "Write the prompt up to it.")
    row["completion"] = said(answers[0])
    return Conversation(messages + answers, options, len(messages)).as_json()


def _string(row: dict[str, Any], key: str, where: str) -> str:
    if key not in row:
        present = ", ".join(row) or "none"
        raise InputError(
            where, f"has no column `{key}` (its columns: {present})", "Give each row prompt and completion."
        )
    value = row[key]
    if not isinstance(value, str):
        raise InputError(where, f"`{key}` is {kind_of_value(value)}, not a string", "Put it in quotes.")
    return value
