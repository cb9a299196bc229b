"""The asset `documents`: a shard's text and metadata."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from influence_assets.corpus.source_format import format_of
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown, Table
from influence_assets.engine.workspace import Workspace
from influence_assets.layouts.sequences import FORMS
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.manifest import Manifest
from influence_assets.study import Study
from influence_assets.urls import without_credentials

ROWS_SHOWN = 10
SKIPPED = "skipped_rows"
"""The table of rows that were left out because they cannot be used; a shard without any has none."""


def _settings(study: Study) -> Mapping[str, Any]:
    return study.corpus.model_dump(include={"text_column", "id_column"})


def _source_content(workspace: Workspace, partition: Partition) -> Mapping[str, Any]:
    shard = workspace.shard(str(partition.shard))
    source_format = format_of(shard.file.name)
    skipped = workspace.skipped.get(shard.shard_id)
    # Row numbers count from the file's beginning, so they can change although the slice's own bytes do not.
    return {
        "content": [shard.content_hash, shard.first_row],
        "withdrawn": sorted(workspace.withdrawn.of(shard)),
        **({} if skipped is None else {"skipped_rows": skipped}),
        **({"format_version": source_format.version} if source_format.version > 1 else {}),
    }


def _compute(work: Work) -> None:
    from influence_assets.corpus.documents import DOCUMENT_SCHEMA, read_documents

    workspace = work.workspace
    shard = workspace.shard(str(work.partition.shard))
    withdrawn = workspace.withdrawn.of(shard)
    stream = read_documents(shard, work.study.corpus, withdrawn)
    work.draft.table_from("documents", stream, DOCUMENT_SCHEMA)
    if (forms := stream.forms) is not None:
        work.draft.table(FORMS, forms)
    counts = dict(vars(stream.counts))
    if counts["skipped_rows"]:
        work.draft.table(SKIPPED, stream.skipped)
    else:
        del counts["skipped_rows"]  # so that nothing has changed for files without bad rows
    described = {
        "shard_id": shard.shard_id,
        "path": without_credentials(shard.file.url),
        "first_row": shard.first_row,
        "source_bytes": shard.bytes,
        "content_hash": shard.content_hash,
    }
    work.draft.table("shards", pl.DataFrame([described | counts]))
    content = {"source_bytes": shard.bytes, "content_hash": shard.content_hash}
    if (left_out := workspace.skipped.get(shard.shard_id)) is not None:
        content["skipped"] = left_out
    work.draft.summarise(**counts, **content, withdrawn=sorted(withdrawn))
    if skipped := counts.get("skipped_rows"):
        rows = "1 row was" if skipped == 1 else f"{skipped:,} rows were"
        work.draft.summarise(notes=[f"{rows} left out as unusable; the table {SKIPPED} says which and why."])
    elif not sum(counts[name] for name in ("documents", "duplicate_documents", "withdrawn_documents")):
        work.draft.summarise(notes=["The file is empty: it holds no document."])


def _document_ids(artifact: Artifact) -> Iterable[str]:
    return list(artifact.table("documents").select("document_id").collect()["document_id"])


def _source_change(workspace: Workspace, partition: Partition, last: Manifest) -> str:
    shard = workspace.shard(str(partition.shard))
    if last.summary.get("content_hash") != shard.content_hash:
        return "its source file changed"
    if last.summary.get("skipped") != workspace.skipped.get(shard.shard_id):
        return "which of its rows are left out as unusable changed"
    return "which of its documents are withdrawn changed"


def _cost(sizes: Any, partition: Partition) -> Cost:
    return Cost(bytes=None, amount=sizes.source_bytes(str(partition.shard)))


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    # No text and no title: Dagster keeps what is reported to it forever, and a document may be withdrawn.
    columns, figures = ("document_id", "source", "licence", "characters"), artifact.manifest.summary
    left_out = figures["duplicate_documents"] + figures["withdrawn_documents"]
    skipped = f" {figures['skipped_rows']:,} rows cannot be used." if figures.get("skipped_rows") else ""
    return {
        "in_short": f"{figures['documents']:,} documents of {figures['characters']:,} characters. Left out: "
        f"{left_out:,} that are duplicates or withdrawn.{skipped}",
        "first_documents": Table(artifact.table("documents").select(columns).head(ROWS_SHOWN).collect()),
    }


ASSET = AssetDefinition(
    name="documents",
    group="corpus",
    description=(
        "The shard's documents with their metadata. Identical ones are kept once and counted, withdrawn ones are left "
        "out; a document's id is the hash of its text."
    ),
    kinds=frozenset({"polars", "parquet"}),
    partitioned_by="shard",
    reads=("source_files",),
    code_version="2",
    settings=_settings,
    source_content=_source_content,
    compute=_compute,
    holds_text=True,
    document_ids=_document_ids,
    document_count=lambda manifest: int(manifest.summary.get("documents", 1)),
    is_published=True,
    is_shared_by_members=True,
    cost=CostModel(partition=_cost),
    shown=_shown,
    hidden=frozenset({"withdrawn", "skipped"}),
    source_change=_source_change,
)
