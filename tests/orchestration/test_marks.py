"""What the UI marks as missing or outdated is what `influence status` says.

Dagster looks one step up: of a partition that waits, because something that it reads is missing or outdated, it says
whatever it was before, or that it is outdated. So of those that wait nothing is compared. All others must agree, with
one exception: a file or a setting that is taken back makes stand again what stood before, which Dagster learns with the
next run.
"""

from collections import Counter

import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from influence_assets.assets import asset_graph, open_workspace
from influence_assets.engine.partitions import Partition
from influence_assets.engine.plan import plan
from influence_assets.engine.versions import Versions
from tests import studies
from tests.studies import COAST, EXTRA, FIRST, TRADES

MARKS = {"standing": StaleStatus.FRESH, "missing": StaleStatus.MISSING, "stale": StaleStatus.STALE}


def marked(located):
    """The UI's mark and our state of every partition of every asset."""
    resolver = CachingStaleStatusResolver(
        located.instance,
        located.definitions.resolve_asset_graph(),
        LoadingContextForTest(located.instance),
    )
    return {
        studies.label(state.asset, state.partition): (
            resolver.get_status(located.key(state.asset.name), state.partition.key),
            state.state,
        )
        for asset in plan(Versions(open_workspace(located.study)))
        for state in asset.partitions
    }


def assert_agree(located, *, taken_back=(), **expected):
    """The UI marks what our plan says, so many in each state; returns the names of those that are stale."""
    found = marked(located)
    differing = {
        name: (mark.value, state) for name, (mark, state) in found.items() if state in MARKS and mark != MARKS[state]
    }
    assert differing == dict.fromkeys(taken_back, ("STALE", "standing"))
    states = Counter(state for _, state in found.values())
    assert states == {state: count for state, count in expected.items() if count}
    return {name for name, (_, state) in found.items() if state == "stale"}


ALL = len(studies.everything())


def by_hand(located, *assets):
    """Asset after asset, partition after partition, as a person launches them."""
    for asset in assets:
        for partition in studies.versions_of(located.path).partitions(asset_graph()[asset]):
            assert located.materialise(asset, partition.key).success


def test_of_a_fresh_study_all_is_missing(located):
    located.sense()
    assert_agree(located, missing=3, waiting=ALL - 3)  # two shards' documents and the model


@pytest.mark.soak
def test_after_the_command_nothing_is_marked(located):
    assert not located.command().failures
    assert_agree(located, standing=ALL)
    located.sense()
    assert_agree(located, standing=ALL)


@pytest.mark.soak
def test_after_all_assets_by_hand_nothing_is_marked(located):
    located.sense()
    by_hand(located, *(asset.name for asset in asset_graph()))
    assert_agree(located, standing=ALL)
    located.sense()
    assert_agree(located, standing=ALL)


@pytest.mark.slow
def test_files_that_come_change_and_go(computed):
    corpus = computed.path.parent / "corpus"
    studies.write_extra(computed.path)
    computed.sense()
    assert_agree(computed, standing=ALL - len(studies.ROLLED_UP), missing=1, waiting=7 + len(studies.ROLLED_UP))
    computed.command()
    assert_agree(computed, standing=ALL + 8)

    before = (corpus / TRADES).read_bytes()
    studies.write_parquet(corpus / TRADES, studies.TRADES_ROWS[:2])
    computed.sense()
    stale = assert_agree(computed, standing=ALL - 4, stale=1, waiting=7 + 4)
    assert stale == {f"documents[{TRADES}]"}
    computed.command()
    assert_agree(computed, standing=ALL + 8)
    (corpus / TRADES).write_bytes(before)
    computed.sense()
    # All of the shard is there still, of the time before: only what is published is another.
    computed.command()
    assert_agree(computed, standing=ALL + 8)

    (corpus / EXTRA).unlink()
    computed.sense()
    # What was rolled up before the file came is there still.
    back = studies.ROLLED_UP - {"influence_catalogue"}
    assert assert_agree(computed, standing=ALL - 1, stale=1, taken_back=back) == {"influence_catalogue"}
    computed.command()
    assert_agree(computed, standing=ALL)
    computed.sense()
    assert_agree(computed, standing=ALL)

    (corpus / COAST).unlink()
    computed.sense()
    stale = assert_agree(computed, standing=ALL - 8 - 4, stale=3, waiting=1)
    assert stale == back
    computed.command()
    assert_agree(computed, standing=ALL - 8)


