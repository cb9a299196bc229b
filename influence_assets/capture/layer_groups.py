"""Groups of layers that are measured in passes of their own, where all at once would take more memory than there is."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch

from influence_assets.capture.available_memory import available_memory
from influence_assets.capture.runner import Runner
from influence_assets.errors import InputError
from influence_assets.maths.curvature_form import CurvatureForm
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


class Sized(Protocol):
    """A layer, or its shape alone."""

    @property
    def name(self) -> str:
        """The module's name."""

    @property
    def output_width(self) -> int:
        """The width of the output."""

    @property
    def input_width(self) -> int:
        """The width of the input, including the bias's column."""


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
        sides = layer.output_width, layer.input_width
        widest = max(form.widths(*sides))
        refuse_beyond(room, form.decomposition_bytes(*sides), f"decomposing a factor of {layer.name} ({widest:,} wide)")


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


def groups_in_memory(
    runner: Runner, bytes_of: Callable[[AttributedLayer], int], tokens: int
) -> list[list[AttributedLayer]]:
    """Return the groups of a loaded model's layers whose measurements fit into memory together.

    Args:
        runner: runs the model.
        bytes_of: returns what a layer's measurement holds.
        tokens: the length of the longest sequence.

    Raises:
        InputError: a layer alone takes more.
    """
    device, batch_bytes = runner.modules[0].device, runner.batch_bytes(tokens)
    room = room_for_layers(device, runner.memory_bytes, batch_bytes)
    if sum(map(bytes_of, runner.modules)) > room:
        release_unused()  # which takes a moment, so only where it matters
        room = room_for_layers(device, runner.memory_bytes, batch_bytes)
    return layer_groups(runner.modules, bytes_of, room)
