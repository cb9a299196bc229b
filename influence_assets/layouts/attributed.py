"""Which layers a study attributes: those that it names, or those that its model's artifact has chosen for it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from influence_assets.engine.partitions import Partition
from influence_assets.study import Study

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from influence_assets.engine.versions import Versions
    from influence_assets.engine.workspace import Workspace

AUTO, ALONE = "auto", "mlp"
ATTRIBUTED = "attributed_by_default"
"""The entry of the summary of `language_model` with the choice; earlier releases, which have none, chose the MLPs."""


def modules_of(study: Study, language_model: Mapping[str, Any] | None) -> str | Sequence[str]:
    """Return the layers that are attributed, as `curvature.modules` names them.

    Args:
        study: the study.
        language_model: the summary of its model's manifest; None while it is unknown, which counts as the MLPs.
    """
    named = study.curvature.modules
    if named != AUTO:
        return named
    if study.curvature.rank is not None or language_model is None:  # the embedding has no form of low rank
        return ALONE
    return str(language_model.get(ATTRIBUTED, ALONE))


def settled(study: Study, language_model: Mapping[str, Any]) -> Study:
    """Return a study with its model's choice in place of `auto`."""
    modules = modules_of(study, language_model)
    return study.model_copy(update={"curvature": study.curvature.model_copy(update={"modules": modules})})


def known_modules(versions: "Versions", config: "PretrainedConfig") -> str | Sequence[str]:
    """Return the layers that a study attributes, or will once its model is stored.

    Args:
        versions: the study's versions.
        config: the configuration of its model.
    """
    workspace = versions.workspace
    key = versions.key(workspace.graph["language_model"], Partition())
    manifest = None if key is None else workspace.store.manifest(key)
    return modules_of(workspace.study, choice(workspace, config) if manifest is None else manifest.summary)


def choice(workspace: "Workspace", config: "PretrainedConfig") -> dict[str, str]:
    """Return the entry of the summary with what `auto` stands for, by a model's configuration.

    Args:
        workspace: the study, and whether its model has an adapter, beside which only its own matrices were trained.
        config: the model's configuration.
    """
    from influence_assets.capture.default_modules import default_modules

    model = workspace.study.model
    if model.train is None and workspace.model_folders.adapter is not None:
        return {ATTRIBUTED: ALONE}
    tokens = workspace.study.sequences.length
    chosen = default_modules(config, model.dtype, tokens=tokens, trust_remote_code=model.trust_remote_code)
    return {ATTRIBUTED: chosen}
