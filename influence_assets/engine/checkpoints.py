"""Checkpoints of a computation that goes through its inputs one after the other, so that a killed run loses little.

A checkpoint is an artifact of the same asset and partition, computed from the first of the inputs. Like any artifact it
is known by a hash of these inputs, so whoever computes the partition again goes on from it if they are the same.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from influence_assets.storage.artifacts import Artifact, ArtifactStore
from influence_assets.storage.artifacts.drafts import Draft
from influence_assets.storage.artifacts.manifest import ArtifactKey, Manifest

SECONDS_BETWEEN = 60.0
"""The time that may be lost before a checkpoint is worth writing."""

LARGEST_SHARE = 1 / 20
"""The share of the time that writing checkpoints may take."""


@dataclass
class Checkpoints:
    """The checkpoints of one partition that is being computed.

    Args:
        store: the store.
        key: the partition's key.
        inputs: all inputs of the partition, in order.
        key_of: returns the key of the partition, or of a part of it, as computed from some inputs.
        writing: writes an artifact that is computed from some inputs.
    """

    store: ArtifactStore
    key: ArtifactKey
    inputs: Sequence[ArtifactKey]
    key_of: Callable[[Sequence[ArtifactKey], str | None], ArtifactKey]
    writing: Callable[[ArtifactKey, Sequence[ArtifactKey]], AbstractContextManager[Draft]]
    _used: dict[str | None, ArtifactKey] = field(default_factory=dict)
    _last: float = field(default_factory=time.monotonic)
    _seconds_to_write: float = 0.0

    def latest(self, part: str | None = None) -> Artifact | None:
        """Return the stored artifact that is computed from the most of the first inputs; None if there is none.

        Args:
            part: the part of the partition, of one that is computed part after part.
        """
        longest: Manifest | None = None
        most = len(self.inputs) - (part is None)
        for manifest in self.store.manifests(self.key.asset, self.key.partition):
            covered = len(manifest.inputs)
            is_longer = longest is None or covered > len(longest.inputs)
            if is_longer and 0 < covered <= most and manifest.inputs == tuple(self.inputs[:covered]):
                longest = manifest if manifest.key == self.key_of(manifest.inputs, part) else longest
        if longest is None:
            return None
        self._used[part] = longest.key
        return self.store.open(longest.key)

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last checkpoint to write another."""
        return time.monotonic() - self._last >= max(SECONDS_BETWEEN, self._seconds_to_write / LARGEST_SHARE)

    def save(self, covered: int, fill: Callable[[Draft], None], part: str | None = None) -> None:
        """Write a checkpoint, and remove the one before.

        Args:
            covered: how many of the inputs it is computed from.
            fill: fills the draft, like that of the partition itself.
            part: as for `latest`.
        """
        started = time.monotonic()
        first = self.inputs[:covered]
        key, before = self.key_of(first, part), self._used.get(part)
        with self.writing(key, first) as draft:
            fill(draft)
        self._used[part] = key
        if before is not None and before != key:
            self.store.remove(before)
        self._last = time.monotonic()
        self._seconds_to_write = self._last - started

    def clear(self) -> None:
        """Remove the checkpoints that were read or written."""
        for key in self._used.values():
            self.store.remove(key)
        self._used = {}
