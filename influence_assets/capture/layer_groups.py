"""Groups of layers that are measured in passes of their own, where all at once would take more memory than there is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from influence_assets.capture.available_memory import available_memory
from influence_assets.capture.layer_vectors import Sized, Vectors
from influence_assets.capture.runner import Runner
from influence_assets.errors import InputError
from influence_assets.maths.curvature_form import CurvatureForm
from influence_assets.maths.notation import accumulation_dtype
from influence_assets.models.freed_memory import release_unused
from influence_assets.models.layers.rule import AttributedLayer
from influence_assets.storage.artifacts.peak_memory import resident_bytes

MEMORY_KEY = "compute.memory_bytes"


SHARE_OF_DEVICE = 3 / 4
"""The share of a device's free memory that measurements may take; the rest is for batches and fragments."""


def room_for_layers(device: torch.device, memory_bytes: int | None, batch_bytes: int) -> int:
    """Return the bytes that measurements of layers may take, beside the loaded model and its batches.

    Args:
        device: the device of the passes.
        memory_bytes: the most that this process may take, on a processor; None: what the machine or its control group
            has left.
        batch_bytes: what a batch takes.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(SHARE_OF_DEVICE * (torch.cuda.mem_get_info(device)[0] + unused)) - batch_bytes
    available = available_memory()
    if memory_bytes is not None:
        available = min(available, memory_bytes - resident_bytes())
    return available - batch_bytes


Layer = TypeVar("Layer", bound=Sized)


def refuse_beyond(room: int, needed: int, what: str) -> None:
    """Raise if something takes more memory than there is.

    Args:
        room: the bytes that it may take.
        needed: the bytes that it takes.
        what: what takes them, as the beginning of a sentence in lower case.

    Raises:
        InputError: it takes more.
    """
    if needed > room:
        raise InputError(
            MEMORY_KEY,
            f"{what} takes {needed / 1e9:.1f} GB, and there are {max(0, room) / 1e9:.1f} GB for it",
            "Set curvature.rank (64, or less than now) or curvature.blocks, attribute narrower layers "
            "(curvature.modules), or give it more memory.",
        )


def refuse_too_wide(room: int, layers: Sequence[Sized], form: CurvatureForm) -> None:
    """Raise if a layer has a factor whose eigenvectors cannot be found in this memory.

    Args:
        room: the bytes that a decomposition may take.
        layers: the layers.
        form: how much of the factors is kept.

    Raises:
        InputError: a factor is too wide.
    """
    for layer in layers:
        sides, of_layer = (layer.output_width, layer.input_width), form.of_layer(layer.outputs)
        widest = max(of_layer.widths(*sides))
        refuse_beyond(
            room, of_layer.decomposition_bytes(*sides), f"decomposing a factor of {layer.name} ({widest:,} wide)"
        )


def layer_groups(layers: Sequence[Layer], bytes_of: Callable[[Layer], int], room: int) -> list[list[Layer]]:
    """Return runs of layers whose measurements fit into memory together, as few as possible.

    Args:
        layers: the attributed layers, in the model's order.
        bytes_of: returns what a layer's measurement holds.
        room: the bytes that a group may hold.

    Raises:
        InputError: one layer alone takes more.
    """
    groups: list[list[Layer]] = []
    left = 0
    for layer in layers:
        needed = bytes_of(layer)
        refuse_beyond(room, needed, f"measuring {layer.name} ({layer.output_width:,} × {layer.input_width:,}) alone")
        if not groups or needed > left:
            groups.append([])
            left = room
        groups[-1].append(layer)
        left -= needed
    return groups


@dataclass(frozen=True)
class LayerGroup(Generic[Layer]):
    """Layers that are measured in one pass.

    Args:
        layers: the layers.
        held: those whose vectors stay in memory; those of others are made whenever they are used.
        bytes: what the pass holds.
    """

    layers: list[Layer]
    held: frozenset[str]
    bytes: int


@dataclass(frozen=True)
class Demand(Generic[Layer]):
    """What a pass holds of each layer.

    Args:
        bytes_of: returns the bytes of a layer's measurement beside vectors.
        vectors: the vectors that its gradients are multiplied by.
        itemsize: bytes of a number of these.
        spare: bytes that are in use while the group is loaded, and free when it is measured.
        batch_tokens: tokens of a batch, for which vectors would be made.
    """

    bytes_of: Callable[[Layer], int]
    vectors: Sequence[Vectors] = ()
    itemsize: int = 4
    spare: int = 0
    batch_tokens: int = 0

    def least(self, layer: Layer) -> int:
        """Return the bytes of a layer if its vectors are made when they are used."""
        return self.bytes_of(layer) + self.itemsize * sum(each.stored_numbers(layer) for each in self.vectors)

    def most(self, layer: Layer) -> int:
        """Return the bytes of a layer if its vectors stay in memory, in which case nothing else of them does."""
        return self.bytes_of(layer) + self.itemsize * sum(each.numbers(layer) for each in self.vectors)

    def made_bytes(self, layer: Layer) -> int:
        """Return the bytes of those of a layer's vectors that can be made when they are used."""
        return self.itemsize * sum(each.numbers(layer) for each in self.vectors if each.are_made(layer))

    def passes_to_make(self, layers: Sequence[Layer]) -> float:
        """Return how many passes of a batch through the layers take as long as making all of their vectors once."""
        # A pass multiplies by every weight twice, forward and backward.
        of_pass = 4.0 * self.batch_tokens * sum(layer.output_width * layer.input_width for layer in layers)
        return sum(each.operations(layer) for layer in layers for each in self.vectors) / max(1.0, of_pass)


