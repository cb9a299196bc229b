"""A graph of three assets without a model, whose computations do as the text of a shard says; any process can load it.

What begins and ends is noted in a file beside the store, in the order in which it happens.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from influence_assets.engine.definition import AssetDefinition, Work
from influence_assets.engine.graph import AssetGraph
from influence_assets.engine.partitions import Partition
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError
from influence_assets.study import Study

SLOW_SECONDS = 1.0


def load_graph() -> AssetGraph:
    return AssetGraph([LETTERS, DOUBLED, TOTAL])


def lay_out(folder: Path, texts: Mapping[str, str], executor: str = "in_process") -> Study:
    """A study of these shards, given by their text; its model is never looked at."""
    (folder / "corpus").mkdir(parents=True)
    for name, text in texts.items():
        (folder / "corpus" / name).write_text(text, encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    return Study.model_validate(
        {
            "name": "small",
            "corpus": {"path": str(folder / "corpus")},
            "queries": {"path": str(folder / "queries.jsonl")},
            "model": {"path": str(folder / "model")},
            "storage": {"root": str(folder / "store")},
            "compute": {"executor": executor},
        }
    )


def workspace(study: Study) -> Workspace:
    return Workspace(study, load_graph)


def noted(study: Study) -> list[tuple[str, str]]:
    """What began and ended, in order, as `("begins", "letters[a.txt]")`."""
    file = _notes(study)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [tuple(line.split(" ", 1)) for line in lines]


def _notes(study: Study) -> Path:
    return Path(study.storage.root).parent / "notes.txt"


def _note(work: Work, what: str) -> None:
    key = work.partition.key
    line = f"{what} {work.asset.name}[{key}]\n" if key else f"{what} {work.asset.name}\n"
    descriptor = os.open(_notes(work.study), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())  # one write: lines of several processes do not mix
    os.close(descriptor)


def _count_letters(work: Work) -> None:
    _note(work, "begins")
    shard = work.workspace.shard(str(work.partition.shard))
    text = Path(shard.file.url).read_text(encoding="utf-8")
    if text.startswith("slow"):
        time.sleep(SLOW_SECONDS)
    if text.startswith("broken"):
        raise ValueError(f"{shard.shard_id} says so")
    if text.startswith("unusable"):
        raise InputError(f"{shard.shard_id}, row 1", "says so", "Write something else.")
    if text.startswith("interrupt"):
        raise KeyboardInterrupt
    work.draft.table("letters", pl.DataFrame({"letters": [len(text)]}))
    _note(work, "ends")


def _double(work: Work) -> None:
    _note(work, "begins")
    work.draft.table("doubled", work.open("letters").table("letters").select(doubled=2 * pl.col("letters")).collect())
    _note(work, "ends")


def _sum(work: Work) -> None:
    _note(work, "begins")
    tables = [artifact.table("doubled").collect() for artifact in work.open_all("doubled")]
    work.draft.table("total", pl.concat(tables).sum().rename({"doubled": "total"}))
    _note(work, "ends")


def _content(workspace: Workspace, partition: Partition) -> Mapping[str, Any]:
    return {"content": workspace.shard(str(partition.shard)).content_hash}


LETTERS = AssetDefinition(
    name="letters",
    group="corpus",
    description="The number of characters of a shard.",
    partitioned_by="shard",
    reads=("source_files",),
    source_content=_content,
    code_version="1",
    compute=_count_letters,
)
DOUBLED = AssetDefinition(
    name="doubled",
    group="corpus",
    description="Twice that number.",
    partitioned_by="shard",
    inputs=("letters",),
    code_version="1",
    compute=_double,
)
TOTAL = AssetDefinition(
    name="total",
    group="corpus",
    description="The sum over shards.",
    inputs=("doubled",),
    reads=("corpus",),
    code_version="1",
    compute=_sum,
)
