"""The step of the group `queries`: preconditioned gradients of what is to be explained."""

import math
from collections.abc import Iterator

import numpy as np
import polars as pl
import torch
from torch import Tensor

from influence_assets.capture.batches import Sequences
from influence_assets.capture.gradients import QueryGradients
from influence_assets.capture.gradients import query_gradients as measure_gradients
from influence_assets.corpus.queries import TokenizedQuery, read_query_set, tokenize_query
from influence_assets.corpus.sources import SourceFile
from influence_assets.corpus.tokenization import Tokenization
from influence_assets.errors import InputError
from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature
from influence_assets.methods.ekfac import EKFAC
from influence_assets.pipeline import factors, passes
from influence_assets.pipeline.steps import Work
from influence_assets.pipeline.together import LARGEST_QUESTIONS_BYTES
from influence_assets.pipeline.workspace import Workspace
from influence_assets.storage.artifacts import Artifact


def query_gradients(work: Work) -> None:
    """(G+λI)⁻¹ ∇ log p(completion given prompt) of every query of the set, layer by layer, in the eigenbases."""
    file = work.workspace.query_file(str(work.partition.query_set))
    queries = read_query_set(file)
    work.workspace.refuse_changed(file)
    refuse_ids_of_other_sets(work.workspace, file, queries)
    model = work.open("language_model")
    places = [f"{file.url}, row {row}" for row in queries["source_row"]]
    tokenized = tokenize(model, list(queries["prompt"]), list(queries["completion"]), places)
    runner = passes.runner(work.workspace, model, work.progress, len(tokenized))
    dtype = torch.promote_types(runner.dtype, torch.float32)
    curvature = factors.read_curvature(work.open("eigenbases"), work.open("curvature"), runner.device, dtype)
    written = _GradientArrays(work, curvature, len(tokenized))
    for rows in chunks(len(tokenized), bytes_of_gradient(curvature)):
        found = measure_gradients(runner, as_sequences(tokenized[rows]), bases_of(curvature))
        written.append(found)
    starts = [query.completion_start for query in tokenized]
    work.draft.table(
        "queries",
        queries.with_columns(
            pl.Series("prompt_tokens", starts, pl.Int32),
            pl.Series("completion_tokens", [len(q.tokens) - q.completion_start for q in tokenized], pl.Int32),
            pl.Series("log_probability_nats", written.log_probabilities),
            pl.Series("gradient_norm", written.norms),
        ),
    )
    work.draft.summarise(
        layers=list(curvature),
        queries=len(queries),
        generation_id=work.open("curvature").manifest.summary["generation_id"],
        training_sequences=work.open("curvature").manifest.summary["training_sequences"],
    )


class _GradientArrays:
    """Writes the gradients of one chunk of queries after another."""

    def __init__(self, work: Work, curvature: dict[str, LayerCurvature], queries: int) -> None:
        self._ekfac = EKFAC(curvature)
        self._kinds = ["preconditioned", *(["gradient"] if "gradient_dot" in work.study.scores.baselines else [])]
        self._arrays = {
            (kind, name): work.draft.mappable_array(
                f"{name}.{kind}", (queries, *layer.Λ.shape), str(layer.Λ.dtype).removeprefix("torch.")
            )
            for kind in self._kinds
            for name, layer in curvature.items()
        }
        self.log_probabilities: list[float] = []
        self.norms: list[float] = []

    def append(self, found: QueryGradients) -> None:
        """Precondition and write the next queries."""
        self.log_probabilities += found.log_probabilities.tolist()
        self.norms += gradient_norms(found.layers)
        for kind in reversed(self._kinds):  # preconditioning takes the gradients' place
            layers = self._ekfac.precondition(found.layers) if kind == "preconditioned" else found.layers
            for name, values in layers.items():
                self._arrays[kind, name].append(values.cpu().numpy())


def bytes_of_gradient(curvature: dict[str, LayerCurvature]) -> int:
    """What the gradient of one query takes over all layers."""
    return sum(layer.Λ.numel() * layer.Λ.element_size() for layer in curvature.values())


