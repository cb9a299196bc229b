"""What processes do to a study, as the command does it, without Dagster: their functions, importable by name."""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from multiprocessing.synchronize import Barrier, Semaphore
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb

from influence_assets.assets import open_workspace
from influence_assets.corpus import measured_files
from influence_assets.durable import identity as identities
from influence_assets.engine.bring_up import Finished, Result, bring_up_to_date
from influence_assets.engine.catalogue import rebuild_catalogue
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.errors import InputError, StorageError
from influence_assets.storage.artifacts import ArtifactStore
from influence_assets.storage.catalogue import publishing
from influence_assets.study import Study
from influence_assets.upkeep.forget import withdraw
from influence_assets.upkeep.garbage import Collected, collect
from influence_assets.upkeep.verify import Trouble, verify


class Silent:
    """Told of everything, says nothing."""

    def begins(self, step: AssetDefinition, partition: Partition, outstanding: int) -> None:
        pass

    def progress(self, step: AssetDefinition, partition: Partition, done: int, total: int | None) -> None:
        pass


@dataclass
class Ran:
    """What a run did.

    Args:
        computed: what it computed, in order, as `asset` or `asset[partition]`.
        failures: what it says went wrong.
        mended: how many artifacts it found damaged.
        left_out: steps that are not complete.
    """

    computed: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    mended: int = 0
    left_out: list[str] = field(default_factory=list)


def run(study: Path, *, new_generation: bool = False, run_id: str = "test") -> Ran:
    """Bring everything up to date."""
    result = Result()
    computed = []
    for event in bring_up_to_date(
        Versions(open_workspace(Study.load(study)), "published"),
        Silent(),
        result,
        run_id=run_id,
        new_generation=new_generation,
    ):
        if isinstance(event, Finished) and event.outcome.computed:
            computed.append(named(event.asset, event.partition))
    failures = [f"{named(f.asset, f.partition)}: {type(f.error).__name__}: {f.error}" for f in result.failures]
    return Ran(computed, failures, len(result.repaired), result.left_out)


def begin_generation(study: Path) -> Ran:
    """Bring everything up to date, in another generation."""
    return run(study, new_generation=True)


def gc(study: Path, keep: int) -> Collected:
    """Remove what is superseded."""
    return collect(open_workspace(Study.load(study)), keep=keep)


def forget(study: Path, document_id: str, reason: str) -> int:
    """List a document as withdrawn."""
    return len(withdraw(open_workspace(Study.load(study)), [document_id], reason))


def look(study: Path) -> list[Trouble]:
    """Read everything again and mark what is damaged."""
    return verify(open_workspace(Study.load(study)), lambda _done, _total: None)


def rebuild(study: Path) -> None:
    """Build the DuckDB file anew."""
    rebuild_catalogue(Versions(open_workspace(Study.load(study)), "published"))


def named(step: AssetDefinition, partition: Partition) -> str:
    """`asset`, or `asset[partition]`."""
    return f"{step.name}[{partition.key}]" if partition.key else step.name


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function answers, or what it says to the user."""
    try:
        return function(*arguments)
    except (InputError, StorageError) as error:
        return f"{type(error).__name__}: {error}"


def run_without_claims(study: Path, meeting: Barrier) -> Ran:
    """A run that does not keep others from the partition that it computes, and begins its first beside another run."""
    write, met = ArtifactStore.write, []

    def met_first(*arguments: Any, **how: Any) -> Any:
        if not met:
            met.append(meeting.wait())
        return write(*arguments, **how)

    with (
        mock.patch.object(ArtifactStore, "partition_lock", lambda _store, _key: nullcontext()),
        mock.patch.object(ArtifactStore, "write", met_first),
    ):
        return run(study)


def materialise_by_hand(study: Path, shards: Sequence[str]) -> dict[str, str]:
    """What becomes of the UI's job of one asset, shard by shard, in Dagster."""
    import dagster as dg

    from influence_assets.orchestration.definitions import build_definitions
    from influence_assets.orchestration.factory import asset_key
    from influence_assets.orchestration.jobs import asset_job_name

    found = {}
    described = Study.load(study)
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_definitions([described]).resolve_job_def(asset_job_name(described, "shard"))
        for shard in shards:
            instance.add_dynamic_partitions(job.partitions_def.name, [shard])
            done = job.execute_in_process(
                instance=instance,
                partition_key=shard,
                asset_selection=[asset_key(described, "documents")],
                raise_on_error=False,
            )
            found[shard] = "success" if done.success else str([event.step_failure_data for event in done.all_events])
    return found


def edit_and_run(
    study: Path, edits: Sequence[Mapping[str, bytes | None]], loaded: Semaphore, seen: Semaphore
) -> list[Ran]:
    """Write and remove files of the corpus, and run after each edit; then go on when somebody has seen what it made."""
    done = []
    for edit in edits:
        for name, content in edit.items():
            path = study.parent / "corpus" / name
            if content is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        done.append(run(study))
        loaded.release()
        seen.acquire()
    return done


def run_in_place(study: Path, loading: Semaphore, seen: Semaphore) -> Ran:
    """A run whose loader changes the published file itself, not a copy, and is looked at while it is at it."""
    connect = duckdb.connect

    def looked_at(path: str, **how: Any) -> duckdb.DuckDBPyConnection:
        connection = connect(path, **how)
        if path.endswith("influence.duckdb") and not how.get("read_only"):
            loading.release()
            seen.acquire()
        return connection

    def copy_of(path: Path) -> Path:
        return path

    with (
        mock.patch.object(publishing, "_copy_of", copy_of),
        mock.patch.object(publishing, "_remove"),
        mock.patch.object(publishing, "_copy"),
        mock.patch.object(duckdb, "connect", looked_at),
    ):
        return run(study)


def at_another_time(seconds: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function answers on a machine whose clock is off by so much."""
    now, now_ns = time.time, time.time_ns

    class Off(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(seconds=seconds)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(time, "time", lambda: now() + seconds))
        stack.enter_context(mock.patch.object(time, "time_ns", lambda: now_ns() + seconds * 10**9))
        for module in list(sys.modules.values()):
            if module.__name__.startswith("influence_assets") and getattr(module, "datetime", None) is datetime:
                stack.enter_context(mock.patch.object(module, "datetime", Off))
        return function(*arguments)


def run_remembering_at_once(study: Path, *, by_modification_alone: bool) -> Ran:
    """A run that remembers what files held without waiting for the clock's next tick."""

    def identity(stat: os.stat_result) -> list[int]:
        return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns]

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(identities, "_CLOCK_GRAIN_NS", 0))
        if by_modification_alone:
            stack.enter_context(mock.patch.object(measured_files, "identity", identity))
            stack.enter_context(
                mock.patch.object(measured_files, "identity_at", lambda url: identity(Path(url).stat()))
            )
        return run(study)