SHARE_FOR_PIECES = 1 / 8
"""A share of the room that vectors leave, because what batches free lies in pieces between what stays. Whatever else is
held has to fit, and takes its part of the share rather than another pass."""


def groups_within(layers: Sequence[Layer], demand: Demand[Layer], room: int) -> list[LayerGroup[Layer]]:
    """Return groups of layers that fit into memory, as few as possible if that does not take longer than more passes.

    With fewer groups, not all vectors stay in memory: those of as many layers as fit do, from the first one on.

    Args:
        layers: the attributed layers, in the model's order.
        demand: what a pass holds of each.
        room: the bytes that a group may hold.

    Raises:
        InputError: one layer alone takes more.
    """
    room -= demand.spare
    # Of vectors that are made, those of one layer of each shape are there at a time.
    of_shapes = {(layer.output_width, layer.input_width): demand.made_bytes(layer) for layer in layers}
    made = sum(of_shapes.values())
    try:
        holding = [
            LayerGroup(group, frozenset(layer.name for layer in group), sum(map(demand.most, group)))
            for group in layer_groups(layers, demand.most, room)
        ]
    except InputError:
        if not made:
            raise
        holding = []
    if len(holding) == 1 or not made:
        return holding
    try:
        making = [_holding(group, demand, room, made) for group in layer_groups(layers, demand.least, room - made)]
    except InputError:
        if not holding:
            raise
        return holding
    saved = len(holding) - len(making)
    return making if not holding or saved > demand.passes_to_make(layers) else holding


def _holding(layers: list[Layer], demand: Demand[Layer], room: int, made: int) -> LayerGroup[Layer]:
    """Return a group in which as many layers' vectors as fit stay in memory, from the first layer on."""
    taken = sum(map(demand.least, layers)) + made
    room -= int(SHARE_FOR_PIECES * room)
    held = set()
    for layer in layers:
        more = demand.most(layer) - demand.least(layer)
        if more == 0 or taken + more <= room:
            held.add(layer.name)
            taken += more
    return LayerGroup(layers, frozenset(held), taken)


def groups_in_memory(runner: Runner, demand: Demand[AttributedLayer], tokens: int) -> list[LayerGroup[AttributedLayer]]:
    """Return the groups of a loaded model's layers whose measurements fit into memory together.

    Args:
        runner: runs the model.
        demand: what a pass holds of each layer.
        tokens: the length of the longest sequence.

    Raises:
        InputError: a layer alone takes more.
    """
    device, batch_bytes = runner.modules[0].device, runner.batch_bytes(tokens)
    room = room_for_layers(device, runner.memory_bytes, batch_bytes)
    if sum(map(demand.most, runner.modules)) + demand.spare > room:
        release_unused()  # which takes a moment, so only where it matters
        room = room_for_layers(device, runner.memory_bytes, batch_bytes)
    return groups_within(runner.modules, demand, room)


def itemsize_of(runner: Runner) -> int:
    """Return the bytes of a number in the dtype of sums."""
    return accumulation_dtype(runner.dtype).itemsize
