"""How sketches lie in their artifact: signs in one mapped array, scales beside them."""

from collections.abc import Iterator

from influence_assets.capture.sign_codes import SignCodes
from influence_assets.storage.artifacts import Artifact


def read_codes(sketches: Artifact) -> Iterator[SignCodes]:
    """Yield the codes of a shard's sequences in order, block by block from the mapped file."""
    scales = sketches.array("scales")
    for block in sketches.mapped("signs").blocks():
        yield SignCodes(block.rows, scales[block.start : block.stop])
