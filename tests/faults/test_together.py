"""Several processes at once on one store: each partition is computed once, by one of them."""

from functools import partial

import pytest

from tests.faults import comparison, working, zygote
from tests.faults.changing import FILES, everything

QUERY_SETS = ("first.jsonl",)


def together(ground, *calls):
    processes = [zygote.Process(call, below=ground.store) for call in calls]
    return [process.ended().answer for process in processes]


@pytest.mark.slow
def test_two_runs_at_once_compute_every_partition_once(ground):
    ground.begin(is_computed=False)
    one, other = together(ground, *(partial(working.run, ground.study, run_id=name) for name in ("one", "other")))
    assert not one.failures
    assert not other.failures
    assert set(one.computed) | set(other.computed) == everything(FILES[:2], QUERY_SETS)
    assert not set(one.computed) & set(other.computed)
    stored = comparison.workspace(ground.study).store.manifests(with_records=True)
    found = [(f"{m.asset}[{m.partition}]" if m.partition else m.asset, m.run_id) for m in stored]
    assert sorted(found) == sorted([*((n, "one") for n in one.computed), *((n, "other") for n in other.computed)])
    comparison.assert_equal_catalogues(ground.study, comparison.from_scratch(ground.study))


@pytest.mark.soak
def test_without_claims_they_would_compute_some_twice(ground):
    ground.begin(is_computed=False)
    meeting = zygote.context.Barrier(2, timeout=zygote.LONGEST_SECONDS)
    one, other = together(ground, *[partial(working.run_without_claims, ground.study, meeting)] * 2)
    assert set(one.computed) & set(other.computed)
    # Even so the first one's folder stands, whole.
    comparison.assert_equal_catalogues(ground.study, comparison.from_scratch(ground.study))


@pytest.mark.slow
def test_a_run_beside_a_job_of_dagsters_ui(ground, corpus):
    """The job of one asset, in a process of its own as Dagster's executor starts it, beside the run of everything."""
    corpus.write(FILES[2], [6, 7])
    corpus.write(FILES[3], [8])
    new = [FILES[2], FILES[3]]
    calls = partial(working.run, ground.study), partial(working.materialise_by_hand, ground.study, new)
    ran, by_hand = together(ground, *calls)
    assert not ran.failures
    assert by_hand == dict.fromkeys(new, "success")
    found = list(comparison.workspace(ground.study).store.manifests("documents"))
    assert sorted(str(m.partition) for m in found) == sorted([*FILES[:2], *new])
    comparison.assert_equal_catalogues(ground.study, comparison.from_scratch(ground.study))
