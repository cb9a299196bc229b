"""What identifies an artifact of the store, and what its manifest says of it.

On the disk a manifest is JSON whose second line is the SHA-256 of the rest, so that a digit flipped in a count or a
figure is noticed too. A record of the same content lies beside the artifact's folder: what an artifact was computed
from is known from nowhere else once its inputs are gone, and must outlive a damaged block. Format 3 had both copies in
one file, one after the other.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue

FORMAT_VERSION: Final = 4
"""Version of the folders' layout and of the manifest that is written."""

READABLE_VERSIONS: Final = (3, 4)
"""Versions of stores that are read; others are refused."""

_LIBRARIES = ("torch", "transformers", "numpy", "influence-assets")


@dataclass(frozen=True)
class ArtifactKey:
    """One materialization of one partition of an asset.

    Args:
        asset: the asset's name, without the study's prefix.
        partition: the partition's key, or None where the asset has no partitions.
        data_version: hash of everything that the content depends on; the same version means the same content.
    """

    asset: str
    partition: str | None
    data_version: str

    def __post_init__(self) -> None:
        if not self.asset or not self.data_version or self.partition == "":
            raise ValueError(f"an artifact's key has no empty part: {self!r}")

    @property
    def materialization_id(self) -> int:
        """A positive 63-bit number, which every row that SQL sees carries."""
        parts = (self.asset, self.partition or "", self.data_version)
        digest = hashlib.sha256("\0".join(parts).encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def __str__(self) -> str:
        """As a person reads it: `asset[partition] @ version`."""
        partition = "" if self.partition is None else f"[{self.partition}]"
        return f"{self.asset}{partition} @ {self.data_version}"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Frozen):
    """What a file of the artifact was when it was written.

    Attributes:
        bytes: its size.
        sha256: hash of its content, in hex.
    """

    bytes: int
    sha256: str


class ArrayRecord(_Frozen):
    """An array of the artifact.

    Attributes:
        folder: where it lies inside the artifact.
        shape: its shape; the first axis holds the rows.
        dtype: numpy's name of the stored type.
        logical_dtype: what the stored bits mean where numpy lacks the type, such as `bfloat16` in uint16.
        mappable: whether its chunks are raw rows that can be memory-mapped.
        chunk_crc32c: of a mappable array of format 3, the checksum of each chunk's file; since then they are in the
            chunks.
    """

    folder: str
    shape: tuple[int, ...]
    dtype: str
    logical_dtype: str | None = None
    mappable: bool = False
    chunk_crc32c: tuple[int, ...] = ()


class Manifest(_Frozen):
    """The last file written into an artifact; without it, or against it, nothing there is trusted.

    Attributes:
        format_version: see `FORMAT_VERSION`.
        study: the study that wrote it.
        asset: see `ArtifactKey`.
        partition: see `ArtifactKey`.
        data_version: see `ArtifactKey`.
        code_version: version of the code that computed it.
        inputs: the artifacts that it was computed from.
        settings: the settings of the study that matter to it.
        run_id: the run that wrote it, where there was one.
        host: the machine's name.
        device: the accelerator, or None where none was used.
        started_at: when the work began, UTC.
        seconds: how long it took.
        cpu_seconds: processor time that the writing process spent meanwhile, in all its threads.
        peak_memory_bytes: largest resident memory of the writing process until then.
        bytes: of all files together, the manifest left out.
        rows: rows of each table.
        arrays: the arrays by name.
        files: every file by its path inside the artifact, posix style.
        summary: figures that people read.
        libraries: versions of what computed it; none in format 3.
    """

    format_version: Literal[3, 4] = FORMAT_VERSION
    study: str
    asset: str
    partition: str | None
    data_version: str
    code_version: str
    inputs: tuple[ArtifactKey, ...]
    settings: dict[str, JsonValue]
    run_id: str | None
    host: str
    device: str | None
    started_at: AwareDatetime
    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    bytes: int
    rows: dict[str, int]
    arrays: dict[str, ArrayRecord]
    files: dict[str, FileRecord]
    summary: dict[str, Any]
    libraries: dict[str, str] = {}

    @property
    def key(self) -> ArtifactKey:
        """The artifact that this is the manifest of."""
        return ArtifactKey(self.asset, self.partition, self.data_version)


_CHECKSUM = b'{\n "checksum": "'
_DIGITS = 64


def sealed(manifest: Manifest) -> bytes:
    """Return a manifest as it stands in its file, with its checksum."""
    content = manifest.model_dump_json(indent=1).encode()
    checksum = hashlib.sha256(content).hexdigest().encode()
    return _CHECKSUM + checksum + b'",' + content.removeprefix(b"{") + b"\n"


def unsealed(content: bytes) -> Manifest:
    """Return the manifest of a file's content.

    Raises:
        ValueError: it is not a manifest, or not as it was written.
    """
    half = len(content) // 2
    if content[:half] == content[half:]:
        return _of_copy(content[:half])
    return _of_copy(content)


def salvaged(content: bytes) -> Manifest:
    """Return the manifest of a file's content, of format 3 also if only one of the two copies in it is whole.

    Raises:
        ValueError: nothing in it is as it was written.
    """
    half, second = len(content) // 2, content.rfind(_CHECKSUM)
    # Of a file that was cut off the first copy ends where the second begins.
    for copy in (content, content[:half], content[half:], content[: second if second > 0 else None]):
        with suppress(ValueError):
            return _of_copy(copy)
    raise ValueError("no copy is as it was written")


@cache
def library_versions() -> Mapping[str, str]:
    """Return the versions, when this process began, of what decides an artifact's content, without importing it."""
    versions = {}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def is_of_study(content: bytes, study: str) -> bool:
    """Whether a file that cannot be read as a manifest is a damaged one of this study."""
    head = (
        re.escape(_CHECKSUM)
        + b'[^"]{%d}' % _DIGITS
        + rb'",\n "format_version": \d+,\n "study": '
        + re.escape(json.dumps(study).encode())
    )
    return re.search(head, content, re.DOTALL) is not None


def _of_copy(content: bytes) -> Manifest:
    stop = len(_CHECKSUM) + _DIGITS
    if not content.endswith(b"}\n"):
        raise ValueError("it is cut off")
    without = b"{" + content[stop:].removeprefix(b'",').removesuffix(b"\n")
    if content[:stop] != _CHECKSUM + hashlib.sha256(without).hexdigest().encode():
        raise ValueError("the checksum is that of something else")
    return Manifest.model_validate_json(without)
