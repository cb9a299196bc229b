"""The method `leave_one_out` and its options, which the models and the scores made of them share."""

from typing import Any

from pydantic import Field, field_validator

from influence_assets.assets.retraining import recipe_of
from influence_assets.errors import InputError
from influence_assets.methods.method import MethodOptions, ScoredMethod
from influence_assets.methods.registry import options_of
from influence_assets.study import Study

BY_KEY, GROUPS_KEY = "method_options.leave_one_out.by", "method_options.leave_one_out.groups"


class LeaveOneOut(MethodOptions):
    """The options of `leave_one_out`.

    Attributes:
        by: what the groups are: `sequence`, `document`, `shard`, or the name of a column of the corpus.
        groups: the groups to leave out, or how many of those whose summed EK-FAC scores are largest. There is no
            default: each group takes `seeds` trainings.
        seeds: models without each group, and of everything.
        same_order: whether sequences that lose all of their loss stay, so that the models of one seed see the same
            batches in the same order; their differences are then taken seed by seed, as the method `tsloo`.
    """

    by: str = Field("source", min_length=1)
    groups: tuple[str, ...] | int = Field((), validate_default=True)
    seeds: int = Field(2, ge=1)
    same_order: bool = False

    @field_validator("groups", mode="before")
    @classmethod
    def _groups_are_named(cls, groups: Any) -> Any:
        is_number = isinstance(groups, int) and not isinstance(groups, bool) and groups > 0
        is_list = isinstance(groups, list | tuple) and all(isinstance(name, str) and name for name in groups)
        if not is_number and not (is_list and groups):
            raise ValueError(
                "it says what is left out, one group after the other, and each takes trainings: list values of `by`, "
                "such as [wiki, news], or give a number n for the n groups whose summed influence is largest"
            )
        return groups


LEAVE_ONE_OUT = ScoredMethod(
    name="leave_one_out", unit="nats", options=LeaveOneOut, check=lambda study: recipe_of(study, 0)
)


def given_options(study: Study) -> LeaveOneOut | None:
    """Return the options if they are valid, else None: what versions depend on must not fail."""
    try:
        options: LeaveOneOut = options_of(study, LEAVE_ONE_OUT)
    except InputError:
        return None
    return options
