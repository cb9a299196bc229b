"""Influence functions with curvature as a training of limited length uses it, of one segment (SOURCE; Bae et al. 2024).

P = (1 − exp(−Λ ηK)) / Λ · V in EK-FAC's eigenbases, in place of V / (Λ + λ): no damping has to be chosen, because what
the training has hardly learnt is weighed by how far its steps went. ηK is the sum of its learning rates. It is written
for SGD, whose steps are as long as the learning rate says, and gives nats under SGD. Adam divides each step by √v̂,
so that under Adam they compare only with one another, and a longer ηK may describe its training better.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from influence_assets.errors import InputError
from influence_assets.methods.method import AttributionMethod, MethodContext, MethodOptions

if TYPE_CHECKING:
    from torch import Tensor

    from influence_assets.study import Study


class Unrolled(MethodOptions):
    """The options of `unrolled`.

    Attributes:
        learning_rates: ηK, the sum of the learning rates, divided by the mean number of tokens of a sequence if batches
            average over tokens; None: that of the study's own training.
    """

    learning_rates: float | None = Field(None, gt=0, allow_inf_nan=False)


def _unknown_length() -> InputError:
    return InputError(
        "method_options.unrolled.learning_rates",
        "is missing, and the study does not train its model",
        "Give the sum of the learning rates of the model's training, divided by the tokens of a sequence.",
    )


def _check(study: "Study") -> None:
    if study.model.train is None and study.method_options.get("unrolled", {}).get("learning_rates") is None:
        raise _unknown_length()


def _prepare(V: "Mapping[str, Tensor]", context: MethodContext) -> "dict[str, Tensor]":
    from influence_assets.maths.unrolled import unrolled

    given: float | None = None if context.options is None else context.options.learning_rates
    ηK = context.learning_rates if given is None else given
    if ηK is None:
        raise _unknown_length()
    return {name: unrolled(layer, ηK).precondition(V[name]) for name, layer in context.curvature.items()}


METHOD = AttributionMethod(
    name="unrolled",
    unit=None,
    prepare=_prepare,
    options=Unrolled,
    check=_check,
    needs_curvature=True,
    layer_by_layer=True,
)