@pytest.mark.soak
def test_a_setting_that_is_changed_and_taken_back(computed):
    path = computed.path
    studies.write_study(path.parent, curvature={"damping_scale": 0.5})
    computed.sense()
    stale = assert_agree(computed, standing=11, stale=1, waiting=ALL - 12)
    assert stale == {"curvature"}
    computed.command()
    assert_agree(computed, standing=ALL)
    studies.write_study(path.parent)
    assert computed.command().computed == [(asset_graph()["influence_catalogue"], Partition())]
    assert_agree(computed, standing=ALL)


@pytest.mark.soak
def test_a_new_generation(computed):
    assert not computed.command(new_generation=True).failures
    assert_agree(computed, standing=ALL)
    studies.write_extra(computed.path)
    computed.sense()
    computed.command()
    assert_agree(computed, standing=ALL + 8)
    computed.sense()
    assert_agree(computed, standing=ALL + 8)


@pytest.mark.soak
def test_a_generation_that_is_being_filled(computed):
    config = {"ops": {f"{studies.NAME}__eigenbases": {"config": {"new_generation": True}}}}
    assert computed.materialise("eigenbases", run_config=config).success
    stale = assert_agree(computed, standing=7, stale=3, waiting=ALL - 10)
    assert stale == {"corrected_eigenvalues", *(f"drift_statistics[{shard}]" for shard in studies.SHARDS)}
    by_hand(computed, "corrected_eigenvalues")
    stale = assert_agree(computed, standing=8, stale=3, waiting=ALL - 11)
    assert stale == {"curvature", *(f"drift_statistics[{shard}]" for shard in studies.SHARDS)}


@pytest.mark.soak
def test_a_run_that_was_killed_while_it_filled_a_generation(computed):
    """Two generations stand then; what the next run tells of one must not outdate what it tells of the other."""
    computed.command(new_generation=True, killed_before="query_gradients")
    assert_agree(computed, standing=12, stale=4, waiting=ALL - 16)
    studies.write_extra(computed.path)
    assert not computed.command().failures
    assert_agree(computed, standing=ALL + 8)


@pytest.mark.soak
def test_withdrawn_documents(computed):
    (document,) = studies.ask_sql(computed.path, "select document_id from documents where title = 'Fog'").rows()[0]
    (computed.path.parent / "withdrawn.txt").write_text(document)
    studies.write_study(computed.path.parent, corpus={"withdrawn": "withdrawn.txt"})
    computed.sense()
    stale = assert_agree(computed, standing=ALL - 8 - 4, stale=1, waiting=7 + 4)
    assert stale == {f"documents[{COAST}]"}
    computed.command()
    assert_agree(computed, standing=ALL)


@pytest.mark.soak
def test_other_questions_and_other_weights(computed):
    studies.write_jsonl(computed.path.parent / "queries" / FIRST, studies.FIRST_ROWS[:1])
    computed.sense()
    stale = assert_agree(computed, standing=ALL - 7, stale=1, waiting=6)
    assert stale == {f"query_gradients[{FIRST}]"}
    computed.command()
    assert_agree(computed, standing=ALL)
    studies.write_model(computed.path.parent / "model", seed=1)
    computed.sense()
    stale = assert_agree(computed, standing=2, stale=1, waiting=ALL - 3)
    assert stale == {"language_model"}


def test_what_was_computed_elsewhere_is_told(computed):
    """By a command with an instance of its own, or before this instance was there."""
    assert computed.instance.get_run_ids() == [], "reported without a run, which would compute nothing"
    assert_agree(computed, standing=ALL)
    events = computed.instance.event_log_storage.get_maximum_record_id()
    assert not computed.command().computed
    assert computed.instance.event_log_storage.get_maximum_record_id() == events, "reported once"
