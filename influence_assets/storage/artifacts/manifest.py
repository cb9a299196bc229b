"""Keys and manifests, which identify and describe the artifacts of a store.

On the disk a manifest is JSON whose second line is the SHA-256 of the rest, so that even a flipped digit in a count is
noticed. A record of the same content is kept beside the artifact's folder: once an artifact's inputs are gone, nothing
else says what it was computed from, and that must survive a damaged block. Format 3 kept both copies in one file, one
after the other.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, combinations
from typing import Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue

FORMAT_VERSION: Final = 4
"""Version of the folder layout and of the manifests that are written."""

READABLE_VERSIONS: Final = (3, 4)
"""Versions of stores that can be read; others are refused."""

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
        """A positive 63-bit number that identifies the artifact in every row of the catalogue."""
        parts = (self.asset, self.partition or "", self.data_version)
        digest = hashlib.sha256("\0".join(parts).encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def __str__(self) -> str:
        """Return `asset[partition] @ version`, for people."""
        partition = "" if self.partition is None else f"[{self.partition}]"
        return f"{self.asset}{partition} @ {self.data_version}"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Frozen):
    """Size and hash of one of the artifact's files when it was written.

    Attributes:
        bytes: the file's size.
        sha256: hash of the file's content, in hex.
    """

    bytes: int
    sha256: str


class ArrayRecord(_Frozen):
    """Description of one of the artifact's arrays.

    Attributes:
        folder: the name of its folder inside the artifact's `arrays/`.
        shape: the first axis counts the rows.
        dtype: numpy's name of the stored type.
        logical_dtype: the type that the stored bits encode where numpy lacks it, such as `bfloat16` in uint16.
        mappable: whether its chunks are uncompressed rows that can be memory-mapped.
        chunk_crc32c: the checksum of each chunk's file, for mappable arrays of format 3; later formats keep it in the
            chunk.
    """

    folder: str
    shape: tuple[int, ...]
    dtype: str
    logical_dtype: str | None = None
    mappable: bool = False
    chunk_crc32c: tuple[int, ...] = ()


class Manifest(_Frozen):
    """Description of an artifact, written last. A folder without one, and files that disagree with it, are not read.

    Attributes:
        format_version: see `FORMAT_VERSION`.
        study: the study that wrote it.
        asset: see `ArtifactKey`.
        partition: see `ArtifactKey`.
        data_version: see `ArtifactKey`.
        code_version: version of the code that computed it.
        inputs: the artifacts that it was computed from.
        settings: the settings of the study that affect the artifact.
        run_id: the run that wrote it, if there was one.
        host: the machine's name.
        device: the accelerator, or None if none was used.
        started_at: when the work began, UTC.
        seconds: how long the work took.
        cpu_seconds: processor time that all threads of the writing process spent on it.
        peak_memory_bytes: largest resident memory of the writing process while it worked on the artifact.
        bytes: total size of all files except the manifest.
        rows: number of rows of each table.
        arrays: descriptions of the arrays by name.
        files: records of the files by path inside the artifact, with forward slashes.
        summary: figures for people.
        libraries: versions of the libraries that computed it; empty in format 3.
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
        """The key of the artifact that this manifest describes."""
        return ArtifactKey(self.asset, self.partition, self.data_version)


MOST_BITS = 10
"""In how many bits two damaged copies of a manifest may differ so that all combinations of them are tried."""

MOST_BYTES = 2**30
"""How many bytes all combinations may have together: what is hashed in about a second."""

_CHECKSUM = b'{\n "checksum": "'
_DIGITS = 64


def sealed(manifest: Manifest) -> bytes:
    """Return a manifest as its file contains it, with its checksum."""
    content = manifest.model_dump_json(indent=1).encode()
    checksum = hashlib.sha256(content).hexdigest().encode()
    return _CHECKSUM + checksum + b'",' + content.removeprefix(b"{") + b"\n"


def unsealed(content: bytes) -> Manifest:
    """Return the manifest that a file's content holds.

    Raises:
        ValueError: the content is not a manifest, or not as it was written.
    """
    half = len(content) // 2
    if content[:half] == content[half:]:
        return _of_copy(content[:half])
    return _of_copy(content)


def salvaged(*contents: bytes) -> Manifest:
    """Return the manifest that files hold, once or twice each; of all copies, one intact copy is enough.

    If all are damaged, but two of them in a few bits only, the checksum tells which of the two has each bit right.

    Raises:
        ValueError: no copy is as it was written, nor what two of them add up to.
    """
    copies = list(dict.fromkeys(copy for content in contents for copy in _copies(content)))
    combined = (copy for first, second in combinations(copies, 2) for copy in _mended(first, second))
    for copy in chain(copies, combined):
        with suppress(ValueError):
            return _of_copy(copy)
    raise ValueError("no copy is as it was written")


def _copies(content: bytes) -> list[bytes]:
    """Return what may be a copy in a file: all of it, a half, or what is before the second in a file that was cut."""
    half, second = len(content) // 2, content.rfind(_CHECKSUM)
    return [content, content[:half], content[half:], content[: second if second > 0 else None]]


def _mended(first: bytes, second: bytes) -> Iterator[bytes]:
    """Yield what two copies may have been before a few bits of each were flipped; nothing if they differ in more."""
    if len(first) != len(second):
        return
    differences = [(place, a ^ b) for place, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    count_of_bits = sum(mask.bit_count() for _, mask in differences)
    if count_of_bits > MOST_BITS or len(first) << count_of_bits > MOST_BYTES:
        return
    bits = [(place, 1 << bit) for place, mask in differences for bit in range(8) if mask >> bit & 1]
    for count in range(1, len(bits)):
        for chosen in combinations(bits, count):
            copy = bytearray(first)
            for place, bit in chosen:
                copy[place] ^= bit
            yield bytes(copy)


@cache
def library_versions() -> Mapping[str, str]:
    """Return the versions, when this process began, of the libraries that an artifact's content depends on."""
    versions = {}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def named_files(content: bytes) -> list[str]:
    """Return the names of an artifact's files that a manifest's content still has, however damaged it is."""
    names = []
    for quoted in re.findall(rb'("(?:[^"\\\n]|\\.)+"): \{\s+"bytes": ', content):
        with suppress(ValueError):
            names.append(str(json.loads(quoted)))
    return names


def is_of_study(content: bytes, study: str) -> bool:
    """Return whether a file that cannot be read as a manifest is a damaged one of this study."""
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
        raise ValueError("the manifest is cut off")
    described = b"{" + content[stop:].removeprefix(b'",').removesuffix(b"\n")
    if content[:stop] != _CHECKSUM + hashlib.sha256(described).hexdigest().encode():
        raise ValueError("the manifest's checksum does not match its content")
    return Manifest.model_validate_json(described)
