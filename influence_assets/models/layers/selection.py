"""Selection of the attributed layers: the modules that `curvature.modules` names, all covered by a layer rule."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from influence_assets.errors import InputError
from influence_assets.models.adapters import adapter_matrices
from influence_assets.models.layers.embedding import TOKENS, token_embeddings
from influence_assets.models.layers.experts import Experts
from influence_assets.models.layers.rule import MODULES_KEY, AttributedLayer, rule_of

MLP_PATTERNS = ("*.mlp.*", "*.fc1", "*.fc2", "*.feed_forward.*", "*.ffn.*")
EMBEDDING = "embedding"
BESIDE_EXPERTS = ("*.shared_expert.*", "*.shared_experts.*", "*.shared_mlp.*")
"""MLPs that all tokens go through, beside experts that see a selection."""


def select_modules(model: PreTrainedModel, modules: str | Sequence[str]) -> tuple[AttributedLayer, ...]:
    """Return the layers that `curvature.modules` names, in the model's own order.

    Args:
        model: the loaded model.
        modules: `mlp`, `linear`, either with `+embedding`, `embedding`, or glob patterns over module names.

    Raises:
        InputError: a pattern matches no covered layer; a matched module has weights that no layer rule covers, or with
            `linear` any module but an embedding has; or a matched weight belongs to several modules.
    """
    linear, words = _parts(modules)
    patterns, head = _patterns(model, linear)
    layers = adapter_matrices(model)
    matched = {
        name: module
        for name, module in _candidates(model)
        if module is not head and any(_matches(name, pattern, layers) for pattern in patterns)
    }
    matched |= {name: module for name, module in _words(model, words).items() if words == "all" or name in matched}
    _refuse_unknown(model, _maps(model) if linear == "linear" else matched)
    covered = {name: rule for name, module in matched.items() if (rule := rule_of(module)) is not None}
    _refuse_idle_patterns(model, patterns, covered, modules)
    order = {name: place for place, (name, _) in enumerate(_candidates(model))}
    covered = {name: covered[name] for name in sorted(covered, key=order.__getitem__)}
    selected = tuple(layer for name, rule in covered.items() for layer in rule.layers(name, matched[name]))
    _refuse_shared(model, selected)
    return selected


def _parts(modules: str | Sequence[str]) -> tuple[str | Sequence[str], Literal["all", "input", "none"]]:
    """Return which linear layers are named, and of the words' matrices all, the input embedding, or none.

    Patterns can name the input embedding, which then counts with its head if they share their weight. A head by itself
    is to patterns a linear layer as any other.
    """
    if not isinstance(modules, str):
        return modules, "input"
    linear, plus, _ = modules.partition(f"+{EMBEDDING}")
    return ((), "all") if linear == EMBEDDING else (linear, "all" if plus else "none")


def _words(model: PreTrainedModel, words: Literal["all", "input", "none"]) -> dict[str, nn.Module]:
    """Return the matrices of the words, by the names of the modules that hold them.

    Beside an adapter there are none: only its own matrices were trained.

    Raises:
        InputError: all are to be attributed, and one computes something else than an embedding or a linear layer.
    """
    if words == "none" or adapter_matrices(model):
        return {}
    layers = token_embeddings(model)
    if words == "input":
        return {layer.name: layer.module for layer in layers if TOKENS in layer.rule.sides(layer.module)}
    held = {module for layer in layers for module in layer.rule.owners(layer.module)}
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):  # type: ignore[no-untyped-call]
        if module is not None and module not in held:
            problem = f"no layer rule covers {type(module).__name__}, in which the model looks up or predicts tokens"
            raise InputError(MODULES_KEY, problem, f"Leave out `{EMBEDDING}`.")
    return {layer.name: layer.module for layer in layers}


def _patterns(model: PreTrainedModel, modules: str | Sequence[str]) -> tuple[tuple[str, ...], nn.Module | None]:
    """Return the glob patterns, and the output head if it must be left out because no pattern names it."""
    if modules == "mlp":
        experts = tuple(name for name, module in _candidates(model) if isinstance(rule_of(module), Experts))
        return (*MLP_PATTERNS, *experts, *(BESIDE_EXPERTS if experts else ())), None
    if modules == "linear":
        linear = tuple(name for name, module in _candidates(model) if rule_of(module))
        return linear, model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return tuple(modules), None


def _candidates(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """Return the modules that may be attributed, by name: all, or the matrices of the adapter that the model keeps."""
    of_adapter = adapter_matrices(model)
    modules = model.named_modules(remove_duplicate=False)
    return [(name, module) for name, module in modules if name and (not of_adapter or name in of_adapter)]


def _matches(name: str, pattern: str, layers: Mapping[str, str]) -> bool:
    """Return whether a pattern names a module, or the layer whose adapter it belongs to."""
    return fnmatchcase(name, pattern) or fnmatchcase(layers.get(name, name), pattern)


def _maps(model: PreTrainedModel) -> Mapping[str, nn.Module]:
    """Return the modules that may be linear maps, without the output head and embeddings."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return {
        name: module
        for name, module in _candidates(model)
        if module is not head and not isinstance(module, nn.Embedding)
    }


