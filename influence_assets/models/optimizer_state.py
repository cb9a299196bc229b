"""What AdamW divides the gradient of every parameter by, from a file with the optimiser's own state.

`Optimizer.state_dict()` knows no parameters, only their numbers: from 0 in the order of the parameter groups. So the
file is assigned to a model by a layout that says which parameters are in which group and in what order. Two are known:
one group with all of them, and the two groups of transformers' Trainer, the first with weight decay. Shapes decide
whether a layout is right. Where the optimiser was made from `named_parameters()`, torch stores the names, which count.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from influence_assets.errors import InputError
from influence_assets.models.quiet import first_line

KEY = "model.optimizer"

_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
"""What Trainer finds in the names of parameters that it does not decay, beside those of `nn.LayerNorm`."""

_SAVE = "Save it with `torch.save(optimizer.state_dict(), file)`, or name the optimizer.pt of a checkpoint of Trainer."
_SAVE_WITH_NAMES = (
    "Name the state of the optimiser that trained this very model. If its groups are others than one of all parameters "
    "or the two of Trainer, make the optimiser from `model.named_parameters()`, so that its state has their names."
)


@dataclass(frozen=True)
class SecondMoment:
    """What the optimiser knows of a parameter.

    Args:
        v: the mean of squared gradients, in the parameter's shape.
        correction: 1 − β₂^step, by which v is divided.
        epsilon: ε.
        rate: η.
    """

    v: Tensor
    correction: float
    epsilon: float
    rate: float

    def divisor(self) -> Tensor:
        """Return (√v̂ + ε) / η, by which a step of AdamW divides m̂, in float32 or float64."""
        v = self.v if self.v.dtype == torch.float64 else self.v.float()
        return ((v / self.correction).sqrt() + self.epsilon) / self.rate


@dataclass(frozen=True)
class Group:
    """A parameter group.

    Args:
        moments: those of its parameters, in their order.
        names: the names of its parameters; empty if the file has none.
    """

    moments: Sequence[SecondMoment]
    names: Sequence[str]


def optimizer_state(path: Path, model: nn.Module) -> dict[str, SecondMoment]:
    """Return the second moment of every parameter of a model, by name; a tied weight has one.

    Args:
        path: the file. It stays mapped into memory, where torch's format allows it, and must not change meanwhile.
        model: the model that the optimiser trained.

    Raises:
        InputError: see `read_groups` and `assigned`.
    """
    return assigned(read_groups(path), model, path)


def read_groups(path: Path) -> list[Group]:
    """Return the parameter groups in a file that `torch.save(optimizer.state_dict(), path)` wrote.

    Nothing but tensors and plain Python values is read: a pickle with code in it is refused.

    η is the learning rate that the file has, which is that of the last step, or what the schedule set for the next one.
    If a schedule has taken that of any group to 0, the rates that it began with count; without any, η is 1.

    Raises:
        InputError: the file cannot be read so, is not an optimiser's state, or lacks Adam's moments of a parameter.
    """
    described = _loaded(path)
    if not isinstance(described, dict) or not {"state", "param_groups"} <= described.keys():
        raise InputError(KEY, f"{path} is not the state of an optimiser (it has no state and param_groups)", _SAVE)
    try:
        groups: list[dict[str, Any]] = described["param_groups"]
        return [
            Group(
                [_moment(path, described["state"], number, group, rate) for number in group["params"]],
                list(group.get("param_names", ())),
            )
            for group, rate in zip(groups, _rates(groups), strict=True)
            if group["params"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{path} is not the state of torch's Adam or AdamW ({type(error).__name__}: {first_line(error)})"
        raise InputError(KEY, problem, _SAVE) from error


def _loaded(path: Path) -> Any:
    try:
        # Of the older format, which is no zip file, nothing can be mapped into memory.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        problem = (
            f"{path} is damaged, or holds more than tensors and plain values, which could run code when it is read"
        )
        raise InputError(KEY, problem, _SAVE) from error
    except Exception as error:  # what torch raises depends on where a file is damaged
        raise InputError(KEY, f"{path} cannot be read ({first_line(error)})", _SAVE) from error


def _moment(
    path: Path, state: Mapping[int, Mapping[str, Any]], number: int, group: Mapping[str, Any], rate: float
) -> SecondMoment:
    name = "max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"  # AMSGrad divides by the largest that there was
    own = state.get(number, {})
    if not isinstance(own.get(name), Tensor) or "step" not in own:
        problem = f"{path} has no second moment ({name}) and step of parameter {number}"
        raise InputError(KEY, problem, "Name the state of an Adam or AdamW that has trained every weight of the model.")
    v, step = own[name], float(own["step"])
    if step < 1 or not v.is_floating_point() or not bool((v >= 0).all()) or not bool(torch.isfinite(v).all()):
        problem = f"the second moment of parameter {number} in {path} is not one (it is negative, NaN or of no step)"
        raise InputError(KEY, problem, "Save a sound state, after the last step of the training.")
    return SecondMoment(v, 1 - float(group["betas"][1]) ** step, float(group["eps"]), rate)


def _rates(groups: Sequence[Mapping[str, Any]]) -> list[float]:
    for name in ("lr", "initial_lr"):
        rates = [float(group.get(name, 0)) for group in groups]
        if all(rate > 0 for rate in rates):
            return rates
    return [1.0] * len(groups)


def assigned(groups: Sequence[Group], model: nn.Module, path: Path) -> dict[str, SecondMoment]:
    """Return the second moment of every parameter of a model, by name, in the one layout that fits.

    A layout fits if its groups are as large as those of the file and every shape agrees. It is not enough if the shapes
    would agree in the order of the other layout too, and that is another assignment.

    Args:
        groups: those of the file, none empty.
        model: the model.
        path: the file, for errors.

    Raises:
        InputError: no layout fits, or shapes do not tell which.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    moments = [moment for group in groups for moment in group.moments]
    layouts = _layouts(groups, model)
    orders = [[name for names in layout for name in names] for layout in layouts]
    agreeing = {tuple(order) for order in orders if _agree(order, moments, shapes)}
    if len(agreeing) > 1:
        problem = f"the shapes in {path} fit the model's parameters in two orders, and nothing says which is right"
        raise InputError(KEY, problem, _SAVE_WITH_NAMES)
    sizes = [len(group.moments) for group in groups]
    for layout, order in zip(layouts, orders, strict=True):
        if tuple(order) in agreeing and [len(names) for names in layout] == sizes:
            return dict(zip(order, moments, strict=True))
    by = "by name" if _has_names(groups) else "in either layout that is known"
    problem = f"{path} does not fit the model {by}: it has {len(moments)} second moments, in groups of {_listed(sizes)}"
    raise InputError(KEY, f"{problem}, and the model {len(shapes)} parameters", _SAVE_WITH_NAMES)


