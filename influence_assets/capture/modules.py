"""Layer rules: which modules are linear maps, and how each stores its weight."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from influence_assets.errors import InputError

KEY = "curvature.modules"
MLP_PATTERNS = ("*.mlp.*", "*.fc1", "*.fc2", "*.feed_forward.*", "*.ffn.*")


@dataclass(frozen=True)
class LinearModule:
    """A linear map y = W x (+ b), seen as one [d_out, d_in] matrix with the bias as its last column."""

    name: str
    module: nn.Module

    @property
    def has_bias(self) -> bool:
        """Whether a column of ones belongs to the input."""
        return getattr(self.module, "bias", None) is not None

    @property
    def output_width(self) -> int:
        """d_out."""
        weight = self._weight()
        return weight.shape[1] if isinstance(self.module, Conv1D) else weight.shape[0]

    @property
    def input_width(self) -> int:
        """d_in, the bias's column included."""
        weight = self._weight()
        return (weight.shape[0] if isinstance(self.module, Conv1D) else weight.shape[1]) + int(self.has_bias)

    @property
    def device(self) -> torch.device:
        """Where its weight is, and with it what is measured of it."""
        return self._weight().device

    @property
    def parameters(self) -> int:
        """Numbers in the weight and the bias."""
        return self.input_width * self.output_width

    def input_with_bias(self, x: Float[Tensor, "*token width"]) -> Float[Tensor, "*token d_in"]:
        """a: the module's input, with a 1 appended where there is a bias."""
        return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1) if self.has_bias else x

    def as_matrix(
        self, weight: Float[Tensor, "rows columns"], bias: Float[Tensor, " d_out"] | None
    ) -> Float[Tensor, "d_out d_in"]:
        """A gradient of this module's parameters, in the module's own layout, as one [d_out, d_in] matrix."""
        matrix = weight.T if isinstance(self.module, Conv1D) else weight
        return matrix if bias is None else torch.cat([matrix, bias[:, None]], dim=1)

    def _weight(self) -> Tensor:
        weight = self.module.weight
        assert isinstance(weight, Tensor)  # noqa: S101  # _is_linear has seen to it
        return weight


def select_modules(model: PreTrainedModel, modules: str | Sequence[str]) -> tuple[LinearModule, ...]:
    """The linear maps that `curvature.modules` names, in the model's own order.

    Args:
        model: the loaded model.
        modules: `mlp`, `linear`, or glob patterns over module names.

    Raises:
        InputError: a pattern matches no linear map; a matched module keeps weights that no layer rule covers
            (mixture-of-experts blocks, for one), or with `linear` any module but an embedding does; or a matched
            weight belongs to several modules.
    """
    patterns, head = _patterns(model, modules)
    matched = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if name and module is not head and any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    _refuse_unknown(model, _maps(model) if modules == "linear" else matched)
    selected = tuple(LinearModule(name, module) for name, module in matched.items() if _is_linear(module))
    _refuse_idle_patterns(model, patterns, selected, modules)
    _refuse_shared(model, selected)
    return selected


def total_parameters(model: PreTrainedModel) -> int:
    """Numbers in the model, each shared tensor counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _patterns(model: PreTrainedModel, modules: str | Sequence[str]) -> tuple[tuple[str, ...], nn.Module | None]:
    """The glob patterns, and the output head where it is to be left out because nobody named it."""
    if modules == "mlp":
        return MLP_PATTERNS, None
    if modules == "linear":
        linear = tuple(name for name, module in model.named_modules() if _is_linear(module))
        return linear, model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return tuple(modules), None


def _maps(model: PreTrainedModel) -> Mapping[str, nn.Module]:
    """Whatever may be a linear map, the output head and embeddings left out."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return {
        name: module
        for name, module in model.named_modules()
        if name and module is not head and not isinstance(module, nn.Embedding)
    }


def _refuse_unknown(model: PreTrainedModel, matched: Mapping[str, nn.Module]) -> None:
    """A layer without a rule must not be left out in silence: the scores would miss what it says."""
    unknown = [name for name, module in matched.items() if _has_unknown_weights(module)]
    if not unknown:
        return
    named = [f"{name} ({type(matched[name]).__name__})" for name in unknown]
    experts = any(p.ndim > 2 for name in unknown for p in matched[name].parameters(recurse=False))
    reason = ", a mixture of experts, each of which sees only the tokens that are routed to it" if experts else ""
    blocks = tuple(name.rpartition(".")[0] + "." for name in unknown) if experts else tuple(unknown)
    others = [n for n, m in _maps(model).items() if _is_linear(m) and not n.startswith(blocks)]
    patterns = list(dict.fromkeys(map(_without_numbers, others)))
    raise InputError(
        KEY,
        f"no layer rule covers {_listed(named)}{reason}",
        f"Leave these out by naming what is to be attributed, such as curvature.modules: {patterns}.",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _refuse_idle_patterns(
    model: PreTrainedModel, patterns: tuple[str, ...], selected: tuple[LinearModule, ...], modules: str | Sequence[str]
) -> None:
    named = not isinstance(modules, str)
    idle = [p for p in patterns if named and not any(fnmatchcase(linear.name, p) for linear in selected)]
    if idle or not selected:
        available = list(dict.fromkeys(_without_numbers(name) for name, m in model.named_modules() if _is_linear(m)))
        raise InputError(
            KEY,
            f"{', '.join(repr(p) for p in idle) or repr(modules)} matches no linear layer of {type(model).__name__}",
            f"Its linear layers are {', '.join(available)}.",
        )


def _refuse_shared(model: PreTrainedModel, selected: tuple[LinearModule, ...]) -> None:
    """A weight that two modules share gets gradients from both; attributing one of them would be silently wrong."""
    owners: Mapping[int, set[str]] = defaultdict(set)
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].add(name)
    for linear in selected:
        for parameter in linear.module.parameters(recurse=False):
            if len(owners[id(parameter)]) > 1:
                raise InputError(
                    KEY,
                    f"the weight of {linear.name} is shared by {', '.join(sorted(owners[id(parameter)]))}",
                    "Leave shared weights out with patterns that do not match them.",
                )


def _is_linear(module: nn.Module) -> bool:
    return type(module) in (nn.Linear, Conv1D)


def _has_unknown_weights(module: nn.Module) -> bool:
    return not _is_linear(module) and any(p.ndim >= 2 for p in module.parameters(recurse=False))


def _without_numbers(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))
