"""What commands print about shards that are gone from the corpus."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from influence_assets.cli.escaping import visible
from influence_assets.cli.figures import counted

SHARDS_SHOWN = 20
"""How many vanished shards are named."""


def print_vanished(vanished: Mapping[str, Sequence[str]], console: Console) -> None:
    """Print which shards with published documents are gone from the corpus, and what happens to their results."""
    documents = sum(len(ids) for ids in vanished.values())
    names = ", ".join(sorted(vanished)[:SHARDS_SHOWN])
    more = f" and {len(vanished) - SHARDS_SHOWN} more" if len(vanished) > SHARDS_SHOWN else ""
    console.print(
        f"[yellow]Gone from the corpus[/]: {counted(len(vanished), 'shard')} with {counted(documents, 'document')}: "
        f"{escape(visible(names))}{more}. Their rows leave the tables; what was computed "
        "of them stays until `influence gc`. If a disk is missing, mount it and run again: nothing is computed twice.",
        soft_wrap=True,
    )
