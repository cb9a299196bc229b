"""Selection of the attributed layers: the modules that `curvature.modules` names, all covered by a layer rule."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn
from transformers import PreTrainedModel

from influence_assets.errors import InputError
from influence_assets.models.layers.rule import MODULES_KEY, AttributedLayer, rule_of

MLP_PATTERNS = ("*.mlp.*", "*.fc1", "*.fc2", "*.feed_forward.*", "*.ffn.*")


def select_modules(model: PreTrainedModel, modules: str | Sequence[str]) -> tuple[AttributedLayer, ...]:
    """Return the layers that `curvature.modules` names, in the model's own order.

    Args:
        model: the loaded model.
        modules: `mlp`, `linear`, or glob patterns over module names.

    Raises:
        InputError: a pattern matches no covered layer; a matched module has weights that no layer rule covers, such
            as a mixture of experts, or with `linear` any module but an embedding has; or a matched weight belongs to
            several modules.
    """
    patterns, head = _patterns(model, modules)
    matched = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if name and module is not head and any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    _refuse_unknown(model, _maps(model) if modules == "linear" else matched)
    covered = {name: rule for name, module in matched.items() if (rule := rule_of(module)) is not None}
    _refuse_idle_patterns(model, patterns, covered, modules)
    selected = tuple(layer for name, rule in covered.items() for layer in rule.layers(name, matched[name]))
    _refuse_shared(model, selected)
    return selected


def _patterns(model: PreTrainedModel, modules: str | Sequence[str]) -> tuple[tuple[str, ...], nn.Module | None]:
    """Return the glob patterns, and the output head if it must be left out because no pattern names it."""
    if modules == "mlp":
        return MLP_PATTERNS, None
    if modules == "linear":
        linear = tuple(name for name, module in model.named_modules() if rule_of(module))
        return linear, model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return tuple(modules), None


def _maps(model: PreTrainedModel) -> Mapping[str, nn.Module]:
    """Return the modules that may be linear maps, without the output head and embeddings."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return {
        name: module
        for name, module in model.named_modules()
        if name and module is not head and not isinstance(module, nn.Embedding)
    }


def _refuse_unknown(model: PreTrainedModel, matched: Mapping[str, nn.Module]) -> None:
    """Raise if a layer has no rule; silently leaving it out would make the scores wrong."""
    unknown = [name for name, module in matched.items() if _has_unknown_weights(module)]
    if not unknown:
        return
    named = [f"{name} ({type(matched[name]).__name__})" for name in unknown]
    experts = any(p.ndim > 2 for name in unknown for p in matched[name].parameters(recurse=False))
    reason = ", a mixture of experts, each of which sees only the tokens that are routed to it" if experts else ""
    blocks = tuple(name.rpartition(".")[0] + "." for name in unknown) if experts else tuple(unknown)
    others = [n for n, m in _maps(model).items() if rule_of(m) and not n.startswith(blocks)]
    patterns = list(dict.fromkeys(map(_without_numbers, others)))
    raise InputError(
        MODULES_KEY,
        f"no layer rule covers {_listed(named)}{reason}",
        f"Leave these out by naming what is to be attributed, such as curvature.modules: {patterns}.",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _refuse_idle_patterns(
    model: PreTrainedModel,
    patterns: tuple[str, ...],
    covered: Collection[str],
    modules: str | Sequence[str],
) -> None:
    named = not isinstance(modules, str)
    idle = [p for p in patterns if named and not any(fnmatchcase(name, p) for name in covered)]
    if idle or not covered:
        available = list(dict.fromkeys(_without_numbers(name) for name, m in model.named_modules() if rule_of(m)))
        raise InputError(
            MODULES_KEY,
            f"{', '.join(repr(p) for p in idle) or repr(modules)} matches no linear layer of {type(model).__name__}",
            f"Its linear layers are {', '.join(available)}.",
        )


def _refuse_shared(model: PreTrainedModel, selected: tuple[AttributedLayer, ...]) -> None:
    """Raise if two modules share a weight; attributing only one of them would silently be wrong."""
    owners: Mapping[int, set[str]] = defaultdict(set)
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].add(name)
    for linear in selected:
        for parameter in linear.module.parameters(recurse=False):
            if len(owners[id(parameter)]) > 1:
                raise InputError(
                    MODULES_KEY,
                    f"the weight of {linear.name} is shared by {', '.join(sorted(owners[id(parameter)]))}",
                    "Leave shared weights out with patterns that do not match them.",
                )


def _has_unknown_weights(module: nn.Module) -> bool:
    return rule_of(module) is None and any(p.ndim >= 2 for p in module.parameters(recurse=False))


def _without_numbers(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))
