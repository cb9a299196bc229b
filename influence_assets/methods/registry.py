"""The known attribution methods, those that a study lists, and its settings of them."""

import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from influence_assets.errors import InputError
from influence_assets.extensions import discover, extension_folders
from influence_assets.methods.method import AttributionMethod, ScoredMethod
from influence_assets.study import Study

MAIN = "ekfac"
"""The first method of every study, whose scores are `influence_scores`; those of the others are `method_scores`."""

KEY, OPTIONS = "methods", "method_options"


def attribution_methods() -> Mapping[str, AttributionMethod]:
    """Return every method of the form −⟨P, ∇L⟩ by its name: the package's own, those of extensions, installed ones.

    Raises:
        InputError: a method cannot be loaded, see `extensions.discover`.
    """
    return _discovered(tuple(extension_folders()), tuple(sys.path))


def refuse_unknown_methods(study: Study, scored: Mapping[str, ScoredMethod]) -> None:
    """Raise if a study lists methods that it cannot have, or gives them settings that they do not have.

    Args:
        study: the study.
        scored: the methods that are assets of their own, by name.

    Raises:
        InputError: `methods` names a method that does not exist, or one twice, or does not begin with the main one; or
            `method_options` are not those of a method that is listed; or the study cannot have a method, such as one
            that follows a training that it does not do.
    """
    known: dict[str, AttributionMethod | ScoredMethod] = {**scored, **attribution_methods()}
    listed = study.methods
    others = ", ".join(sorted(known.keys() - {MAIN, *listed})) or "none"
    for index, name in enumerate(listed):
        if name not in known:
            raise InputError(f"{KEY}.{index}", f"there is no method {name!r}", f"Methods not named yet: {others}.")
        if name in listed[:index]:
            raise InputError(f"{KEY}.{index}", f"{name!r} is already used", f"Methods not named yet: {others}.")
    if listed[0] != MAIN:
        problem = f"is {listed[0]!r}, but details, sketches and all views are made with {MAIN}"
        raise InputError(f"{KEY}.0", problem, f"Put {MAIN} first; the views current_scores_of and method_scores have "
                         "the scores of the others.")  # fmt: skip
    for name in study.method_options:
        if name not in listed:
            raise InputError(f"{OPTIONS}.{name}", f"{KEY} does not list {name}", "List it, or leave out its options.")
    for name in listed:
        options_of(study, known[name])  # of a method whose options have no defaults, also where none are given
        known[name].check(study)


def methods_of(study: Study) -> list[AttributionMethod]:
    """Return the listed methods of the form −⟨P, ∇L⟩, the main one first."""
    methods = attribution_methods()
    return [methods[name] for name in study.methods if name in methods]


def other_methods_of(study: Study) -> list[AttributionMethod]:
    """Return the listed methods of the form −⟨P, ∇L⟩ without the main one."""
    return [method for method in methods_of(study) if method.name != MAIN]


def methods_in_full(study: Study) -> list[AttributionMethod]:
    """Return the study's methods whose P is stored, because it cannot be made of V when scores are computed."""
    return [method for method in methods_of(study) if not method.layer_by_layer]


def options_of(study: Study, method: AttributionMethod | ScoredMethod) -> Any:
    """Return the study's settings of a method, an instance of the method's `options`; None if it has none.

    Raises:
        InputError: the study gives a setting that the method does not have, or a value that is not allowed.
    """
    given = study.method_options.get(method.name, {})
    where = f"{OPTIONS}.{method.name}"
    if method.options is None:
        if given:
            raise InputError(where, f"{method.name} has no options", "Leave them out.")
        return None
    unknown = [name for name in given if name not in method.options.model_fields]
    if unknown:
        options = ", ".join(sorted(method.options.model_fields))
        raise InputError(f"{where}.{unknown[0]}", "there is no such option", f"Options of {method.name}: {options}.")
    try:
        return method.options.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (where, *first["loc"])))
        raise InputError(
            place,
            first["msg"].removeprefix("Value error, "),
            f"docs/methods.md describes the options of {method.name}.",
        ) from None


def settings_of(study: Study, method: AttributionMethod | ScoredMethod) -> dict[str, Any]:
    """Return the settings of a method that enter the versions of what is computed with it."""
    options = options_of(study, method)
    return {} if options is None else {"options": options.model_dump(mode="json")}


def given_settings(study: Study, method: AttributionMethod | ScoredMethod) -> dict[str, Any]:
    """Return what `settings_of` does, or nothing if the options are not valid.

    Documents can be withdrawn from a study whose options are not, so versions must be known.
    """
    try:
        return settings_of(study, method)
    except InputError:
        return {}


def main_settings(study: Study) -> dict[str, Any]:
    """Return what enters the versions of the main method's scores: nothing of the others."""
    raised = {method.name: method.code_version for method in methods_of(study)[:1] if method.code_version != "1"}
    return {"baselines": [], **({"methods": raised} if raised else {})}


def versions_of(study: Study, methods: "list[AttributionMethod]") -> dict[str, Any]:
    """Return what enters the versions of what is computed with some methods: their code versions and settings."""
    return {method.name: {"code": method.code_version, **given_settings(study, method)} for method in methods}


@lru_cache(maxsize=1)
def _discovered(folders: tuple[Path, ...], path: tuple[str, ...]) -> dict[str, AttributionMethod]:  # noqa: ARG001
    """Discover the methods, once for each list of folders: every version needs them, and discovery is slow."""
    return discover("influence_assets.methods", "METHOD", AttributionMethod)
