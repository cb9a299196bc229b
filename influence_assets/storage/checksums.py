"""Checksums of raw chunks: CRC32C, as zarr keeps of its own chunks."""

from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

_PIECE_BYTES = 2**20


def crc32c_of(values: npt.NDArray[Any]) -> int:
    """The checksum of what raw chunks of these values are on the disk, which is little-endian."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return int(google_crc32c.value(little.reshape(-1).view(np.uint8)))


def crc32c_of_file(path: Path) -> tuple[int, int]:
    """The checksum and the size of a file.

    It is read rather than mapped: a bad sector is then an error, where under a map it would kill the process.

    Raises:
        OSError: it cannot be read.
    """
    crc32c = size = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE_BYTES):
            size += len(piece)
            crc32c = int(google_crc32c.extend(crc32c, piece))
    return crc32c, size
