"""A torn chunk, a flipped bit, a file cut off: never used in silence, named by `verify`, and mended by a run.

What is mended holds what it held, so that nothing that depends on it is computed again.
"""

import os

import pytest

from influence_assets.storage.artifacts import file_checks as files
from tests.closeness import assert_same_values, values_of
from tests.faults import changing, comparison, working
from tests.faults.changing import FILES
from tests.studies import write_jsonl, write_study
from tests.tiers import slow_but

ONE = FILES[0]
PLACES = {
    "a text": (f"documents[{ONE}]", "documents.parquet", "flip"),
    "a table that is cut off": (f"token_sequences[{ONE}]", "sequences.parquet", "cut"),
    "tokens": (f"token_sequences[{ONE}]", "arrays/tokens/c/**/*", "flip"),
    "a torn chunk": (f"token_sequences[{ONE}]", "arrays/tokens/c/**/*", "cut"),
    "a chunk of zeros": (f"token_sequences[{ONE}]", "arrays/lengths/c/**/*", "zero"),
    "a chunk that is gone": (f"token_sequences[{ONE}]", "arrays/tokens/c/**/*", "remove"),
    "eigenbases": ("eigenbases", "arrays/*/c/**/*", "flip"),
    "the shape of an array": ("eigenbases", "arrays/*/zarr.json", "flip"),
    "corrected eigenvalues": ("corrected_eigenvalues", "arrays/*/c/**/*", "flip"),
    "curvature": ("curvature", "arrays/*/c/**/*", "flip"),
    "a question": ("query_gradients[first.jsonl]", "queries.parquet", "flip"),
    "a question's gradient": ("query_gradients[first.jsonl]", "arrays/*/c/**/*", "flip"),
    "signs of a sketch": (f"gradient_sketches[{ONE}]", "arrays/signs/c/**/*", "flip"),
    "scores": (f"influence_scores[first.jsonl|{ONE}]", "influence_scores.parquet", "flip"),
    "the tokenizer": ("language_model", "tokenizer*/*", "flip"),
    "a manifest": (f"token_sequences[{ONE}]", "manifest.json", "flip"),
    "the manifest of a generation": ("eigenbases", "manifest.json", "cut"),
}  # fmt: skip
NOT_READ = {
    "a text", "a table that is cut off", "a manifest", "corrected eigenvalues", "scores",
    "a question's gradient", "signs of a sketch",
}  # fmt: skip
"""What nobody reads once what is made of it stands; `verify` does."""
TRAINING = {"layers": 1, "width": 8, "heads": 2, "vocabulary": 290, "epochs": 3, "batch_sequences": 2}
QUESTION = {"query_id": "bell", "prompt": "The bell", "completion": " rings at noon"}
ASKED = {
    *(f"{asset}[second.jsonl]" for asset in ("query_gradients", "method_vectors", "query_states", "bm25_scores")),
    *(
        f"{asset}[second.jsonl|{shard}]"
        for asset in ("influence_scores", "method_scores", "repsim_scores")
        for shard in FILES[:2]
    ),
    "influence_details[second.jsonl]",
    "influence_catalogue",
}
"""What a further question asks for. It reads the model, the generation and every shard."""


