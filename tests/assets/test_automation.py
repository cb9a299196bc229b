"""What is computed by itself: asked of Dagster tick by tick, with everything that it requests really computed."""

import json
from collections import defaultdict
from functools import cache
from unittest import mock

import dagster as dg
import pytest

from influence_assets.assets.factory import asset_key
from influence_assets.pipeline.graph import STEPS
from influence_assets.study import Study
from tests import studies
from tests.studies import COAST, EXTRA, FIRST, QUERY_SETS, SECOND, SHARDS, TRADES

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class Daemon:
    """What Dagster's daemon does with the conditions, a tick at a time."""

    def __init__(self, located):
        self._located = located
        self._cursor = None
        study = Study.load(located.path)
        self._keys = {asset_key(study, step.name): step for step in STEPS}

    def tick(self):
        """What is requested on this tick, as a list of runs: each the partition and its steps in order."""
        instance = self._located.instance
        # Within a tick the daemon looks the partitions up once, too.
        with mock.patch.object(instance, "get_dynamic_partitions", cache(instance.get_dynamic_partitions)):
            result = dg.evaluate_automation_conditions(self._located.definitions, instance, cursor=self._cursor)
        self._cursor = result.cursor
        runs = defaultdict(list)
        for key, step in self._keys.items():
            # Dagster puts steps of the same partition into one run.
            for partition in sorted(result.get_requested_partitions(key), key=str):
                runs[step.partitioning if partition is None else partition, partition].append(key)
        return {partition or self._keys[keys[0]].name: keys for (_, partition), keys in runs.items()}

    def carry_out(self, requested):
        """Run what was requested; what fails, fails as it would in a daemon's run."""
        job = self._located.definitions.resolve_implicit_global_asset_job_def()
        for partition, keys in requested.items():
            key = None if self._keys[keys[0]].partitioning == "none" else partition
            job.execute_in_process(
                instance=self._located.instance, partition_key=key, asset_selection=keys, run_config=QUIET,
                raise_on_error=False,
            )  # fmt: skip

    def waves(self):
        """Tick and carry out until nothing more is requested; what was requested on each tick."""
        waves = []
        for _ in range(20):
            requested = self.tick()
            if not requested:
                return waves
            waves.append({where: [key.path[-1] for key in keys] for where, keys in requested.items()})
            self.carry_out(requested)
        raise AssertionError(f"no end of it: {waves}")


@pytest.fixture
def daemon(located):
    located.sense()
    return Daemon(located)


def by_shard(*steps, shards=SHARDS):
    return {shard: list(steps) for shard in shards}


def alone(*steps):
    return {step: [step] for step in steps}


ROLL_UPS = [{query_set: ["influence_details"] for query_set in QUERY_SETS}, alone("influence_catalogue")]
AFTER_DOCUMENTS = ["token_sequences", "covariances", "corrected_eigenvalues", "gradient_sketches"]


def test_what_is_requested_is_what_is_missing_and_no_more(located, daemon):
    """A study's life in five acts: from nothing, a new file, a bad one, the same mended, one computed again."""
    assert daemon.waves() == [
        by_shard("documents") | alone("language_model"),
        by_shard("token_sequences", "covariances"),
        alone("eigenbases"),
        by_shard("corrected_eigenvalues"),
        alone("curvature"),
        by_shard("gradient_sketches") | {query_set: ["query_gradients"] for query_set in QUERY_SETS},
        {f"{query_set}|{shard}": ["influence_scores"] for query_set in QUERY_SETS for shard in SHARDS},
        *ROLL_UPS,
    ]
    assert studies.compute(located.path) == [], "what the daemon asked for was all that there is"

    studies.write_extra(located.path)
    located.sense()
    assert daemon.waves() == [
        by_shard("documents", *AFTER_DOCUMENTS, shards=[EXTRA]),
        {f"{query_set}|{EXTRA}": ["influence_scores"] for query_set in QUERY_SETS},
        *ROLL_UPS,
    ]
    assert studies.compute(located.path) == []

    # A file that cannot be read fails once, is left alone, and is taken up when it has been read after all.
    bad = located.path.parent / "corpus" / "new.jsonl"
    bad.write_text("no rows\n", encoding="utf-8")
    located.sense()
    assert daemon.waves() == [by_shard("documents", *AFTER_DOCUMENTS, shards=["new.jsonl"])]
    assert len(studies.ask_sql(located.path, "select * from shards")) == len([*SHARDS, EXTRA])
    bad.write_text(json.dumps({"text": "The tailor cuts the cloth."}) + "\n", encoding="utf-8")
    assert located.run("read_documents", "new.jsonl").success
    waves = daemon.waves()
    requested = {(where, step) for wave in waves for where, steps in wave.items() for step in steps}
    expected = {("new.jsonl", step) for step in AFTER_DOCUMENTS}
    expected |= {(f"{query_set}|new.jsonl", "influence_scores") for query_set in QUERY_SETS}
    expected |= {(query_set, "influence_details") for query_set in QUERY_SETS}
    assert requested == expected | {("influence_catalogue", "influence_catalogue")}
    assert waves[-2:] == ROLL_UPS
    assert studies.compute(located.path) == []

    # A shard that a person computes again: what is rolled up over all shards follows by itself.
    studies.write_parquet(located.path.parent / "corpus" / TRADES, studies.TRADES_ROWS[:2])
    for job in ("read_documents", "measure_curvature", "correct_eigenvalues", "sketch_shard"):
        assert located.run(job, TRADES).success
    for query_set in QUERY_SETS:
        assert located.run("score_shard", f"{query_set}|{TRADES}").success
    assert daemon.waves() == ROLL_UPS
    assert studies.compute(located.path) == []


def test_a_query_set_that_fails_holds_up_the_catalogue_and_nothing_else(located):
    (located.path.parent / "corpus" / TRADES).unlink()
    located.sense()
    daemon = Daemon(located)
    studies.write_jsonl(located.path.parent / "queries" / SECOND, [{"prompt": "", "completion": ""}])
    waves = daemon.waves()
    requested = {step for wave in waves for steps in wave.values() for step in steps}
    assert requested == {step.name for step in STEPS} - {"influence_catalogue"}
    assert waves[-2:] == [{f"{FIRST}|{COAST}": ["influence_scores"]}, {FIRST: ["influence_details"]}]