def chunks(queries: int, bytes_each: int) -> Iterator[slice]:
    """The queries in order, as many at a time as their gradients may be held at once."""
    at_once = max(1, LARGEST_QUESTIONS_BYTES // bytes_each)
    for start in range(0, queries, at_once):
        yield slice(start, min(start + at_once, queries))


def tokenize(
    language_model: Artifact, prompts: list[str], completions: list[str], places: list[str]
) -> list[TokenizedQuery]:
    """Each query as the model reads it; `places` name the rows in errors."""
    tokenization = Tokenization.load(language_model.path("tokenizer"))
    context = int(language_model.manifest.summary["context_tokens"])
    return [
        tokenize_query(prompt, completion, tokenization, context, place)
        for prompt, completion, place in zip(prompts, completions, places, strict=True)
    ]


def refuse_ids_of_other_sets(workspace: Workspace, file: SourceFile, queries: pl.DataFrame) -> None:
    """See to it that no other query file has a question of the same id, which is the question's key in every table.

    Args:
        workspace: the study, with its query files.
        file: of the questions.
        queries: the questions, as `read_query_set` gives them.

    Raises:
        InputError: naming both files and rows.
    """
    for other in workspace.query_sets.values():
        if other.name == file.name:
            continue
        try:
            others = read_query_set(other)
        except InputError:
            continue  # its own partition says what is wrong with it
        shared = queries.join(others, on="query_id", maintain_order="left").head(1)
        for row in shared.iter_rows(named=True):
            raise InputError(
                f"{file.url}, row {row['source_row']}",
                f"query_id {row['query_id']!r} is that of {other.url}, row {row['source_row_right']}, too",
                "Give each row a query_id of its own, and each question once.",
            )


def as_sequences(queries: list[TokenizedQuery]) -> Sequences:
    """The queries padded to the longest of them, only their completions scored."""
    lengths = np.array([len(query.tokens) for query in queries], np.int32)
    tokens = np.zeros((len(queries), lengths.max()), np.int32)
    for row, query in zip(tokens, queries, strict=True):
        row[: len(query.tokens)] = query.tokens
    starts = np.array([query.completion_start for query in queries], np.int32)
    return Sequences(tokens, lengths, np.zeros(len(queries), np.int64), starts)


def gradient_norms(layers: dict[str, Tensor]) -> list[float]:
    """‖∇f‖ of each query over all layers."""
    squares = torch.stack([V.double().flatten(1).square().sum(1) for V in layers.values()])
    return [float(norm) for norm in squares.sum(0).sqrt()]


class Preconditioned:
    """What `query_gradients` wrote, and scores are computed with.

    Args:
        artifact: of the query set.
        device: where the gradients are wanted.
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

    def layers(self, rows: slice, kind: str = "preconditioned") -> dict[str, Tensor]:
        """P of every layer in its eigenbasis, [query, d_out, d_in], of some queries; or V, `gradient`."""
        return factors.read_layers(self._artifact, kind, self._device, rows)

    def chunks(self) -> Iterator[slice]:
        """The queries in order, as many at a time as their gradients may be held at once."""
        records = (
            self._artifact.array_record(f"{layer}.preconditioned") for layer in factors.layers_of(self._artifact)
        )
        each = sum(math.prod(record.shape[1:]) * np.dtype(record.dtype).itemsize for record in records)
        return chunks(len(self.query_ids), each)


def unconditioned(P: dict[str, Tensor], curvature: dict[str, LayerCurvature]) -> dict[str, Tensor]:
    """∇f back from its preconditioned form, both in the eigenbases: V = (Λ + λ) ⊙ P."""
    return {name: P[name] * (layer.Λ + layer.λ) for name, layer in curvature.items()}


def bases_of(curvature: dict[str, LayerCurvature]) -> dict[str, Eigenbasis]:
    """The eigenbasis of every layer."""
    return {name: layer.basis for name, layer in curvature.items()}
