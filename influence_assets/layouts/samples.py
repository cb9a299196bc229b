"""Some of a study's first sequences and queries, read from its files before anything is stored."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from influence_assets.capture.batches import Sequences
from influence_assets.corpus.documents import read_documents
from influence_assets.corpus.packing import pack
from influence_assets.corpus.queries import read_query_set, tokenize_query
from influence_assets.corpus.tokenization import Tokenization
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError
from influence_assets.layouts.queries import as_sequences
from influence_assets.layouts.tokens import as_studied


class Sample(NamedTuple):
    """The first sequences and queries of a study."""

    sequences: Sequences
    queries: Sequences


def sample(workspace: Workspace, tokenizer: Path, context: int, *, sequences: int, queries: int) -> Sample:
    """Return the first sequences and queries, as a run would compute them.

    Args:
        workspace: the study and its files.
        tokenizer: the folder of the exported tokenizer.
        context: the most tokens that the model can read.
        sequences: the largest number of sequences.
        queries: the largest number of queries.

    Raises:
        InputError: there are fewer than two sequences, or no query.
    """
    study, own = workspace.study, Tokenization.load(tokenizer)
    packed = pack(
        _documents(workspace),
        as_studied(own, study, study.corpus.special_tokens),
        study.sequences.length,
        next(iter(workspace.shards), ""),
        packing=study.sequences.packing,
        documents_see_each_other=study.sequences.documents_see_each_other,
    )
    first = next(packed, None)
    if first is None or len(first.lengths) < 2:
        raise InputError("corpus.path", "has fewer than two sequences", "Add documents to try the model on.")
    ids = first.sequences["sequence_id"].to_numpy()
    tokenization = as_studied(own, study, study.queries.special_tokens)
    tokenized = [
        tokenize_query(row["prompt"], row["completion"], tokenization, context, row["place"])
        for row in islice(_queries(workspace), queries)
    ]
    if not tokenized:
        raise InputError("queries.path", "has no query", "Add one to try the model on.")
    chosen = Sequences(first.tokens, first.lengths, ids).take(np.arange(min(sequences, len(ids))))
    return Sample(chosen, as_sequences(tokenized))


def _documents(workspace: Workspace) -> Iterator[pl.DataFrame]:
    """Yield the documents of the first shard that can be read; one that cannot has an error of its own in a run."""
    for shard in workspace.shards.values():
        with suppress(InputError):
            yield from read_documents(shard, workspace.study.corpus, workspace.withdrawn.of(shard))


def _queries(workspace: Workspace) -> Iterator[dict[str, str]]:
    for file in workspace.query_sets.values():
        rows = read_query_set(file)
        for row in rows.select("prompt", "completion", "source_row").rows(named=True):
            yield {**row, "place": f"{file.url}, row {row['source_row']}"}
