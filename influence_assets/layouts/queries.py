"""Queries as the model reads them, and the layout of their gradients."""

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from influence_assets.capture.batches import Sequences
from influence_assets.capture.layer_vectors import LayerVectors, Vectors
from influence_assets.capture.runner import Runner
from influence_assets.corpus.forms import Conversation, read_form
from influence_assets.corpus.queries import TokenizedQuery, fitting, read_query_set, tokenize_query
from influence_assets.corpus.sources import SourceFile
from influence_assets.corpus.special_tokens import SpecialTokenCounter
from influence_assets.engine.workspace import Workspace
from influence_assets.layouts import LARGEST_QUERIES_BYTES
from influence_assets.layouts.chat import Preparation, chat_template_of
from influence_assets.layouts.factors import read_layer
from influence_assets.layouts.learning_rates import learning_rates
from influence_assets.layouts.outer_products import StoredGradients
from influence_assets.layouts.tokens import tokenization_of
from influence_assets.maths.curvature import Curvature
from influence_assets.maths.notation import accumulation_dtype
from influence_assets.maths.outer_products import GradientParts
from influence_assets.methods.method import MethodContext
from influence_assets.methods.registry import attribution_methods, options_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study


def chunks(queries: int, bytes_each: int) -> Iterator[slice]:
    """Yield slices of the queries, in order; what is held of each slice fits within `LARGEST_QUERIES_BYTES`."""
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


def read_tokenized(
    language_model: Artifact, workspace: Workspace, file: SourceFile
) -> tuple[pl.DataFrame, list[TokenizedQuery]]:
    """Return the rows of a query file, and each query as the model reads it.

    Args:
        language_model: the artifact with the tokenizer.
        workspace: the study.
        file: the file of a query set.

    Raises:
        InputError: a row cannot be used, a query has more tokens than the model's context, or the file has changed
            since its version was determined.
    """
    rows = read_query_set(file)
    workspace.refuse_changed(file)
    places = [f"{file.url}, row {row}" for row in rows["source_row"]]
    prompts, completions, chats = (list(rows[name]) for name in ("prompt", "completion", "chat"))
    return rows, tokenize(language_model, workspace, prompts, completions, places, chats)


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
        runner: the model, to whose device gradients are loaded.
        curvature: the curvature of every layer, on the same device.
        study: the study, for its settings of methods; None: they have none.
        in_full: the query set's artifact of `method_vectors`; None unless a method's P is stored.
        trained: the summary of the model's manifest, for methods that use how long it was trained; None: none does.
    """

    def __init__(
        self,
        artifact: Artifact,
        runner: Runner,
        curvature: Mapping[str, Curvature],
        study: Study | None = None,
        in_full: Artifact | None = None,
        trained: Mapping[str, Any] | None = None,
    ) -> None:
        summary = artifact.manifest.summary
        self._artifact = artifact
        self._runner = runner
        self._curvature = curvature
        self._study = study
        self._in_full = in_full
        self._trained = trained
        self._gradients = StoredGradients(artifact)
        self._kept: dict[tuple[str, int, int], GradientParts] = {}
        self.N = int(summary["training_sequences"])
        self.generation_id = int(summary["generation_id"])

    @cached_property
    def query_ids(self) -> list[str]:
        """The ids of the set's queries."""
        return list(self._artifact.table("queries").select("query_id").collect()["query_id"])

    @cached_property
    def learning_rates(self) -> float | None:
        """The length of the model's training, as `MethodContext.learning_rates`."""
        return None if self._study is None or self._trained is None else learning_rates(self._study, self._trained)

    @property
    def bytes_in_full(self) -> int:
        """The bytes of one query's gradient in memory, over all layers."""
        return gradient_bytes(self._curvature, accumulation_dtype(self._runner.dtype))

    @property
    def all(self) -> slice:
        """All of the set's queries."""
        return slice(0, len(self.query_ids))

    def layers(self, rows: slice, method: str, held: frozenset[str] | None = None) -> LayerVectors:
        """Return a method's P for some queries, by layer: [query, d_out, d_in] in the coordinates of its basis.

        Only one layer's V is in memory beside P.

        Args:
            rows: the queries.
            method: the method.
            held: the layers whose P stays in memory, while that of others is made whenever it is used; None: all. P
                that is stored in full always stays.
        """
        of_method = attribution_methods()[method]
        options = None if self._study is None else options_of(self._study, of_method)
        if not of_method.layer_by_layer:
            held = None

        def make(name: str, out: Tensor | None) -> Tensor:
            layer = self._curvature[name]
            if not of_method.layer_by_layer:
                assert self._in_full is not None  # noqa: S101  # whoever scores by such a method reads its vectors
                return read_layer(self._in_full, name, method, self._runner.device, rows)
            curvature = {name: layer} if of_method.needs_curvature else {}
            context = MethodContext(
                self._runner, {name: layer.basis}, curvature, options=options, learning_rates=self.learning_rates
            )
            stays = held is None or name in held
            V = self._of_layer(name, layer, rows) if stays else self._parts(name, rows).sums(out)
            return of_method.prepare({name: V}, context)[name]

        layers = [layer for layer in self._runner.modules if layer.name in self._curvature]
        return LayerVectors(layers, make, held)

    def vectors(self, rows: slice, method: str) -> Vectors:
        """Return what a method's P of some queries is made of."""
        count = rows.stop - rows.start
        if not attribution_methods()[method].layer_by_layer:
            return Vectors(count, math.inf)
        shapes = {layer.name: (layer.output_width, layer.input_width) for layer in self._runner.modules}
        return Vectors(count, self._gradients.outer_products(rows, shapes))

    def _parts(self, name: str, rows: slice) -> GradientParts:
        """Return what V of a layer is the sum of, which all methods share, and which stays in memory."""
        key = name, rows.start, rows.stop
        if key not in self._kept:
            dtype, shape = accumulation_dtype(self._runner.dtype), self._curvature[name].shape
            self._kept[key] = self._gradients.parts_of_layer(name, rows, shape, dtype, self._runner.device)
        return self._kept[key]

    def gradients(self, rows: slice) -> dict[str, Tensor]:
        """Return V of some queries, by layer: [query, d_out, d_in] in the coordinates of its basis."""
        return {name: self._of_layer(name, layer, rows) for name, layer in self._curvature.items()}

    def _of_layer(self, name: str, layer: Curvature, rows: slice) -> Tensor:
        dtype = accumulation_dtype(self._runner.dtype)
        return self._gradients.of_layer(name, rows, layer.shape, dtype, self._runner.device)

    def chunks(self) -> Iterator[slice]:
        """Yield slices of the queries, as `chunks_of` does."""
        return chunks_of(self._artifact)


def chunks_of(artifact: Artifact) -> Iterator[slice]:
    """Yield slices of a query set's queries, in order; P of each slice fits within `LARGEST_QUERIES_BYTES`."""
    queries, of_all = (int(artifact.manifest.summary[name]) for name in ("queries", "gradient_bytes"))
    return chunks(queries, max(1, of_all // max(1, queries)))


def gradient_bytes(curvature: Mapping[str, Curvature], dtype: torch.dtype) -> int:
    """Return the bytes of one query's gradient over all layers in memory, in a dtype."""
    return dtype.itemsize * sum(math.prod(layer.shape) for layer in curvature.values())
