"""Details that start from earlier ones are those that are computed from nothing, and take what is new alone."""

import shutil
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from influence_assets.assets import influence_details
from influence_assets.assets.strongest import Earlier, extremes, strongest_pairs, unchanged
from influence_assets.capture import details
from influence_assets.layouts import queries
from influence_assets.storage.artifacts.manifest import ArtifactKey
from tests import studies
from tests.studies import COAST, FIRST, TRADES
from tests.tiers import slow_but

TABLES = {
    "strongest": ["query_id", "sequence_id"],
    "layer_influence": ["query_id", "sequence_id", "module_name"],
    "token_influence": ["query_id", "sequence_id", "token_position"],
}
EXTRAS = {f"extra/{n}.txt": text for n, text in enumerate(
    (
        "Nets dry on the wall while the boats wait for the tide to turn.",
        "The miller opens the sluice and the wheel begins to turn slowly.",
        "A letter for the keeper lies on the table, sealed with red wax.",
        "At dusk the bell rings once for every ship that is still out.",
    )
)}  # fmt: skip


def write_extras(study, names=tuple(EXTRAS)):
    for name in names:
        path = study.parent / "corpus" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(EXTRAS[name], encoding="utf-8")


@pytest.fixture
def many(study):
    """Six shards, the strongest one and weakest one of each question in at most four of them."""
    studies.write_study(study.parent, scores={"details_per_query": 1})
    write_extras(study)
    studies.compute(study)
    return study


def shards_of(study):
    return {label.removeprefix("documents[")[:-1] for label in studies.data_versions(study) if "documents[" in label}


def contributing(study):
    return set(stored(study).table("strongest").collect()["shard_id"])


def stored(study):
    return studies.artifact(study, "influence_details", query_set=FIRST)


def from_nothing(study, folder):
    """The same study in the same generation, without any earlier details."""
    copy = studies.copied(study, folder)
    shutil.rmtree(copy.parent / "store" / "influence_details")
    studies.compute(copy)
    return stored(copy)


def assert_same(found, expected):
    assert found.key == expected.key
    for name, grain in TABLES.items():
        one, other = (artifact.table(name).sort(grain).collect() for artifact in (found, expected))
        assert one.height > 0
        assert one.drop("influence_nats").equals(other.drop("influence_nats"))
        largest = other["influence_nats"].abs().max()
        np.testing.assert_allclose(one["influence_nats"], other["influence_nats"], rtol=0, atol=1e-9 * largest)
    (agreed, truth) = (artifact.manifest.summary["sketch_agreement"] for artifact in (found, expected))
    assert agreed == pytest.approx(truth, abs=2e-4)


@pytest.fixture
def measured(monkeypatch):
    """The sequences that a pass was run for, in order."""
    seen = []

    def counting(runner, sequences, P, N, pairs):
        seen.extend(sequences.keys.tolist())
        return score_details(runner, sequences, P, N, pairs)

    score_details = details.score_details
    monkeypatch.setattr(details, "score_details", counting)
    return seen


def pairs(artifact):
    return set(artifact.table("strongest").select("query_id", "sequence_id").collect().rows())


def edit_add(study):
    write_extras(study)


def edit_change(study):
    studies.write_jsonl(study.parent / "corpus" / COAST, [*studies.COAST_ROWS[1:], {"text": "The lamp is out."}])


def edit_remove(study):
    (study.parent / "corpus" / TRADES).unlink()


def edit_all(study):
    edit_add(study)
    edit_change(study)
    edit_remove(study)


@pytest.mark.parametrize("edit", slow_but(of=[edit_add, edit_change, edit_remove, edit_all], slow=()))
def test_after_an_edit_they_are_those_from_nothing(study, edit, tmp_path_factory):
    edit(study)
    studies.compute(study)
    assert_same(stored(study), from_nothing(study, tmp_path_factory.mktemp("fresh")))


def test_each_sequence_goes_through_the_model_once_for_all_queries(study, measured):
    """In as many chunks of queries as are held at a time, to the same splits."""
    studies.write_study(study.parent, scores={"details_per_query": 3})
    studies.compute(study, until="influence_scores")
    measured.clear()
    studies.compute(study)
    whole = {query_set: splits(study, query_set) for query_set in studies.QUERY_SETS}
    needed = {q: set(whole[q]["layer_influence"]["sequence_id"]) for q in studies.QUERY_SETS}
    assert sorted(measured) == sorted(sequence for of_set in needed.values() for sequence in of_set)
    assert len(measured) < sum(whole[q]["strongest"].height for q in studies.QUERY_SETS)


def splits(study, query_set):
    artifact = studies.artifact(study, "influence_details", query_set=query_set)
    return {name: artifact.table(name).sort(grain).collect() for name, grain in TABLES.items()}


