"""The job that brings a study up to date: one run, one process, one op for each stage."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import dagster as dg

from influence_assets.assets import asset_graph
from influence_assets.engine.bring_up import drift, is_generation_due
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.failed_checks import repeat_outstanding
from influence_assets.engine.plan import plan
from influence_assets.errors import StorageError
from influence_assets.orchestration.instance import LOCATION
from influence_assets.orchestration.private_api import execute_here
from influence_assets.orchestration.run_events import Report, Reporter, told_again
from influence_assets.orchestration.runs import end_dead_runs, job_name
from influence_assets.orchestration.session import Session, resource_key
from influence_assets.orchestration.stages import MEMBERS, NEW_GENERATION, Stages, position
from influence_assets.study import Study

PLAN, REPORT = "plan", "report"
"""The names of the first op and the last op."""

Event = Report | dg.Output[None]
AFTER = {"after": dg.In(dg.Nothing)}
DONE = {"done": dg.Out(dg.Nothing)}
DONE_AND_DUE = DONE | {NEW_GENERATION: dg.Out(dg.Nothing, is_required=False)}


class Request(dg.Config):
    """Settings of one run."""

    new_generation: bool = False


def build_bring_up_job(
    study: Study,
    resources: Mapping[str, dg.ResourceDefinition] | None = None,
    requested: Collection[str] = (),
) -> dg.JobDefinition:
    """Return the job of a study.

    Args:
        study: the study to bring up to date.
        resources: the study's session, if the job is not part of a code location that has it.
        requested: the assets, of those that are computed on request only, that are to have a stage.
    """
    due = [asset for asset in asset_graph() if asset.is_due_in(study) or asset.name in requested]
    *stages, last = [(asset.name, _stage(study, asset)) for asset in due]
    new_generation, look = _new_generation(study), _plan(study)
    members, report = _members(study) if study.members else None, _report(study)

    @dg.job(
        name=job_name(study),
        description="Bring everything up to date: compute what is new, changed or missing, publish it, and stop.",
        executor_def=dg.in_process_executor,
        resource_defs=resources,
    )
    def bring_up() -> None:
        # The alias drops the study from the op's name, so that the run shows just the stage's name.
        done = look.alias(PLAN)()
        for name, stage in stages:
            done = stage.alias(name)(done)
        ended = last[1].alias(last[0])(done)
        ends = [ended.done, new_generation.alias(NEW_GENERATION)(getattr(ended, NEW_GENERATION))]
        report.alias(REPORT)(ends if members is None else members.alias("members")(ends))

    return bring_up


def _new_generation(study: Study) -> dg.GraphDefinition:
    """Return the stages that fill a new generation; they are skipped if there is none."""
    assets = asset_graph().assets
    first = next((place for place, asset in enumerate(assets) if asset.begins_generation), 0)
    due = [asset for asset in assets[first:] if asset.is_due_in(study)]
    stages = [(asset.name, _stage(study, asset, is_new_generation=True)) for asset in due]

    @dg.graph(
        name=f"{study.name}_{NEW_GENERATION}",
        description="Fits another generation of curvature, or goes on with one that was begun, and computes in it.",
        ins={"after": dg.GraphIn()},
        out={"done": dg.GraphOut()},
    )
    def new_generation(after):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  # internal types of Dagster's composition
        for name, stage in stages:
            after = stage.alias(name)(after)
        return after

    return new_generation


def _plan(study: Study) -> dg.OpDefinition:
    def look(context: dg.OpExecutionContext, config: Request) -> Iterator[Event]:
        session = _session(context, study)
        with _ending(session):
            yield from _begin(session, context, new_generation=config.new_generation)
        due = {
            state.asset.name: f"{len(state.outstanding):,} of {len(state.partitions):,} are due"
            for state in session.result.states
            if state.outstanding
        }
        yield dg.Output(None, "done", metadata=due)

    return _op(study, PLAN, "Looks at the files, and finds out what is new, changed or missing.", out=DONE)(look)


def _stage(study: Study, asset: AssetDefinition, *, is_new_generation: bool = False) -> dg.OpDefinition:
    """Return the op of one stage. The last op before those of the new generation outputs whether they are due."""
    at = position(asset, is_new_generation=is_new_generation)
    ends_a_round = asset.name == asset_graph().assets[-1].name and not is_new_generation

    def compute(context: dg.OpExecutionContext) -> Iterator[Event]:
        session = _session(context, study)
        with _ending(session):
            yield from _begin(session, context)
            yield from session.begun.advance(context, at)
            figures = session.begun.outcome(context, at)
        yield dg.Output(None, "done", metadata=figures)
        if ends_a_round and session.begun.has_reached_new_generation:
            yield dg.Output(None, NEW_GENERATION)

    name = f"{NEW_GENERATION}_{asset.name}" if is_new_generation else asset.name
    return _op(study, name, asset.description, ins=AFTER, out=DONE_AND_DUE if ends_a_round else DONE)(compute)


def _members(study: Study) -> dg.OpDefinition:
    """Return the op of an ensemble's further members, one for all of them; it runs after what else is due."""

    def compute(context: dg.OpExecutionContext) -> Iterator[Event]:
        session = _session(context, study)
        with _ending(session):
            yield from _begin(session, context)
            yield from session.begun.advance(context, MEMBERS)
            figures = session.begun.outcome(context, MEMBERS)
        yield dg.Output(None, "done", metadata=figures)

    description = "Brings the further members of the ensemble up to date, and publishes their scores beside the others."
    return _op(study, "members", description, ins=AFTER, out=DONE)(compute)


