"""The forms of a corpus's rows: a text, a conversation, or a prompt with its completion.

A conversation has a text for people, each message after its role, which is what the document is known by; what the
model reads is made by its chat template. The form itself is kept beside the text as JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from influence_assets.corpus.columns import kind_of_value
from influence_assets.errors import InputError
from influence_assets.study import Corpus

Kind = Literal["text", "messages", "prompt and completion"]

MESSAGES, PROMPT, COMPLETION = "messages", "prompt", "completion"
OPTIONS = ("tools", "chat_template_kwargs")
"""Columns beside a conversation that its chat template is given."""

ASSISTANT = "assistant"
BETWEEN_MESSAGES = "\n\n"

_SHAPE = 'Write it as [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}].'


@dataclass(frozen=True)
class Conversation:
    """Messages, as a chat template takes them.

    Attributes:
        messages: each with a `role`, mostly with a string `content`, and whatever else its template knows.
        options: further arguments of the template.
        first_answer: the first message that can be an answer: those of a prompt are not.
    """

    messages: tuple[Mapping[str, Any], ...]
    options: Mapping[str, Any]
    first_answer: int = 0

    @property
    def text(self) -> str:
        """The conversation for people."""
        return BETWEEN_MESSAGES.join(f"{message['role']}: {said(message)}" for message in self.messages)

    def content_starts(self) -> list[int]:
        """Return where each message's content starts in `text`."""
        starts, position = [], 0
        for message in self.messages:
            starts.append(position + len(message["role"]) + 2)
            position = starts[-1] + len(said(message)) + len(BETWEEN_MESSAGES)
        return starts

    def as_json(self) -> str:
        """Return the conversation as `read_form` reads it."""
        described = {"messages": self.messages, "options": self.options, "first_answer": self.first_answer}
        return json.dumps(described, ensure_ascii=False, default=str)


@dataclass(frozen=True)
class PromptedText:
    """A text that begins with a prompt; the rest of it is the completion.

    Attributes:
        prompt_characters: the length of the prompt.
    """

    prompt_characters: int

    def as_json(self) -> str:
        """Return the form as `read_form` reads it."""
        return json.dumps({"prompt_characters": self.prompt_characters})


Form = Conversation | PromptedText


def read_form(form: str) -> Form:
    """Return a form from what its `as_json` returned."""
    described = json.loads(form)
    if "messages" not in described:
        return PromptedText(described["prompt_characters"])
    return Conversation(tuple(described["messages"]), described["options"], described["first_answer"])


def said(message: Mapping[str, Any]) -> str:
    """Return a message's content, followed by the tools that it calls."""
    content = message.get("content") or ""
    calls = message.get("tool_calls")
    return content + (json.dumps(calls, ensure_ascii=False, default=str) if calls else "")


def kind_of(row: Mapping[str, Any], corpus: Corpus) -> Kind:
    """Return the form that a row has by its columns. A text column comes first, and may hold messages itself."""
    if corpus.text_column in row:
        return "messages" if isinstance(row[corpus.text_column], list) else "text"
    if row.get(MESSAGES) is not None:
        return "messages"
    if PROMPT in row and COMPLETION in row:
        is_chat = isinstance(row[PROMPT], list) or isinstance(row[COMPLETION], list)
        return "messages" if is_chat else "prompt and completion"
    return "text"


def take_form(row: dict[str, Any], kind: Kind, corpus: Corpus, where: str) -> tuple[str, Form]:
    """Remove the columns of a row that are not plain text, and return its text and form.

    Args:
        row: the row's columns.
        kind: what `kind_of` returned; not text.
        corpus: the study's corpus.
        where: the file and row, for errors.

    Raises:
        InputError: they are not what a conversation, or a prompt with its completion, consists of.
    """
    if kind == "prompt and completion":
        prompt, completion = (_string(row.pop(name), name, where) for name in (PROMPT, COMPLETION))
        if not completion.strip():
            raise InputError(where, f"`{COMPLETION}` is empty or only white space", "Remove the row, or give it text.")
        return prompt + completion, PromptedText(len(prompt))
    options = {name: value for name in OPTIONS if (value := row.pop(name, None)) is not None}
    for name in (corpus.text_column, MESSAGES):
        if name in row:
            messages = conversation_messages(row.pop(name), name, where)
            return _checked(Conversation(messages, options), where)
    parts = [row.pop(PROMPT), row.pop(COMPLETION)]
    for name, part in zip((PROMPT, COMPLETION), parts, strict=True):
        if not isinstance(part, list):
            problem = f"`{name}` is not a list of messages, but the row's other half is one"
            raise InputError(where, problem, "Write both as strings, or both as lists of messages.")
    prompt_messages, answers = (
        conversation_messages(part, name, where) for name, part in zip((PROMPT, COMPLETION), parts, strict=True)
    )
    return _checked(Conversation(prompt_messages + answers, options, len(prompt_messages)), where)


def conversation_messages(value: Any, name: str, where: str) -> tuple[dict[str, Any], ...]:
    """Return the messages of a column, their contents as strings and without what is null.

    Raises:
        InputError: it is not a list of messages of text.
    """
    if not isinstance(value, list) or not value:
        raise InputError(where, f"`{name}` is not a list of messages", _SHAPE)
    return tuple(_message(message, f"`{name}`, message {number},", where) for number, message in enumerate(value, 1))


def _message(message: Any, which: str, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise InputError(where, f"{which} is not an object", _SHAPE)
    kept: dict[str, Any] = _without_null(message)
    if not isinstance(kept.get("role"), str):
        raise InputError(where, f"{which} has no `role`", _SHAPE)
    content = kept.get("content")
    if isinstance(content, list):
        kept["content"] = "".join(_part(part, which, where) for part in content)
    elif content is not None and not isinstance(content, str):
        raise InputError(where, f"{which} has a `content` that is a {type(content).__name__}, not text", _SHAPE)
    if set(kept) == {"role"}:
        raise InputError(where, f"{which} has no `content`", _SHAPE)
    return kept


def _part(part: Any, which: str, where: str) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    if not isinstance(text, str):
        # Without its type, which is text of the row too: errors are kept in Dagster's history.
        raise InputError(where, f"{which} has a part that is not text", "Only text can be attributed.")
    return text


def _without_null(value: Any) -> Any:
    """Return a value without the keys that are null: Parquet gives every message the keys of all."""
    if isinstance(value, dict):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return [_without_null(inner) for inner in value] if isinstance(value, list) else value


def _checked(conversation: Conversation, where: str) -> tuple[str, Form]:
    if not any(said(message).strip() for message in conversation.messages):
        raise InputError(where, "no message has text", "Remove the row, or give it text.")
    return conversation.text, conversation


def _string(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(where, f"`{name}` is {kind_of_value(value)}, not a string", "Remove the row, or give it text.")
    return value