def _agree(order: Sequence[str], moments: Sequence[SecondMoment], shapes: Mapping[str, torch.Size]) -> bool:
    """Return whether every parameter is named once, and has the shape of its second moment."""
    is_complete = len(order) == len(moments) and sorted(order) == sorted(shapes)
    return is_complete and all(shapes[name] == each.v.shape for name, each in zip(order, moments, strict=True))


def _layouts(groups: Sequence[Group], model: nn.Module) -> list[list[list[str]]]:
    """Return the names in each group, none empty, of each layout that a file may have."""
    if _has_names(groups):
        return [[list(group.names) for group in groups]]
    names = [name for name, _ in model.named_parameters()]
    decayed = _decayed(model)
    trainers = [[name for name in names if name in decayed], [name for name in names if name not in decayed]]
    return [[names], [group for group in trainers if group]]


def _has_names(groups: Sequence[Group]) -> bool:
    return all(len(group.names) == len(group.moments) for group in groups)


def _decayed(model: nn.Module) -> set[str]:
    """Return the names of the parameters that Trainer decays: neither biases nor those of normalisation layers."""
    normalising = tuple(f"{name}." for name, layer in model.named_modules() if name and isinstance(layer, nn.LayerNorm))
    names = (name for name, _ in model.named_parameters())
    return {name for name in names if not name.startswith(normalising) and not _NOT_DECAYED.search(name.lower())}


def _listed(sizes: Sequence[int]) -> str:
    return " and ".join(map(str, sizes)) or "none"
