"""Streams of source files, local or remote, decompressed and read within limits.

A small compressed file can expand to terabytes. So no memory here grows with the decompressed size: a reader sets a
limit in bytes, and anything longer is an error.
"""

import gzip
import hashlib
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec  # type: ignore[import-untyped]
import zstandard

from influence_assets.errors import InputError

PACKINGS = (".gz", ".zst")

_BUFFER_BYTES = 2**20
# A zstd block of 4 bytes can expand to 128 KiB, and a decompressor returns everything that it was fed at once:
# this many bytes expand to at most 16 MiB.
_ZSTD_FEED_BYTES = 512


@contextmanager
def open_raw(url: str) -> Iterator[io.BufferedReader]:
    """Open a local path or fsspec URL to read its bytes as they are stored.

    Raises:
        InputError: what is there is not a regular file or cannot be opened, or a read inside the block fails.
    """
    try:
        with io.BufferedReader(_opened(url), _BUFFER_BYTES) as stream:
            yield stream
    except (OSError, ImportError) as error:
        raise InputError(url, f"cannot be read ({error})", "Check that it exists and may be read.") from error


@contextmanager
def open_decompressed(url: str) -> Iterator[io.BufferedReader]:
    """Open a file to read its bytes, decompressed if its name ends in one of `PACKINGS`.

    Raises:
        InputError: the file cannot be opened, or a read inside the block finds it cut short or damaged.
    """
    with open_raw(url) as raw, decompressed(raw, url) as stream:
        yield stream


@contextmanager
def decompressed(raw: io.BufferedReader, url: str) -> Iterator[io.BufferedReader]:
    """Open the rest of an open file, decompressed if its name ends in one of `PACKINGS`.

    Raises:
        InputError: a read inside the block finds the file cut short or damaged.
    """
    try:
        yield _decompressed(raw, url)
    except EOFError as error:
        raise InputError(url, "the compressed file is cut short", "Copy or download it again.") from error
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise InputError(url, f"the compressed file is damaged ({error})", "Copy or download it again.") from error


def packed(suffix: str) -> tuple[str, ...]:
    """Return a suffix and the suffixes of compressed files of that kind."""
    return tuple(suffix + packing for packing in ("", *PACKINGS))


def skip(stream: io.BufferedReader, size: int, url: str) -> None:
    """Skip the first `size` bytes of a stream that `decompressed` opened, by seeking or, if compressed, by reading."""
    if not url.endswith(PACKINGS):
        stream.seek(size)
        return
    while size and (read_bytes := len(stream.read(min(size, _BUFFER_BYTES)))):
        size -= read_bytes


def sha256_of(stream: io.BufferedReader) -> str:
    """Return the sha256 of a whole open file, as 64 hex digits."""
    digest = hashlib.sha256()
    stream.seek(0)
    while chunk := stream.read(_BUFFER_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def bounded_lines(
    stream: io.BufferedReader, limit: int, url: str, remedy: str, first: int = 1
) -> Iterator[tuple[int, bytes]]:
    r"""Yield each line of a stream with its number; its `\n` is included.

    Args:
        stream: read from its current position.
        limit: the longest line that is accepted, in bytes.
        url: the file, for the error.
        remedy: what to do about a longer line, for the error.
        first: the number of the stream's first line.

    Raises:
        InputError: a line has more than `limit` bytes; the rest of it is not read.
    """
    number = first - 1
    while line := stream.readline(limit + 1):
        number += 1
        if len(line) > limit:
            problem = f"the line is longer than {limit:,} bytes"
            raise InputError(f"{url}, row {number}", problem, remedy)
        yield number, line


_CHECKSUMS = (
    *("etag", "md5hash", "content_md5", "md5", "crc32c", "sha", "sha256", "checksum"),
    *("generation", "version_id"),
)
"""What file systems call a value that changes with a file's content. Times and sizes are none."""


def checksum_at(url: str) -> list[str] | None:
    """Return what the file system of a URL says of a file's content without reading it, or None if it says nothing."""
    try:
        filesystem, place = fsspec.url_to_fs(url)
        filesystem.invalidate_cache()
        known = {str(name).lower(): value for name, value in filesystem.info(place).items()}
    except Exception:  # noqa: BLE001  # file systems behind fsspec raise whatever their clients raise; reading says why
        return None
    found = [f"{name}={known[name]}" for name in _CHECKSUMS if isinstance(known.get(name), str | int) and known[name]]
    return found or None


def _opened(url: str) -> Any:
    # A local name is never taken for a URL: fsspec reads `a::b` as a chain of filesystems.
    return _opened_here(url) if "://" not in url else fsspec.open(url, "rb").open()


def _opened_here(path: str) -> Any:
    # Without O_NONBLOCK, opening a pipe waits for somebody who writes into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(path, "is not a regular file", "Put a file there, or delete it.")
    return os.fdopen(descriptor, "rb")


def _decompressed(raw: io.BufferedReader, url: str) -> io.BufferedReader:
    if url.endswith(".gz"):
        unzipped: Any = gzip.GzipFile(fileobj=raw)
        return io.BufferedReader(unzipped, _BUFFER_BYTES)
    if url.endswith(".zst"):
        unpacked: Any = _ZstdStream(raw)
        return io.BufferedReader(unpacked, _BUFFER_BYTES)
    return raw


class _ZstdStream(io.RawIOBase):
    """A stream of decompressed zstd frames that, unlike the library's own reader, notices a truncated one."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._fed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with the next piece and return its size, 0 at the end of the last frame."""
        while not self._ready:
            self._fed = self._fed or self._raw.read(_ZSTD_FEED_BYTES)
            if not self._fed:
                if self._frame is not None:
                    raise EOFError("a zstd frame is not finished")
                return 0
            self._decompress()
        into = memoryview(buffer)
        size = min(len(into), len(self._ready))
        into[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _decompress(self) -> None:
        frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
        self._ready = memoryview(frame.decompress(self._fed))
        self._fed = frame.unused_data if frame.eof else b""
        self._frame = None if frame.eof else frame
