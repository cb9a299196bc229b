"""The layout of sketches: signs in one mapped array, scales in another, and the coordinates that the signs are of.

The coordinates are written as gaps between indices into the flattened gradients of all layers, one after the other,
because small numbers are compressed well. They are stored with each shard's sketches: a generation that is computed
again, or another processor, may find others to be the strongest.
"""

import hashlib
from collections.abc import Hashable, Iterator, Mapping

import numpy as np
import torch

from influence_assets.capture.sign_codes import SignCodes
from influence_assets.errors import DamagedError
from influence_assets.maths.sketches import Coordinates, Whitened, split_by_layer, strongest_coordinates
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.drafts import Draft

_GAPS, _HASH = "coordinate_gaps", "coordinates_hash"


def read_codes(sketches: Artifact) -> Iterator[SignCodes]:
    """Yield the codes of a shard's sequences in order, a block of the mapped file at a time."""
    scales = sketches.array("scales")
    for block in sketches.mapped("signs").blocks():
        yield SignCodes(block.rows, scales[block.start : block.stop])


_drawn: dict[Hashable, Coordinates] = {}
"""The coordinates that were drawn last, by the curvature that they were drawn from."""


def drawn_coordinates(
    layers: Mapping[str, Whitened], curvature: Artifact, dtype: torch.dtype, count: int
) -> Coordinates:
    """Return the strongest coordinates; those of one curvature are drawn once for all shards of a process.

    Args:
        layers: the generation's curvature.
        curvature: its artifact.
        dtype: the dtype that energies are computed in.
        count: how many coordinates are kept.
    """
    drawn_from = curvature.folder, curvature.manifest.started_at, dtype, count
    if drawn_from not in _drawn:
        _drawn.clear()
        _drawn[drawn_from] = strongest_coordinates(layers, count)
    return _drawn[drawn_from]


def write_coordinates(draft: Draft, coordinates: Coordinates, sizes: Mapping[str, int]) -> None:
    """Write which coordinates the draft's sketches keep; `sizes` are how many coordinates each layer has."""
    everywhere, start = [], 0
    for name, size in sizes.items():
        everywhere.append(coordinates.kept[name].cpu().numpy().astype(np.int64) + start)
        start += size
    gaps = np.diff(np.concatenate(everywhere), prepend=0)
    gaps = gaps.astype(np.uint32 if gaps.max(initial=0) < 2**32 else np.uint64)
    draft.array(_GAPS, gaps)
    draft.summarise(**{_HASH: hashlib.sha256(gaps.astype("<u8").tobytes()).hexdigest()})


class UnknownCoordinatesError(DamagedError):
    """Nobody knows any more which coordinates sketches keep, so that they are of no use."""


class KeptCoordinates:
    """The coordinates that stored sketches keep, read once for all sketches that keep the same.

    Args:
        layers: the generation's curvature.
        curvature: its artifact.
        count: how many coordinates the study keeps.
    """

    def __init__(self, layers: Mapping[str, Whitened], curvature: Artifact, count: int) -> None:
        self._layers = layers
        self._curvature = curvature
        self._count = count
        self._read: dict[str, Coordinates] = {}
        self._drawn: Coordinates | None = None

    def of(self, sketches: Artifact) -> Coordinates:
        """Return the coordinates of a shard's sketches; the same object for shards that keep the same.

        Raises:
            UnknownCoordinatesError: the sketches do not say, and it cannot be shown which they are.
        """
        stored = sketches.manifest.summary.get(_HASH)
        if stored is None:
            return self._of_old(sketches)
        if stored not in self._read:
            everywhere = torch.from_numpy(np.cumsum(sketches.array(_GAPS).astype(np.int64)))
            places = {name: (layer.coordinates, layer.device) for name, layer in self._layers.items()}
            kept = split_by_layer(everywhere, {name: size for name, (size, _) in places.items()})
            placed = {name: indices.to(places[name][1]) for name, indices in kept.items()}
            self._read[stored] = Coordinates(placed, float(sketches.manifest.summary["expected_energy"]))
        return self._read[stored]

    def _of_old(self, sketches: Artifact) -> Coordinates:
        """Return the coordinates of sketches from before they were stored: they are drawn again if that is certain."""
        if self._drawn is None:
            self._drawn = strongest_coordinates(self._layers, self._count)
        is_newer = self._curvature.manifest.started_at > sketches.manifest.started_at
        if is_newer or not self._drawn.are_unique:
            reason = "the curvature was computed again since" if is_newer else "several were equally strong"
            raise UnknownCoordinatesError(sketches.folder, [], f"does not say which coordinates it keeps, and {reason}")
        return self._drawn
