"""What happens by itself: new files become partitions, and what is then missing is computed."""

from typing import Any

import dagster as dg

from influence_assets.assets.partitions import Partitions
from influence_assets.errors import InputError
from influence_assets.pipeline.steps import Step
from influence_assets.pipeline.workspace import Workspace
from influence_assets.study import Study

ROLL_UPS = ("influence_details", "influence_catalogue")
"""Assets over all shards that follow every change of them; all others stand until they are missing."""


def condition(study: Study, step: Step) -> dg.AutomationCondition[Any]:
    """When a step's partition is computed by itself.

    Missing, with all that it reads present, and nothing of it in progress or failed. Not `eager()`, which would redo
    every sketch at each refit; not `on_missing()`, which overlooks partitions that were there before its first tick.
    One that failed is not tried again until something that it reads was updated: mended, that is.

    Roll-ups follow too whenever something that they read was updated. One roll-up waits for another that is about to
    follow: they run apart, and Dagster keeps only steps of one run in order.
    """
    updated = dg.AutomationCondition.any_deps_updated().since_last_handled()
    wanted: dg.AutomationCondition[Any] = dg.AutomationCondition.missing() & (
        ~dg.AutomationCondition.execution_failed() | updated
    )
    if step.name in ROLL_UPS:
        wanted = wanted | updated
    ready = (
        ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.any_deps_match(dg.AutomationCondition.execution_failed())
    )
    if others := [dg.AssetKey([study.name, name]) for name in step.upstream if name in ROLL_UPS]:
        about_to_follow = dg.AutomationCondition.any_deps_match(updated).allow(dg.AssetSelection.assets(*others))
        ready = ready & ~about_to_follow
    idle = ~dg.AutomationCondition.in_progress()
    return (wanted & ready & idle).with_label("missing, with everything that it reads present")


def build_sensors(study: Study) -> list[dg.SensorDefinition]:
    """The sensor that registers files, and the one that acts on the assets' conditions."""
    interval = study.automation.interval_seconds
    partitions = Partitions.of(study)

    @dg.sensor(
        name=f"{study.name}_new_files",
        description="Makes a partition of every new source file and query file.",
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def new_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            unregistered = partitions.unregistered(Workspace(study), context.instance)
        except InputError as error:
            return dg.SkipReason(str(error))
        found = {definition: keys for definition, keys in unregistered.items() if keys}
        if not found:
            return dg.SkipReason(f"No new file in {study.corpus.path} or {study.queries.path}.")
        requests = [definition.build_add_request(keys) for definition, keys in found.items()]
        return dg.SensorResult(dynamic_partitions_requests=requests)

    compute = dg.AutomationConditionSensorDefinition(
        f"{study.name}_compute_missing",
        target=dg.AssetSelection.key_prefixes([study.name]),
        description="Computes what is missing as soon as everything that it reads is present.",
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING if study.automation.enabled else dg.DefaultSensorStatus.STOPPED,
    )
    return [new_files, compute]
