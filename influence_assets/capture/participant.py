"""The contract of measurements that share a pass over sequences."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from influence_assets.capture.batches import Batch
from influence_assets.capture.layer_gradient import LayerGradient
from influence_assets.capture.runner import Runner
from influence_assets.maths.curvature import Basis


class Participant(ABC):
    """A measurement that receives every layer of every batch of a pass.

    Attributes:
        fits: whether it uses the labels of the curvature, or else the data's own.
        needs_bases: whether it needs the eigenbases.
        rotates: whether it needs gradients in the eigenbases on both sides.
        in_order: whether it needs the sequences in their order; otherwise those of similar length go together.
    """

    fits: ClassVar[bool] = False
    needs_bases: ClassVar[bool] = False
    rotates: ClassVar[bool] = False
    in_order: ClassVar[bool] = False

    def begin(  # noqa: B027  # most have nothing to prepare
        self, runner: Runner, bases: Mapping[str, Basis], tokens: int, *, is_rotated_anyway: bool
    ) -> None:
        """Prepare for a pass.

        Args:
            runner: runs the model.
            bases: the eigenbasis of every layer, on that layer's device.
            tokens: number of tokens in a sequence.
            is_rotated_anyway: whether another participant needs the data's own gradients rotated on both sides.
        """

    @abstractmethod
    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add one layer's gradients of a batch, or a block of their rows (`LayerGradient.blocks`)."""

    def end_batch(self) -> None:  # noqa: B027  # totals do not need it
        """Note that all layers of a batch have been added."""
