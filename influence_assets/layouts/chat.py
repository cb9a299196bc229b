"""How rows that are more than a text become tokens, and which of these carry a loss.

What the assistant wrote is known in the rendered text: by the template's own marks, or else by rendering the
conversation up to each of its turns, which must give the beginning of the whole.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influence_assets.corpus.forms import ASSISTANT, Conversation, read_form
from influence_assets.corpus.packing import Prepared
from influence_assets.corpus.template_tokens import TemplateTokens
from influence_assets.corpus.tokenization import Tokenization, TokenizedText
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError
from influence_assets.models.chat_templates import ChatTemplate, Spans, read_chat_template, trained_template
from influence_assets.study import LossOn

_PLACE = "\ue000{}\ue001"
_PLACES = re.compile("\ue000(\\d+)\ue001")


@lru_cache(maxsize=2)
def chat_template_of(workspace: Workspace) -> ChatTemplate | None:
    """Return the chat template of the study's model, or None if it has none."""
    if workspace.study.model.train is not None:
        return trained_template()
    return read_chat_template(workspace.model_folder)


def preparation_of(workspace: Workspace, tokenization: Tokenization) -> "Preparation":
    """Return what makes tokens of the corpus's documents with a form."""
    study = workspace.study
    return Preparation(tokenization, chat_template_of(workspace), study.corpus.loss_on, study.model.path)


class Preparation:
    """Makes tokens of documents with a form.

    Args:
        tokenization: how texts become tokens.
        template: the model's chat template, if it has one.
        loss_on: which tokens carry a loss.
        model: the model, for errors.
    """

    def __init__(
        self, tokenization: Tokenization, template: ChatTemplate | None, loss_on: LossOn, model: str | None
    ) -> None:
        self._tokenization = tokenization
        self._template = template
        self._loss_on = loss_on
        self._model = model or "model.train"
        self._tokens = TemplateTokens(tokenization)

    @property
    def has_mask(self) -> bool:
        """Whether some tokens may carry no loss."""
        return self._loss_on != "all"

    def __call__(self, form: str, text: str, where: str) -> Prepared:
        """Return a document's tokens, and which of them carry a loss.

        Args:
            form: its form, as JSON.
            text: its text.
            where: the file and row, for errors.

        Raises:
            InputError: the model has no chat template, or it does not fit the conversation.
        """
        read = read_form(form)
        if isinstance(read, Conversation):
            return self._conversation(read, where)
        tokens = self._tokenization.encode(text, where)
        loss = np.ones(len(tokens), np.uint8)
        if self._loss_on == "answers":
            # As in queries, a token that extends past the prompt belongs to the completion.
            loss = (tokens.character_end > read.prompt_characters).astype(np.uint8)
        return Prepared(tokens, loss, is_complete=False)

    def answered(self, conversation: Conversation, where: str) -> tuple[str, tuple[int, int]]:
        """Return the text that the template makes of a conversation, and the characters of its last answer in it."""
        text = self._known_template(where).render(conversation.messages, conversation.options, where)
        return text, self.answers(conversation, text, where)[-1]

    def prompt(self, conversation: Conversation, where: str) -> str:
        """Return the text that the template makes of what comes before the first answer."""
        messages = conversation.messages[: conversation.first_answer]
        return self._known_template(where).render(messages, conversation.options, where, add_generation_prompt=True)

    def encoded(self, conversation: Conversation, text: str, end: int, rest: str, where: str) -> TokenizedText:
        """Return the tokens of what the template made of a conversation, up to a place, followed by other text.

        Args:
            conversation: the conversation.
            text: what the template made of it.
            end: how much of it there is.
            rest: what follows.
            where: the file and row, for errors.
        """
        plain = [(start, min(stop, end)) for start, stop, _ in self._contents(conversation, text, where)]
        return self._encode(text[:end] + rest, [*plain, (end, end + len(rest))], where)

    def answers(self, conversation: Conversation, text: str, where: str) -> Spans:
        """Return the characters of a rendered conversation that the assistant writes, turns' ends included.

        Raises:
            InputError: the template does not say, and what it renders of the beginning of a conversation is not the
                beginning of the whole.
        """
        template = self._known_template(where)
        if not template.is_marked:
            return self._turns(template, conversation, text, where)
        spans = template.marked(conversation.messages, conversation.options, where)[1]
        if conversation.first_answer:
            prompt = conversation.messages[: conversation.first_answer]
            before = template.render(prompt, conversation.options, where, add_generation_prompt=True)
            if not text.startswith(before):
                raise self._not_a_beginning(template, where)
            spans = [span for span in spans if span[0] >= len(before)]
        return spans

    def _conversation(self, conversation: Conversation, where: str) -> Prepared:
        template = self._known_template(where)
        text = template.render(conversation.messages, conversation.options, where)
        contents = self._contents(conversation, text, where)
        tokens = self._encode(text, [(start, end) for start, end, _ in contents], where)
        loss = np.ones(len(tokens), np.uint8)
        if self._loss_on == "answers":
            loss = _within(tokens, self.answers(conversation, text, where))
        origin = _origin(len(text), contents)
        shown = TokenizedText(tokens.tokens, origin[tokens.character_start], origin[tokens.character_end])
        return Prepared(shown, loss, is_complete=True)

    def _known_template(self, where: str) -> ChatTemplate:
        if self._template is None:
            remedy = "Put the chat_template.jinja that it was trained with into its folder, or give rows of text."
            raise InputError(where, f"has messages, but {self._model} has no chat template", remedy)
        if not set(self._template.needed) <= set(self._tokenization.special_names):
            problem = "has messages, but the study's model was trained when the corpus had none"
            raise InputError(where, problem, "Train a model on them in another store (`storage.root`).")
        return self._template

    def _encode(self, text: str, plain: Sequence[tuple[int, int]], where: str) -> TokenizedText:
        return self._tokens.encode(text, [] if self._tokenization.special_tokens == "parse" else plain, where)

    def _turns(self, template: ChatTemplate, conversation: Conversation, text: str, where: str) -> Spans:
        """Return the assistant's turns as what its template adds to the conversation before each."""
        spans = []
        for number, message in enumerate(conversation.messages):
            if message["role"] != ASSISTANT or number < conversation.first_answer:
                continue
            earlier, options = conversation.messages[:number], conversation.options
            before = template.render(earlier, options, where, add_generation_prompt=True)
            through = template.render(conversation.messages[: number + 1], options, where)
            # Some templates end the whole conversation with a token that is not at the end of other turns.
            turn = _common_beginning(through, text)[len(before) :]
            end = self._end_of_turn(message, turn, is_whole=text.startswith(through))
            if not (text.startswith(before) and through.startswith(before)) or end is None:
                raise self._not_a_beginning(template, where)
            spans.append((len(before), len(before) + end))
        return spans

    def _end_of_turn(self, message: Mapping[str, Any], turn: str, *, is_whole: bool) -> int | None:
        """Return where a turn ends: after the first special token behind its content, if there is one."""
        content = (message.get("content") or "").strip()
        behind = turn.find(content) + len(content) if content in turn and not message.get("tool_calls") else None
        ends = [end for start, end in self._tokens.names_in(turn) if start >= (behind or 0)]
        if ends:
            return ends[0] if behind is not None else ends[-1]
        return len(turn) if is_whole else None

    def _contents(self, conversation: Conversation, text: str, where: str) -> list[tuple[int, int, int]]:
        """Return where the messages' contents are in a rendered text: start, end, and start in the document's text."""
        contents = [str(message.get("content") or "") for message in conversation.messages]
        places = self._places(conversation, contents, text, where)
        if places is None:
            if self._tokenization.special_tokens == "text" and any(map(self._tokens.names_in, contents)):
                problem = "a message has the name of a special token, and the chat template changes the message"
                remedy = "Set corpus.special_tokens (or queries.special_tokens) to parse, or remove the name."
                raise InputError(where, problem, remedy)
            places = _found(contents, text)
        starts = conversation.content_starts()
        return [(start, end, starts[number] + skipped) for number, start, end, skipped in places]

    def _places(
        self, conversation: Conversation, contents: list[str], text: str, where: str
    ) -> list[tuple[int, int, int, int]] | None:
        """Return number, start, end and what is left out at the front of each content that the template copies.

        The template is rendered with marks in the place of contents. None if what lies between is not the same then.
        """
        template = self._known_template(where)
        marked: list[Mapping[str, Any]] = [
            {**message, **({"content": _PLACE.format(number)} if contents[number] else {})}
            for number, message in enumerate(conversation.messages)
        ]
        prompts = conversation.messages[-1]["role"] != ASSISTANT
        for add in (False, True) if prompts else (False,):
            try:
                shadow = template.render(marked, conversation.options, where, add_generation_prompt=add)
            except InputError:
                return None
            places = _matched(_PLACES.split(shadow), contents, text)
            if places is not None:
                return places
        return None

    @staticmethod
    def _not_a_beginning(template: ChatTemplate, where: str) -> InputError:
        return InputError(
            where,
            f"which tokens are the assistant's is not known: {template.origin} renders the beginning of the "
            "conversation otherwise than the whole, and has no {% generation %} marks",
            "Write {% generation %} and {% endgeneration %} around what the assistant writes in the template, or set "
            "corpus.loss_on to all.",
        )


