"""The known attribution methods, and those that a study uses."""

import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from influence_assets.errors import InputError
from influence_assets.extensions import discover, extension_folders
from influence_assets.methods.method import AttributionMethod
from influence_assets.study import Study

MAIN = "ekfac"
"""The method of every study, whose scores are `influence_scores`; those of the others are `baseline_scores`."""

KEY = "scores.baselines"


def attribution_methods() -> Mapping[str, AttributionMethod]:
    """Return every method by its name: the package's own, those of extension folders, and installed ones.

    Raises:
        InputError: a method cannot be loaded, see `extensions.discover`.
    """
    return _discovered(tuple(extension_folders()), tuple(sys.path))


def methods_of(study: Study) -> list[AttributionMethod]:
    """Return the methods that a study scores with, the main one first.

    Raises:
        InputError: `scores.baselines` names a method that does not exist, or one twice.
    """
    methods = attribution_methods()
    baselines = study.scores.baselines
    for index, name in enumerate(baselines):
        others = ", ".join(sorted(methods.keys() - {MAIN, *baselines})) or "none"
        if name not in methods:
            raise InputError(f"{KEY}.{index}", f"there is no method {name!r}", f"Methods not named yet: {others}.")
        if name == MAIN or name in baselines[:index]:
            raise InputError(f"{KEY}.{index}", f"{name!r} is already used", f"Methods not named yet: {others}.")
    return [methods[name] for name in (MAIN, *baselines)]


def methods_in_full(study: Study) -> list[AttributionMethod]:
    """Return the study's methods whose P is stored, because it cannot be made of V when scores are computed."""
    return [method for method in methods_of(study) if not method.layer_by_layer]


def method_settings(study: Study) -> dict[str, Any]:
    """Return the settings of the study's methods that enter the versions of what is computed with them."""
    methods = methods_of(study)
    raised = {method.name: method.code_version for method in methods if method.code_version != "1"}
    named: dict[str, Any] = {"baselines": sorted(method.name for method in methods[1:])}
    return named | ({"methods": raised} if raised else {})


@lru_cache(maxsize=1)
def _discovered(folders: tuple[Path, ...], path: tuple[str, ...]) -> dict[str, AttributionMethod]:  # noqa: ARG001
    """Discover the methods, once for each list of folders: every version needs them, and discovery is slow."""
    return discover("influence_assets.methods", "METHOD", AttributionMethod)
