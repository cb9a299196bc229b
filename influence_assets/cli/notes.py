"""What commands print of what is not as expected in an artifact."""

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape

from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.notes import notes_of
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.escaping import visible

NOTES_SHOWN = 8


def print_notes(versions: Versions, places: Iterable[tuple[AssetDefinition, Partition]], console: Console) -> None:
    """Print the notes of those of these partitions that are up to date; the same sentence once."""
    notes: dict[str, list[str]] = {}
    for asset, partition in places:
        key = versions.key(asset, partition)
        manifest = versions.workspace.store.manifest(key) if key is not None and versions.holds(key) else None
        for note in () if manifest is None else notes_of(manifest):
            notes.setdefault(note, []).append(partition.key or asset.name)
    for note, names in list(notes.items())[:NOTES_SHOWN]:
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        where = escape(visible(names[0])) + more
        console.print(f"[yellow]{where}[/]: {escape(visible(note))}", soft_wrap=True, highlight=False)
    if len(notes) > NOTES_SHOWN:
        console.print(f"… and {len(notes) - NOTES_SHOWN:,} more notes.")