def _report(study: Study) -> dg.OpDefinition:
    def report(context: dg.OpExecutionContext) -> Iterator[Event]:
        session = _session(context, study)
        with _ending(session):
            yield from _begin(session, context)
            yield from session.begun.conclude(context)
        result = session.result
        if result.failures:
            names = ", ".join(
                f"{failure.asset.name} {failure.partition.key or ''}"
                + (f" of member {failure.member}" if failure.member else "")
                for failure in result.failures
            )
            raise dg.Failure(f"Not computed: {names}. Earlier results are unchanged. Left out: {result.left_out}.")
        if session.checks_failed:
            raise dg.Failure(f"Checks fail: {', '.join(session.checks_failed)}. The next run repeats them.")
        yield dg.Output(None, "done")

    description = "Reports what the run did. Fails if a partition was not computed or a check fails, and names it."
    return _op(study, REPORT, description, ins=AFTER, out=DONE)(report)


def _op(
    study: Study, name: str, description: str, *, out: Mapping[str, dg.Out], ins: Mapping[str, dg.In] | None = None
) -> Callable[[Callable[..., Iterator[Event]]], dg.OpDefinition]:
    return dg.op(
        name=f"{study.name}_{name}",
        description=description,
        ins=ins,
        out=out,
        required_resource_keys={resource_key(study)},
    )


def _session(context: dg.OpExecutionContext, study: Study) -> Session:
    session: Session = getattr(context.resources, resource_key(study))
    return session


def _begin(session: Session, context: dg.OpExecutionContext, *, new_generation: bool = False) -> Iterator[Report]:
    """Begin the run's work unless an earlier op has begun it; users may launch any selection of ops."""
    if session.stages is None:
        session.stages = Stages(session, context, new_generation=new_generation)
        yield from session.stages.news()


@contextmanager
def _ending(session: Session) -> Iterator[None]:
    """On an error, keep it in the session and release the store's locks."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        session.error = error
        session.close()
        raise


def execute(study: Study, instance: dg.DagsterInstance, session: Session, *, new_generation: bool) -> None:
    """Run the job in this process; `session.result` then says what it did.

    Raises:
        InputError: the corpus or the queries cannot be listed.
        StorageError: Dagster cannot record the run.
        KeyboardInterrupt: the user ended it.
    """
    end_dead_runs(study, instance)
    versions = session.published
    session.result.states = list(plan(versions))
    session.result.member_states = {member.number: list(plan(member)) for member in versions.members}
    outstanding = session.result.left_out or versions.has_newer_generation
    session.result.drift = drift(versions)
    if not new_generation and not outstanding and not is_generation_due(versions):
        reporter = Reporter(study, instance)
        for event in reporter.news(versions, session.result.states):
            instance.report_runless_asset_event(told_again(event))
        session.recheck = repeat_outstanding(versions)
        for event in reporter.repeated(session.recheck):
            instance.report_runless_asset_event(event)
        return
    config = {
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        "ops": {PLAN: {"config": {"new_generation": new_generation}}},
    }
    # Without a code location, because resolving the whole graph of assets takes longer than many runs.
    resources = {resource_key(study): dg.ResourceDefinition.hardcoded_resource(session)}
    try:
        succeeded = execute_here(build_bring_up_job(study, resources, session.requested), instance, config, LOCATION)
    finally:
        session.close()
    if session.error is not None:
        raise session.error
    if not succeeded and not session.result.failures and not session.checks_failed:
        raise StorageError(
            f"{instance.root_directory}: Dagster ended the run early, most likely because it cannot write there. "
            "What was computed is kept. Free some space on that disk and run again."
        )
