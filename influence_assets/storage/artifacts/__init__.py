"""Artifacts: the immutable results of computing assets, each with a manifest that says what it was computed from."""

from influence_assets.storage.artifacts.listing import EVERY_PARTITION
from influence_assets.storage.artifacts.reading import Artifact
from influence_assets.storage.artifacts.roots import MARKER
from influence_assets.storage.artifacts.store import ArtifactStore, Provenance

__all__ = ["EVERY_PARTITION", "MARKER", "Artifact", "ArtifactStore", "Provenance"]
