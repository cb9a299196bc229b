"""Checkpoints of a computation that goes through its inputs one after the other, so that a killed run loses little.

A checkpoint is an artifact of the same asset and partition, computed from the first of the inputs, and marked as such
in its summary. It is known by a hash of these inputs and of which part of the partition it is, so whoever computes the
partition again goes on from it if they are the same.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from influence_assets.storage.artifacts import Artifact, ArtifactStore
from influence_assets.storage.artifacts.drafts import Draft
from influence_assets.storage.artifacts.manifest import ArtifactKey, Manifest

SECONDS_BETWEEN = 60.0
"""The time that may be lost before a checkpoint is worth writing."""

LARGEST_SHARE = 1 / 20
"""The share of the time that writing checkpoints may take."""

_MARK = "checkpoint"


def is_checkpoint(manifest: Manifest) -> bool:
    """Return whether an artifact is a checkpoint, which nothing but its own asset can use."""
    return _MARK in manifest.summary


def part_of(manifest: Manifest) -> str:
    """Return what a checkpoint holds of its partition, as it was saved."""
    return str(manifest.summary[_MARK])


@dataclass
class Checkpoints:
    """The checkpoints of one partition that is being computed, by one process at a time.

    Args:
        store: the store.
        key: the partition's key.
        inputs: all inputs of the partition, in order.
        key_of: returns the key of a checkpoint, given the inputs that it is computed from and its part.
        writing: writes an artifact that is computed from some inputs.
    """

    store: ArtifactStore
    key: ArtifactKey
    inputs: Sequence[ArtifactKey]
    key_of: Callable[[Sequence[ArtifactKey], str], ArtifactKey]
    writing: Callable[[ArtifactKey, Sequence[ArtifactKey]], AbstractContextManager[Draft]]
    _last: float = field(default_factory=lambda: time.monotonic())
    _seconds_to_write: float = 0.0

    def latest(self, part: str) -> Artifact | None:
        """Return the checkpoint that is computed from the most of the first inputs; None if there is none.

        Args:
            part: what of the partition it holds, and all that a result depends on beside the inputs that it covers.
        """
        usable = [
            manifest
            for manifest in self._stored()
            if manifest.inputs == tuple(self.inputs[: len(manifest.inputs)])
            and manifest.key == self.key_of(manifest.inputs, part)
        ]
        longest = max(usable, key=lambda manifest: len(manifest.inputs), default=None)
        return None if longest is None else self.store.open(longest.key)

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last checkpoint to write another."""
        return time.monotonic() - self._last >= max(SECONDS_BETWEEN, self._seconds_to_write / LARGEST_SHARE)

    def save(self, covered: int, fill: Callable[[Draft], None], part: str, *, replaces: str | None = None) -> None:
        """Write a checkpoint, and remove those of the same part from before.

        Args:
            covered: how many of the inputs it is computed from.
            fill: fills the draft.
            part: as for `latest`.
            replaces: another part whose checkpoints are removed, where a part says how far a computation has come that
                covers all inputs from its beginning.
        """
        started = time.monotonic()
        first = self.inputs[:covered]
        key = self.key_of(first, part)
        with self.writing(key, first) as draft:
            fill(draft)
            draft.summarise(**{_MARK: part})
        for manifest in list(self._stored()):
            if manifest.key != key and manifest.summary[_MARK] in (part, replaces):
                self.store.remove(manifest.key)
        self._last = time.monotonic()
        self._seconds_to_write = self._last - started

    def clear(self) -> None:
        """Remove all checkpoints of the partition, also those of runs that were killed."""
        for manifest in list(self._stored()):
            self.store.remove(manifest.key)

    def _stored(self) -> Iterator[Manifest]:
        manifests = self.store.manifests(self.key.asset, self.key.partition)
        return (manifest for manifest in manifests if is_checkpoint(manifest))
