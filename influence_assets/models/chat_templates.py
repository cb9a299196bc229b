"""A model's chat template: the text that a conversation becomes, and which of it the assistant writes.

The template is read from the model folder's own files. transformers renders it in a sandbox.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influence_assets.errors import InputError

FILE = "chat_template.jinja"
_SETTINGS = ("special_tokens_map.json", "tokenizer_config.json")
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")

CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The template of models that a study trains."""

Spans = list[tuple[int, int]]
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ChatTemplate:
    """A template, and what it is rendered with.

    Attributes:
        source: the Jinja template.
        names: the special tokens that templates know by name, such as `bos_token`.
        origin: where it comes from, for errors.
        needed: special tokens without which it makes no sense.
    """

    source: str
    names: Mapping[str, str]
    origin: str
    needed: tuple[str, ...] = ()

    @property
    def content(self) -> list[Any]:
        """What determines the rendered text, for data versions."""
        return [self.source, dict(sorted(self.names.items()))]

    @property
    def is_marked(self) -> bool:
        """Whether the template marks what the assistant writes by {% generation %}."""
        return _MARK.search(self.source) is not None

    def render(
        self, messages: Messages, options: Mapping[str, Any], where: str, *, add_generation_prompt: bool = False
    ) -> str:
        """Return the text of a conversation.

        Args:
            messages: the messages.
            options: `tools` and `chat_template_kwargs`, if there are any.
            where: the file and row, for errors.
            add_generation_prompt: whether the assistant's turn begins at the end.

        Raises:
            InputError: the template refuses the conversation.
        """
        return self._rendered(messages, options, where, add_generation_prompt=add_generation_prompt)[0]

    def marked(self, messages: Messages, options: Mapping[str, Any], where: str) -> tuple[str, Spans]:
        """Return the text of a conversation, and the characters of it that the template marks as the assistant's."""
        return self._rendered(messages, options, where, is_marked=True)

    def _rendered(
        self,
        messages: Messages,
        options: Mapping[str, Any],
        where: str,
        *,
        add_generation_prompt: bool = False,
        is_marked: bool = False,
    ) -> tuple[str, Spans]:
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        arguments = {**self.names, **options.get("chat_template_kwargs", {})}
        try:
            rendered: Any = render_jinja_template(  # declared to return only the texts
                [[dict(message) for message in messages]],
                tools=options.get("tools"),
                chat_template=self.source,
                return_assistant_tokens_mask=is_marked,
                add_generation_prompt=add_generation_prompt,
                **arguments,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            problem = f"the chat template of {self.origin} does not take its messages ({error})"
            raise InputError(where, problem, "Correct the row, or the template.") from error
        (text,), spans = rendered
        return str(text), [(int(start), int(end)) for start, end in spans[0]] if is_marked else []


def trained_template() -> ChatTemplate:
    """Return the template of models that a study trains."""
    return ChatTemplate(CHATML, {}, "models that a study trains", CHATML_TOKENS)


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """Return the chat template of a model folder, or None if it has none.

    Raises:
        InputError: its files cannot be read, or have several templates and none by default.
    """
    settings: dict[str, Any] = {}
    for name in _SETTINGS:
        if (folder / name).is_file():
            settings |= _read_settings(folder / name)
    names = {key: _content(value) for key, value in settings.items() if key.endswith("_token")}
    known = {key: name for key, name in names.items() if name is not None}
    if (folder / FILE).is_file():
        return ChatTemplate((folder / FILE).read_text(encoding="utf-8"), known, str(folder / FILE))
    template = settings.get("chat_template")
    where = str(folder / _SETTINGS[-1])
    if isinstance(template, list):
        templates = {str(one.get("name")): one.get("template") for one in template if isinstance(one, dict)}
        if "default" not in templates:
            problem = f"has several chat templates, and none is called default ({', '.join(templates)})"
            raise InputError(where, problem, f"Write the one to use into {FILE} beside it.")
        template = templates["default"]
    return ChatTemplate(template, known, where) if isinstance(template, str) else None


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(file), f"cannot be read ({error})", "Put the model's own file there.") from error
    return settings if isinstance(settings, dict) else {}


def _content(token: Any) -> str | None:
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None
