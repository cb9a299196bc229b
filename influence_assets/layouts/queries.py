"""Queries as the model reads them, and the layout of their gradients."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from influence_assets.capture.batches import Sequences
from influence_assets.corpus.forms import Conversation, read_form
from influence_assets.corpus.queries import TokenizedQuery, fitting, tokenize_query
from influence_assets.corpus.special_tokens import SpecialTokenCounter
from influence_assets.engine.workspace import Workspace
from influence_assets.layouts import LARGEST_QUERIES_BYTES
from influence_assets.layouts.chat import Preparation, chat_template_of
from influence_assets.layouts.factors import layers_of, read_layers
from influence_assets.layouts.tokens import tokenization_of
from influence_assets.maths.ekfac import LayerCurvature
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study

_ARRAYS = {"ekfac": "preconditioned", "gradient_dot": "gradient"}
"""The arrays of the first two methods, in every store so far; those of other methods have the method's name."""


def array_name(layer: str, method: str) -> str:
    """Return the name of the array of P, which a method multiplies training gradients of a layer by."""
    return f"{layer}.{_ARRAYS.get(method, method)}"


def chunks(queries: int, bytes_each: int) -> Iterator[slice]:
    """Yield slices of the queries, in order; the gradients of each slice fit within `LARGEST_QUERIES_BYTES`."""
    at_once = max(1, LARGEST_QUERIES_BYTES // bytes_each)
    for start in range(0, queries, at_once):
        yield slice(start, min(start + at_once, queries))


def tokenize(
    language_model: Artifact,
    workspace: Workspace,
    prompts: list[str],
    completions: list[str],
    places: list[str],
    chats: list[str | None] | None = None,
) -> list[TokenizedQuery]:
    """Return each query as the model reads it.

    Args:
        language_model: the artifact with the tokenizer.
        workspace: the study, which says what surrounds a text and what becomes of special tokens in it.
        prompts: the queries' prompts.
        completions: the queries' completions.
        places: the file and row of each query, for errors.
        chats: the conversation of each query whose prompt is a list of messages; None if there are none.

    Raises:
        InputError: a completion is empty, or a query has more tokens than the model's context.
    """
    study = workspace.study
    tokenization = tokenization_of(language_model, study, study.queries.special_tokens)
    context = int(language_model.manifest.summary["context_tokens"])
    chats = chats or [None] * len(prompts)
    preparation = None
    if any(chats):
        preparation = Preparation(tokenization, chat_template_of(workspace), "answers", study.model.path)
    tokenized = []
    for prompt, completion, place, chat in zip(prompts, completions, places, chats, strict=True):
        if chat is None or preparation is None:
            tokenized.append(tokenize_query(prompt, completion, tokenization, context, place))
        else:
            tokenized.append(fitting(_conversation(chat, completion, preparation, place), context, place))
    return tokenized


def _conversation(chat: str, completion: str, preparation: Preparation, where: str) -> TokenizedQuery:
    """Return a query whose prompt is a conversation: its turn ends if the completion is a message too."""
    conversation = read_form(chat)
    assert isinstance(conversation, Conversation)  # noqa: S101  # as `read_query_set` writes it
    text = preparation.prompt(conversation, where)
    start, end, rest = len(text), len(text), completion
    if len(conversation.messages) > conversation.first_answer:
        text, (start, end) = preparation.answered(conversation, where)
        rest = ""
    tokens = preparation.encoded(conversation, text, end, rest, where)
    in_completion = np.flatnonzero(tokens.character_end > start)
    return TokenizedQuery(tokens.tokens, int(in_completion[0]) if in_completion.size else len(tokens))


def notes(language_model: Artifact, study: Study, texts: list[str]) -> list[str]:
    """Return a sentence if these prompts and completions are full of special tokens that are read as text."""
    special = SpecialTokenCounter(tokenization_of(language_model, study, study.queries.special_tokens))
    special.count(texts)
    return special.notes("prompts and completions", "queries.special_tokens")


def as_sequences(queries: list[TokenizedQuery]) -> Sequences:
    """Return the queries padded to the longest of them, such that only their completions are scored."""
    lengths = np.array([len(query.tokens) for query in queries], np.int32)
    tokens = np.zeros((len(queries), lengths.max()), np.int32)
    for row, query in zip(tokens, queries, strict=True):
        row[: len(query.tokens)] = query.tokens
    starts = np.array([query.completion_start for query in queries], np.int32)
    return Sequences(tokens, lengths, np.zeros(len(queries), np.int64), starts)


class StoredQueries:
    """The stored gradients of a query set, from which scores are computed.

    Args:
        artifact: the query set's artifact of `query_gradients`.
        device: the device to load gradients to.
    """

    def __init__(self, artifact: Artifact, device: str) -> None:
        summary = artifact.manifest.summary
        self._artifact = artifact
        self._device = device
        self.query_ids = list(artifact.table("queries").select("query_id").collect()["query_id"])
        self.N = int(summary["training_sequences"])
        self.generation_id = int(summary["generation_id"])

    @property
    def all(self) -> slice:
        """All of the set's queries."""
        return slice(0, len(self.query_ids))

    def layers(self, rows: slice, method: str) -> dict[str, Tensor]:
        """Return a method's P for some queries, by layer: [query, d_out, d_in] in the layer's eigenbasis."""
        return read_layers(self._artifact, _ARRAYS.get(method, method), self._device, rows)

    def chunks(self, method: str) -> Iterator[slice]:
        """Yield slices of the queries, in order; the gradients of each slice fit within `LARGEST_QUERIES_BYTES`."""
        records = (self._artifact.array_record(array_name(layer, method)) for layer in layers_of(self._artifact))
        each = sum(math.prod(record.shape[1:]) * np.dtype(record.dtype).itemsize for record in records)
        return chunks(len(self.query_ids), each)


def unconditioned(P: Mapping[str, Tensor], curvature: Mapping[str, LayerCurvature]) -> dict[str, Tensor]:
    """Return ∇f from its EK-FAC preconditioned form, both in the eigenbases: V = (Λ + λ) ⊙ P."""
    return {name: P[name] * (layer.Λ + layer.λ) for name, layer in curvature.items()}
