"""Notes on an artifact: sentences about what is not as a person would expect, such as text that is read otherwise."""

from influence_assets.storage.artifacts.manifest import Manifest

NOTES = "notes"
"""The entry of a manifest's summary that holds them; an artifact without notes has no such entry."""


def notes_of(manifest: Manifest) -> list[str]:
    """Return the notes on an artifact."""
    return [str(note) for note in manifest.summary.get(NOTES, ())]
