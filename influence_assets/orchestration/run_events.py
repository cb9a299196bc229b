"""The events that a run reports to Dagster: changed files, materialized partitions, and the results of checks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import dagster as dg

from influence_assets.engine.bring_up import Finished, Result
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.failed_checks import Recheck
from influence_assets.engine.fingerprint import WHOLE
from influence_assets.engine.materialise import Outcome
from influence_assets.engine.partitions import Partition
from influence_assets.engine.plan import AssetState
from influence_assets.engine.versions import Versions
from influence_assets.orchestration import checks
from influence_assets.orchestration.factory import asset_key, materialization
from influence_assets.orchestration.partitions import Partitions
from influence_assets.orchestration.private_api import reported_versions
from influence_assets.orchestration.sources import observations
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.study import Study

Report = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation


class Reporter:
    """A reporter that turns what happens in a run into Dagster's events.

    Every event costs time, so a check that passes for a thousand partitions is reported once, with their number, by
    `rolled_up_checks`.
    """

    def __init__(self, study: Study, instance: dg.DagsterInstance) -> None:
        self._study = study
        self._instance = instance
        self._passed: dict[tuple[dg.AssetKey, str], dg.AssetCheckEvaluation] = {}
        self._partitions: Counter[tuple[dg.AssetKey, str]] = Counter()

    def news(self, versions: Versions, states: Sequence[AssetState]) -> Iterator[Report]:
        """Report files that are new, changed or gone, and partitions in the store that Dagster has not seen."""
        Partitions.of(self._study).register(versions.workspace, self._instance)
        yield from observations(self._study, versions.workspace, self._instance)
        yield from self.unreported(versions, states)

    def unreported(self, versions: Versions, states: Sequence[AssetState]) -> Iterator[Report]:
        """Report partitions whose current version differs from the one that was last reported.

        They were computed by a run of another instance, or are in use again because a setting or a file was changed
        back.
        """
        for state in states:
            key = asset_key(self._study, state.asset.name)
            reported = reported_versions(self._instance, key, dg.DagsterEventType.ASSET_MATERIALIZATION)
            for standing in state.of("standing"):
                artifact = ArtifactKey(state.asset.name, standing.partition.key, str(standing.data_version))
                if reported.get(standing.partition.key or WHOLE) != artifact.data_version:
                    outcome = Outcome(versions.workspace.store.open_what_is_left(artifact), computed=False)
                    yield from self.finished(Finished(state.asset, standing.partition, outcome, versions))
        yield from self.rolled_up_checks()

    def finished(self, event: Finished) -> Iterator[Report]:
        """Report a materialized partition, and those of its checks that fail.

        Of an ensemble's further members, the checks are run, but nothing is reported: to Dagster, whose partitions are
        those of the study's own model, their artifacts would be other versions of the same.
        """
        asset, partition, outcome, versions = event.asset, event.partition, event.outcome, event.versions
        # Before Dagster learns of the artifact: what a killed run has not reported, the next run checks.
        found = list(checks.results(asset, versions.workspace, outcome.artifact))
        if versions.number:
            return
        yield materialization(self._study, asset, partition, outcome, versions, self._instance)
        yield from self._evaluations(asset, partition, found)

    def repeated(self, recheck: Recheck) -> Iterator[Report]:
        """Report checks that were outstanding and have been repeated."""
        for asset, partition, findings in recheck.repeated:
            yield from map(told_again, self._evaluations(asset, partition, checks.as_results(findings)))
        yield from self.rolled_up_checks()

    def _evaluations(
        self, asset: AssetDefinition, partition: Partition, results: Iterable[dg.AssetCheckResult]
    ) -> Iterator[dg.AssetCheckEvaluation]:
        """Yield the checks that fail, and keep those that pass for `rolled_up_checks`."""
        for check in results:
            evaluation = dg.AssetCheckEvaluation(
                asset_key(self._study, asset.name),
                str(check.check_name),
                passed=check.passed,
                metadata=check.metadata,
                severity=check.severity,
                partition=partition.key,
            )
            if check.passed:
                self._passed[evaluation.asset_key, evaluation.check_name] = evaluation
                self._partitions[evaluation.asset_key, evaluation.check_name] += 1
            else:
                yield evaluation

    def rolled_up_checks(self) -> Iterator[Report]:
        """Report the checks that passed since the last call, once each."""
        for (key, name), last in self._passed.items():
            count = self._partitions[key, name]
            several = dg.AssetCheckEvaluation(
                key, name, passed=True, metadata={"partitions": count}, severity=last.severity
            )
            yield last if count == 1 else several
        self._passed, self._partitions = {}, Counter()


def told_again(report: Report) -> Report:
    """Return a report as Dagster takes it several times.

    It takes the result of a check of one partition once in each run, and once in all outside of runs. So the partition
    becomes metadata.
    """
    if not isinstance(report, dg.AssetCheckEvaluation) or report.partition is None:
        return report
    metadata = {**report.metadata, "partition": dg.MetadataValue.text(report.partition)}
    return dg.AssetCheckEvaluation(
        report.asset_key, report.check_name, passed=report.passed, metadata=metadata, severity=report.severity
    )


def taken_back(before: Sequence[AssetState], result: Result) -> list[AssetState]:
    """Return the states of assets that may use an earlier version again: what was outstanding was not computed."""
    computed = set(result.computed)
    names = {
        state.asset.name
        for state in before
        if any((state.asset, outstanding.partition) not in computed for outstanding in state.outstanding)
    }
    return [state for state in result.states if state.asset.name in names]
