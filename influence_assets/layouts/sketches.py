"""The layout of sketches: signs in one mapped array, scales in another."""

from collections.abc import Iterator

from influence_assets.capture.sign_codes import SignCodes
from influence_assets.storage.artifacts import Artifact


def read_codes(sketches: Artifact) -> Iterator[SignCodes]:
    """Yield the codes of a shard's sequences in order, a block of the mapped file at a time."""
    scales = sketches.array("scales")
    for block in sketches.mapped("signs").blocks():
        yield SignCodes(block.rows, scales[block.start : block.stop])