def damage(path, how):
    """As a disk does it: the file's times stay what they were."""
    before, content = path.stat(), path.read_bytes()
    middle = len(content) // 2
    if how == "remove":
        path.unlink()
        return
    changed = {
        "flip": content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :],
        "cut": content[:middle],
        "zero": bytes(len(content)),
    }[how]
    path.write_bytes(changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def artifacts(study):
    """What every artifact holds, file by file, by `asset[partition]`, with its place."""
    store = comparison.workspace(study).store
    return {
        f"{m.asset}[{m.partition}]" if m.partition else m.asset: (store.place(m.key), m.files)
        for m in store.manifests()
    }


def contents(study):
    return {name: held for name, (_, held) in artifacts(study).items()}


def values(study, name):
    """What the artifact of a partition holds, as numbers."""
    store = comparison.workspace(study).store
    (manifest,) = (m for m in store.manifests() if name == (f"{m.asset}[{m.partition}]" if m.partition else m.asset))
    return values_of(store.open(manifest.key))


@pytest.fixture
def spoil(ground, corpus):
    """Damages a place of PLACES, and returns the partition that it belongs to."""

    def spoil(what):
        name, pattern, how = PLACES[what]
        place, _ = artifacts(ground.study)[name]
        found = [path for path in sorted(place.glob(pattern)) if path.is_file()]
        damage(found[0], how)
        return name

    return spoil


@pytest.mark.parametrize("what", slow_but(of=PLACES, slow=("a text", "a torn chunk", "a manifest")))
def test_verify_names_it_and_a_run_mends_it_alone(ground, spoil, what):
    before, rows = contents(ground.study), comparison.rows(ground.study)
    whole = values(ground.study, PLACES[what][0])
    name = spoil(what)
    (trouble,) = working.look(ground.study)
    assert trouble.what.split(" @ ")[0] == name or "manifest" in what
    ran = working.run(ground.study)
    assert ran.computed == [name]
    assert not ran.failures
    assert working.look(ground.study) == []
    assert working.run(ground.study).computed == []
    mended = contents(ground.study)
    assert mended.keys() == before.keys()
    assert {key: mended[key] for key in before if key != name} == {key: before[key] for key in before if key != name}
    assert_same_values(values(ground.study, name), whole)
    comparison.assert_equal_tables(comparison.rows(ground.study), rows)


@pytest.fixture(scope="module")
def answered(ground):
    """Every table once a further question is answered, where nothing is damaged."""
    ground.begin()
    assert set(ask(ground).computed) == ASKED
    return comparison.rows(ground.study)


def ask(ground):
    write_jsonl(ground.folder / "queries" / "second.jsonl", [QUESTION])
    return working.run(ground.study)


@pytest.mark.parametrize(
    "what", slow_but("tokens", of=[what for what in PLACES if what not in NOT_READ], slow=("eigenbases", "a question"))
)
def test_a_run_that_reads_it_mends_it_by_itself(ground, answered, spoil, what):
    name = spoil(what)
    ran = ask(ground)
    assert not ran.failures
    assert not ran.left_out
    # What the eigenvectors are made of is not kept.
    assert set(ran.computed) == ASKED | {name} | ({"covariances"} if name == "eigenbases" else set())
    comparison.assert_equal_tables(comparison.rows(ground.study), answered)


@pytest.mark.parametrize("what", slow_but("a text", of=["the tokenizer", "a text"]))
def test_without_checksums_it_would_pass_for_what_was_written(ground, spoil, what, monkeypatch):
    spoil(what)
    monkeypatch.setattr(files, "sha256_of", lambda _path: "")
    monkeypatch.setattr(files, "damage_of", lambda _path, _record, **_: None)
    assert working.look(ground.study) == []


@pytest.mark.parametrize("finds_it", slow_but("verify", of=["verify", "a question"], slow=()))
@pytest.mark.slow
def test_a_trained_models_weights_are_trained_again_to_what_they_were(tmp_path, finds_it):
    """Nothing else is computed again: the same training gives the same weights."""
    study = changing.lay_out(tmp_path)
    study = write_study(
        study.parent,
        model={"path": None, "train": TRAINING, "dtype": "float32"},
        sequences={"length": changing.LENGTH},
        scores={"details_per_query": 1},
        sketches={"coordinates": 16},
    )
    assert not working.run(study).failures
    before = contents(study)
    place, _ = artifacts(study)["language_model"]
    (weights,) = place.glob("model/*.safetensors")
    damage(weights, "flip")
    if finds_it == "verify":
        (trouble,) = working.look(study)
        assert trouble.what.startswith("language_model @ ")
        assert working.run(study).computed == ["language_model"]
    else:
        write_jsonl(tmp_path / "queries" / "second.jsonl", [QUESTION])
        assert set(working.run(study).computed) == ASKED | {"language_model"}
    after = contents(study)
    assert {name: after[name] for name in before.keys() - ASKED} == {n: before[n] for n in before.keys() - ASKED}
    assert working.look(study) == []
