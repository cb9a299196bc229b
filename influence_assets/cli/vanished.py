"""What commands print about shards that are gone from the corpus."""

from collections.abc import Collection, Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from influence_assets.cli.figures import counted
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