def _common_beginning(one: str, other: str) -> str:
    same = zip(one, other, strict=False)
    length = next((place for place, (a, b) in enumerate(same) if a != b), min(len(one), len(other)))
    return one[:length]


def _matched(pieces: list[str], contents: list[str], text: str) -> list[tuple[int, int, int, int]] | None:
    """Match literal pieces and contents, alternately, with a text; contents may have lost white space at their ends."""
    places = []
    position = 0
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            if not text.startswith(piece, position):
                return None
            position += len(piece)
            continue
        number, following = int(piece), pieces[index + 1]
        content = contents[number]
        for kept in (content, content.rstrip(), content.lstrip(), content.strip()):
            if text.startswith(kept + following, position):
                places.append((number, position, position + len(kept), content.find(kept)))
                position += len(kept)
                break
        else:
            return None
    return places if position == len(text) else None


def _found(contents: list[str], text: str) -> list[tuple[int, int, int, int]]:
    """Find contents in a text, one after the other; those that are not there are left out."""
    places = []
    position = 0
    for number, content in enumerate(contents):
        kept = content.strip()
        start = text.find(kept, position) if kept else -1
        if start >= 0:
            position = start + len(kept)
            places.append((number, start, position, len(content) - len(content.lstrip())))
    return places


def _origin(length: int, contents: list[tuple[int, int, int]]) -> NDArray[np.int32]:
    """Return for each place in a rendered text its place in the document's text: what is around contents has none."""
    origin = np.zeros(length + 1, np.int64)
    for start, end, shown in contents:
        origin[start : end + 1] = np.arange(shown, shown + end - start + 1)
    return np.maximum.accumulate(origin).astype(np.int32)


def _within(tokens: TokenizedText, spans: Spans) -> NDArray[np.uint8]:
    """Return which tokens have a character in one of the spans."""
    loss = np.zeros(len(tokens), np.uint8)
    for start, end in spans:
        loss |= ((tokens.character_start < end) & (tokens.character_end > start)).astype(np.uint8)
    return loss
