"""The asset `token_sequences`: a shard's documents as tokens, packed."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from influence_assets.engine.checks import Check, EachOf, Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.engine.workspace import Workspace
from influence_assets.layouts.sequences import LOSS, has_forms, stored_documents
from influence_assets.layouts.token_settings import chat_template_content, packing_settings, token_settings
from influence_assets.storage.artifacts import Artifact

TOKEN_ARRAYS = ("tokens", "character_start", "character_end")


def _compute(work: Work) -> None:
    from influence_assets.corpus.packing import SEQUENCE_DOCUMENT_SCHEMA, SEQUENCE_SCHEMA, pack
    from influence_assets.corpus.special_tokens import SpecialTokenCounter
    from influence_assets.layouts.chat import preparation_of
    from influence_assets.layouts.tokens import tokenization_of

    shard = str(work.partition.shard)
    settings = work.study.sequences
    tokenization = tokenization_of(work.open("language_model"), work.study, work.study.corpus.special_tokens)
    arrays = {name: work.draft.growing_array(name, (settings.length,), "int32") for name in TOKEN_ARRAYS}
    lengths = work.draft.growing_array("lengths", (), "int32")
    spans = [pl.DataFrame(schema=SEQUENCE_DOCUMENT_SCHEMA)]
    special = SpecialTokenCounter(tokenization)
    tokens = counted = 0
    prepare = preparation_of(work.workspace, tokenization) if has_forms(work.open("documents")) else None
    if prepare is not None and prepare.has_mask:
        arrays[LOSS] = work.draft.growing_array(LOSS, (settings.length,), "uint8")

    def documents() -> Iterator[pl.DataFrame]:
        for frame in stored_documents(work.open("documents")):
            special.count(frame["text"])
            yield frame

    def sequences() -> Iterator[pl.DataFrame]:
        """Yield the rows of `sequences`, and append to the arrays and spans on the way."""
        nonlocal tokens, counted
        for packed in pack(
            documents(),
            tokenization,
            settings.length,
            shard,
            packing=settings.packing,
            documents_see_each_other=settings.documents_see_each_other,
            prepare=prepare,
        ):
            for name, array in arrays.items():
                array.append(getattr(packed, name))
            lengths.append(packed.lengths)
            spans.append(packed.sequence_documents)
            tokens += int(packed.lengths.sum())
            counted += int(packed.loss[:, 1:].sum())
            yield packed.sequences

    count = work.draft.table_from("sequences", sequences(), SEQUENCE_SCHEMA)
    work.draft.table("sequence_documents", pl.concat(spans))
    work.draft.summarise(sequences=count, tokens=tokens, predicted_tokens=counted, sequence_length=settings.length)
    notes = special.notes("documents", "corpus.special_tokens")
    if count and not counted:
        notes.append(
            "None of its tokens carries a loss, because no row has an answer that reaches into a sequence: raise "
            "sequences.length, or set corpus.loss_on to all."
        )
    if notes:
        work.draft.summarise(notes=notes)


def _source_content(workspace: Workspace, partition: Partition) -> Mapping[str, Any]:
    """Return the chat template, for shards that it is applied to."""
    from influence_assets.corpus.readers import file_kind

    shard = workspace.shard(str(partition.shard))
    return chat_template_content(workspace, lambda: file_kind(shard, workspace.study.corpus) == "messages")


def token_counts_agree(artifact: Artifact, _open: Opener) -> Finding:
    """Compare the numbers of tokens in sequences, spans of documents and arrays."""
    of_sequences = int(artifact.table("sequences").select(pl.col("tokens").sum()).collect().item())
    spans = artifact.table("sequence_documents").select((pl.col("token_end") - pl.col("token_start")).sum())
    of_spans = int(spans.collect().item())
    of_arrays = int(artifact.array("lengths").sum())
    figures = {"tokens_of_sequences": of_sequences, "tokens_of_spans": of_spans, "tokens_of_arrays": of_arrays}
    return Finding(of_sequences == of_spans == of_arrays, figures)


def _cost(sizes: Any, partition: Partition) -> Cost:
    return Cost(bytes=None, amount=sizes.sequences(str(partition.shard)))


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    without = figures["tokens"] - figures["sequences"] - figures["predicted_tokens"]
    loss = f" {figures['predicted_tokens']:,} of them carry a loss." if without else ""
    return {"in_short": f"{figures['sequences']:,} sequences of {figures['tokens']:,} tokens.{loss}"}


ASSET = AssetDefinition(
    name="token_sequences",
    group="corpus",
    description=(
        "The shard's documents as tokens, packed into sequences of fixed length. Every token remembers the document "
        "and the characters that it came from."
    ),
    kinds=frozenset({"zarr", "parquet"}),
    partitioned_by="shard",
    inputs=("documents", "language_model"),
    code_version="1",
    settings=lambda study: {
        "length": study.sequences.length,
        **packing_settings(study),
        **token_settings(study, study.corpus),
    },
    source_content=_source_content,
    compute=_compute,
    holds_text=True,
    is_published=True,
    is_shared_by_members=True,
    cost=CostModel(partition=_cost),
    shown=_shown,
    checks=EachOf(
        Check("token_counts_agree", "Spans of documents cover every token of the sequences once.", token_counts_agree)
    ),
)