def _refuse_unknown(model: PreTrainedModel, matched: Mapping[str, nn.Module]) -> None:
    """Raise if a layer has no rule; silently leaving it out would make the scores wrong."""
    unknown = [name for name, module in matched.items() if _has_unknown_weights(module)]
    unknown = [name for name in unknown if not _is_router(model, name)]
    if not unknown:
        return
    refused = {name for name, module in _maps(model).items() if _has_unknown_weights(module)}
    others = [name for name, module in _maps(model).items() if rule_of(module)]
    raise InputError(
        MODULES_KEY,
        f"no layer rule covers {listed([_described(name, matched[name]) for name in unknown])}",
        patterns_for(model, others, refused),
    )


def _described(name: str, module: nn.Module) -> str:
    """Return the name and class of a module, and its weights where their number of axes says why there is no rule."""
    weights = [f"{key} {list(p.shape)}" for key, p in module.named_parameters(recurse=False) if p.ndim > 2]
    kind = type(module).__name__
    return f"{name} ({kind}: {', '.join(weights)})" if weights else f"{name} ({kind})"


def _is_router(model: PreTrainedModel, name: str) -> bool:
    """Return whether a module chooses the experts beside it: its matrix has a row for each of them.

    Routers are left out by `mlp` and `linear`, as norms and embeddings are: they are not linear layers whose output
    goes into the residual stream, but decide which of those see a token.
    """
    block = model.get_submodule(name.rpartition(".")[0])
    counts = {len(child.down_proj) for child in block.children() if isinstance(rule_of(child), Experts)}  # type: ignore[arg-type]
    weights = [p for p in model.get_submodule(name).parameters(recurse=False) if p.ndim >= 2]
    return any(W.ndim == 2 and W.shape[0] >= count for W in weights for count in counts)


def patterns_for(model: PreTrainedModel, names: Sequence[str], refused: Collection[str]) -> str:
    """Return a remedy: what to write so that just these layers are attributed, which is tried here.

    Args:
        model: the model.
        names: layers that can be attributed.
        refused: names of modules that no pattern may match.
    """
    patterns: dict[str, None] = {}
    avoided, layers = _modules_of(model, refused), adapter_matrices(model)
    for name in _modules_of(model, names):
        pattern = _without_numbers(name)
        patterns[name if any(_matches(other, pattern, layers) for other in avoided) else pattern] = None
    if not patterns:
        return "No other layer of this model can be attributed."
    return f"Leave these out by naming what is to be attributed, such as curvature.modules: {list(patterns)}."


def _modules_of(model: PreTrainedModel, layers: Collection[str]) -> list[str]:
    """Return the names of the modules that hold these layers, whose own names may go on after the module's."""
    modules = {name for name, _ in model.named_modules(remove_duplicate=False)}
    found: dict[str, None] = {}
    for layer in layers:
        name = layer
        while name and name not in modules:
            name = name.rpartition(".")[0]
        found[name] = None
    return list(found)


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _refuse_idle_patterns(
    model: PreTrainedModel,
    patterns: tuple[str, ...],
    covered: Collection[str],
    modules: str | Sequence[str],
) -> None:
    named, layers = not isinstance(modules, str), adapter_matrices(model)
    idle = [p for p in patterns if named and not any(_matches(name, p, layers) for name in covered)]
    if idle or not covered:
        available = list(dict.fromkeys(_without_numbers(name) for name, m in _candidates(model) if rule_of(m)))
        raise InputError(
            MODULES_KEY,
            f"{', '.join(repr(p) for p in idle) or repr(modules)} matches no linear layer of {type(model).__name__}",
            f"Its linear layers are {', '.join(available)}.",
        )


def _refuse_shared(model: PreTrainedModel, selected: tuple[AttributedLayer, ...]) -> None:
    """Raise if two modules share a weight; attributing only one of them would silently be wrong."""
    owners: Mapping[int, set[str]] = defaultdict(set)
    names: Mapping[nn.Module, set[str]] = defaultdict(set)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].add(name)
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].add(name)
    for linear in selected:
        own = {min(names[module]) for module in linear.rule.owners(linear.module) if names[module]}
        for parameter in linear.module.parameters(recurse=False):
            if len(owners[id(parameter)] - own) > (0 if own else 1):
                raise InputError(
                    MODULES_KEY,
                    f"the weight of {linear.name} is shared by {', '.join(sorted(owners[id(parameter)]))}",
                    "Leave shared weights out with patterns that do not match them.",
                )


def _has_unknown_weights(module: nn.Module) -> bool:
    return rule_of(module) is None and any(p.ndim >= 2 for p in module.parameters(recurse=False))


def _without_numbers(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))
