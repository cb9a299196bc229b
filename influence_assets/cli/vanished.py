"""What commands print about shards that are gone from the corpus."""

from collections.abc import Collection, Mapping, Sequence

import polars as pl
from rich.console import Console
from rich.markup import escape

from influence_assets.cli.figures import counted
from influence_assets.engine.tombstones import VANISHED
from influence_assets.engine.workspace import Workspace
from influence_assets.escaping import visible

SHARDS_SHOWN = 20
"""How many vanished shards are named."""


def shard_names(shards: Collection[str]) -> str:
    """Return the names of the first shards, and how many more there are, fit for a terminal."""
    names = ", ".join(sorted(shards)[:SHARDS_SHOWN])
    more = len(shards) - SHARDS_SHOWN
    return visible(names) + (f" and {more:,} more" if more > 0 else "")


def print_vanished(vanished: Mapping[str, Sequence[str]], console: Console) -> None:
    """Print which shards with published documents are gone from the corpus, and what happens to their results."""
    documents = sum(len(ids) for ids in vanished.values())
    console.print(
        f"[yellow]Gone from the corpus[/]: {counted(len(vanished), 'shard')} with {counted(documents, 'document')}: "
        f"{escape(shard_names(vanished))}. Their rows leave the tables; what was computed "
        "of them stays until `influence gc`. If a disk is missing, mount it and run again: nothing is computed twice.",
        soft_wrap=True,
    )


def print_left_behind(workspace: Workspace, console: Console) -> None:
    """Print which shards have left the tables because their files are gone, as long as the store has traces of them."""
    published = workspace.vanished
    tombstones = workspace.tombstones.filter(pl.col("reason") == VANISHED)
    left = tombstones.filter(~pl.col("shard_id").is_in(list(published)))
    if left.is_empty():
        return
    shards = set(left["shard_id"])
    console.print(
        f"Out of the tables, because their files are gone from the corpus: {counted(len(shards), 'shard')} with "
        f"{counted(left.height, 'document')}: {escape(shard_names(shards))}. If their files return, so do their rows.",
        soft_wrap=True,
        highlight=False,
    )