def test_chunks_of_queries_do_not_matter(study, measured, monkeypatch):
    whole = splits(study, FIRST)
    monkeypatch.setattr(queries, "LARGEST_QUERIES_BYTES", 1)
    shutil.rmtree(study.parent / "store" / "influence_details")
    studies.compute(study)
    one_by_one = splits(study, FIRST)
    pairs_of_both = [whole["strongest"].height, splits(study, studies.SECOND)["strongest"].height]
    assert len(measured) == sum(pairs_of_both)
    for name, frame in whole.items():
        assert one_by_one[name].drop("influence_nats").equals(frame.drop("influence_nats"))
        np.testing.assert_allclose(one_by_one[name]["influence_nats"], frame["influence_nats"], rtol=1e-9, atol=1e-14)


@pytest.mark.soak
def test_edit_after_edit(study, tmp_path_factory):
    """Copies of copies, and a shard that comes back."""
    trades = (study.parent / "corpus" / TRADES).read_bytes()
    for edit in (edit_add, edit_remove, edit_change):
        edit(study)
        studies.compute(study)
    (study.parent / "corpus" / TRADES).write_bytes(trades)
    studies.compute(study)
    assert_same(stored(study), from_nothing(study, tmp_path_factory.mktemp("fresh")))


@pytest.mark.slow
def test_only_new_pairs_are_measured(study, measured):
    before = pairs(stored(study))
    edit_add(study)
    studies.compute(study, until="influence_scores")
    measured.clear()
    studies.compute(study, until="influence_details")
    after = stored(study)
    fresh = pairs(after) - before
    both = pairs(after) | pairs(studies.artifact(study, "influence_details", query_set=studies.SECOND))
    assert set(measured) <= {sequence for _, sequence in both}
    assert len([key for key in measured if key in {s for _, s in fresh}]) >= len(fresh) > 0
    assert after.manifest.summary["copied_splits"] == len(pairs(after) & before) > 0
    kept = {sequence for _, sequence in pairs(after) & before} - {sequence for _, sequence in fresh}
    first_only = kept - {s for _, s in pairs(studies.artifact(study, "influence_details", query_set=studies.SECOND))}
    assert not first_only & set(measured)


@pytest.mark.slow
def test_a_shard_that_leaves_without_having_counted_costs_no_pass(many, measured, monkeypatch, tmp_path_factory):
    """Nor a second look at any score: those that were ranked could say anything by now."""
    counted = contributing(many)
    (gone, *_) = sorted(shards_of(many) - counted)
    (many.parent / "corpus" / gone).unlink()
    expected = from_nothing(many, tmp_path_factory.mktemp("fresh"))
    for shard in counted:
        scores = studies.artifact(many, "influence_scores", query_set=FIRST, shard=shard).table("influence_scores")
        opposite = scores.with_columns(-pl.col("influence_nats")).collect()
        studies.rewrite(many, "influence_scores", tables={"influence_scores": opposite}, query_set=FIRST, shard=shard)
    measured.clear()
    monkeypatch.setattr(influence_details, "_compared", lambda _inputs: [])  # the sketches are not what is tested here
    studies.compute(many, until="influence_details")
    found = stored(many)
    assert found.manifest.summary["copied_splits"] == len(pairs(found)) == 4
    assert not measured
    for name, grain in TABLES.items():
        one, other = (artifact.table(name).sort(grain).collect() for artifact in (found, expected))
        assert one.drop("influence_nats").equals(other.drop("influence_nats"))


@pytest.mark.slow
def test_a_shard_that_counted_is_missed(many, tmp_path_factory):
    """What was behind it comes forward, which only a full look finds."""
    gone = sorted(contributing(many))[0]
    (many.parent / "corpus" / gone).unlink()
    studies.compute(many)
    assert gone not in contributing(many)
    assert_same(stored(many), from_nothing(many, tmp_path_factory.mktemp("fresh")))


@pytest.mark.parametrize("name", slow_but("strongest", of=["layer_influence", "token_influence", "strongest"], slow=()))
@pytest.mark.parametrize("damage", slow_but("flip", of=["flip", "cut"], slow=()))
def test_nothing_is_taken_from_damaged_details(study, name, damage, tmp_path_factory):
    path = stored(study).folder / f"{name}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(bytes(content) if damage == "flip" else bytes(content[:-1]))
    edit_add(study)
    studies.compute(study)
    assert stored(study).manifest.summary["copied_splits"] == 0
    assert_same(stored(study), from_nothing(study, tmp_path_factory.mktemp("fresh")))


@pytest.mark.parametrize(
    "sections",
    [{"scores": {"details_per_query": 1}}, pytest.param({"curvature": {"damping_scale": 0.5}}, marks=pytest.mark.slow)],
    ids=["settings", "scores"],
)
def test_nothing_is_taken_from_details_of_other_settings_or_curvature(study, sections, tmp_path_factory):
    studies.write_study(study.parent, **sections)
    studies.compute(study)
    assert stored(study).manifest.summary["copied_splits"] == 0
    assert_same(stored(study), from_nothing(study, tmp_path_factory.mktemp("fresh")))


