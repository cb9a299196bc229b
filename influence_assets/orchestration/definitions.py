"""The definitions that Dagster loads for one study or several."""

import os
from collections.abc import Sequence

import dagster as dg

from influence_assets.errors import InputError
from influence_assets.orchestration.automation import build_sensor
from influence_assets.orchestration.bring_up import build_bring_up_job
from influence_assets.orchestration.factory import RUNS_MODEL_TAG, build_assets
from influence_assets.orchestration.jobs import build_asset_jobs
from influence_assets.orchestration.session import resource_key, session_resource
from influence_assets.orchestration.sources import build_sources
from influence_assets.study import Study

STUDIES = "INFLUENCE_STUDY"
"""The environment variable with the study files' paths, separated as in PATH."""

CONCURRENT_STEPS = 2
"""How many steps run at a time; only one of them may run the model."""


def build_definitions(studies: Sequence[Study]) -> dg.Definitions:
    """Return the definitions of these studies, for one code location.

    Raises:
        InputError: two studies have the same name.
    """
    names = [study.name for study in studies]
    if len(set(names)) < len(names):
        raise InputError("name", f"two studies have the same name among {names}", "Give each study its own.")
    return dg.Definitions.merge(*map(study_definitions, studies), dg.Definitions(executor=_executor()))


def study_definitions(study: Study) -> dg.Definitions:
    """Return the definitions of one study, for a code location with an executor of its own choice."""
    return dg.Definitions(
        assets=[*build_sources(study), *build_assets(study)],
        jobs=[build_bring_up_job(study), *build_asset_jobs(study)],
        sensors=[build_sensor(study)],
        resources={resource_key(study): session_resource(study)},
    )


def studies_from_environment() -> list[Study]:
    """Load the studies that the environment names.

    Raises:
        InputError: it names none, or one of them is invalid.
    """
    named = os.environ.get(STUDIES, "")
    if not named:
        raise InputError(STUDIES, "no study is named", "Start Dagster with `influence ui --study study.yaml`.")
    return [Study.load(path) for path in named.split(os.pathsep)]


def _executor() -> dg.ExecutorDefinition:
    """Return an executor that forks steps from a process with torch imported, and runs the model in one at a time."""
    (key, value), *_ = RUNS_MODEL_TAG.items()
    return dg.multiprocess_executor.configured(
        {
            "max_concurrent": CONCURRENT_STEPS,
            "start_method": {"forkserver": {"preload_modules": ["torch", "transformers"]}},
            "tag_concurrency_limits": [{"key": key, "value": value, "limit": 1}],
        }
    )