@pytest.mark.soak
def test_only_a_few_sketches_are_compared(many, monkeypatch, tmp_path_factory):
    everything = stored(many).manifest.summary["sketch_agreement"]["sequences"]
    monkeypatch.setattr(influence_details, "COMPARED_SHARDS", 2)
    few = from_nothing(many, tmp_path_factory.mktemp("few")).manifest.summary["sketch_agreement"]["sequences"]
    monkeypatch.setattr(influence_details, "COMPARED_SEQUENCES", 5)
    capped = from_nothing(many, tmp_path_factory.mktemp("capped")).manifest.summary["sketch_agreement"]["sequences"]
    assert everything > few > capped == 5


@dataclass
class Stored:
    """An artifact of scores, or of details, that is nowhere on a disk."""

    tables: dict
    manifest: object = None

    def table(self, name):
        return self.tables[name].lazy()


def scores_frame(rows):
    return pl.DataFrame(
        rows, schema={"query_id": pl.String, "sequence_id": pl.Int64, "influence_nats": pl.Float64}, orient="row"
    )


def brute_force(shards, count):
    """Each query's strongest, by sorting Python's own tuples."""
    found = set()
    for query in ("p", "q"):
        ranked = sorted((score, sequence) for rows in shards.values() for q, sequence, score in rows if q == query)
        found |= {(query, sequence) for _, sequence in ranked[:count] + (ranked[-count:] if count else [])}
    return found


@st.composite
def corpora(draw):
    """Two states of a corpus: {(shard, version): rows}, few different scores, so that many are equal."""
    number = 0
    versions = {}
    for shard in range(draw(st.integers(1, 5))):
        for version in range(2):
            rows = []
            for _ in range(draw(st.integers(0, 3))):
                number += 1
                rows += [(query, number, float(draw(st.integers(-2, 2)))) for query in ("p", "q")]
            versions[shard, version] = rows
    states = []
    for _ in range(2):
        present = [draw(st.sampled_from([None, 0, 1])) for _ in range(5)]
        states.append({key: versions[key] for key in versions if present[key[0]] == key[1]})
    return states, draw(st.integers(0, 3))


def key_of(shard, version):
    return ArtifactKey("influence_scores", f"set|shard-{shard}", f"v{version}")


@settings(max_examples=300)
@given(corpora())
@pytest.mark.slow
def test_a_ranking_from_an_earlier_one_is_the_brute_force_one(made):
    (before, after), count = made
    store = {key_of(*key): Stored({"influence_scores": scores_frame(rows)}) for key, rows in (before | after).items()}

    def work(shards):
        return SimpleNamespace(
            study=SimpleNamespace(scores=SimpleNamespace(details_per_query=count)),
            inputs=tuple(key_of(*key) for key in shards),
            workspace=SimpleNamespace(store=SimpleNamespace(open=store.__getitem__)),
        )

    first = strongest_pairs(work(before), None)
    manifest = SimpleNamespace(inputs=work(before).inputs)
    second = strongest_pairs(work(after), Earlier(Stored({"strongest": first}, manifest)))
    for found, shards in ((first, before), (second, after)):
        rows = found.select("query_id", "sequence_id").rows()
        assert len(rows) == len(set(rows))
        assert set(rows) == brute_force(shards, count)
        of_shard = {sequence: f"shard-{key[0]}" for key, rows in shards.items() for _, sequence, _ in rows}
        assert all(of_shard[sequence] == shard for sequence, shard in found.select("sequence_id", "shard_id").rows())


def test_equal_scores_are_ranked_the_same_in_whatever_order_they_come():
    rows = scores_frame([("q", 5, 1.0), ("q", 3, 1.0), ("q", 9, 1.0), ("q", 1, 1.0)])
    expected = [("q", 1, 1.0), ("q", 9, 1.0)]
    assert extremes(rows, 1).rows() == extremes(rows.reverse(), 1).rows() == expected


def test_only_pairs_of_the_same_tokens_are_kept():
    """Of the same shard, by the same artifact, and among the strongest before."""
    columns = {"query_id": pl.String, "sequence_id": pl.Int64, "shard_id": pl.String}
    before = pl.DataFrame([("q", 1, "same"), ("q", 2, "changed"), ("p", 3, "same")], schema=columns, orient="row")
    now = pl.DataFrame(
        [("q", 1, "same"), ("q", 2, "changed"), ("q", 3, "same"), ("q", 4, "new")], schema=columns, orient="row"
    )
    then = (ArtifactKey("token_sequences", "same", "v1"), ArtifactKey("token_sequences", "changed", "v1"))
    inputs = (then[0], ArtifactKey("token_sequences", "changed", "v2"), ArtifactKey("token_sequences", "new", "v1"))
    earlier = Earlier(Stored({"strongest": before}, SimpleNamespace(inputs=then)))
    assert unchanged(now, inputs, earlier).rows() == [("q", 1, "same")]
    assert unchanged(now, inputs, None).is_empty()
