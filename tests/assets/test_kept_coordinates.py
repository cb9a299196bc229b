"""The coordinates of sketches are those that were stored, whatever another machine would find the strongest."""

import shutil

import numpy as np
import pytest
import torch

from influence_assets.api import ask
from influence_assets.layouts import factors, sketches
from influence_assets.maths.sketches import Coordinates, strongest_coordinates
from tests import studies
from tests.studies import COAST, FIRST, SHARDS

COUNT = 64
QUESTION = ("The lamp turns once in", " ten seconds", 6)
STORED = ("coordinate_gaps", "coordinates_hash")


@pytest.fixture
def study(standing, tmp_path):
    return studies.copied(standing, tmp_path)


def layers_of(study):
    return dict(
        factors.StoredCurvature(
            studies.artifact(study, "eigenbases"), studies.artifact(study, "curvature"), torch.float64
        )
    )


def kept_by(study, shard):
    """Indices into all layers' gradients, one after the other."""
    gaps = studies.artifact(study, "gradient_sketches", shard=shard).array("coordinate_gaps")
    return np.cumsum(gaps.astype(np.int64))


def estimates(study, monkeypatch):
    """What `ask` estimates for every sequence from the sketches, by shard."""
    from influence_assets.api import asking

    found = {}
    real = asking._ranked
    with monkeypatch.context() as patch:
        patch.setattr(asking, "_ranked", lambda by_shard, top: found.update(by_shard) or real(by_shard, top))
        answer = ask(studies.versions_of(study), *QUESTION)
    return found, answer


def as_before_they_were_stored(study, shard):
    """Sketches as an earlier release wrote them."""
    good = studies.artifact(study, "gradient_sketches", shard=shard)
    scales, signs = good.array("scales"), np.concatenate([block.rows for block in good.mapped("signs").blocks()])
    store = studies.versions_of(study).workspace.store
    shutil.rmtree(good.folder)
    with store.write(good.key, inputs=good.manifest.inputs, code_version=good.manifest.code_version) as draft:
        draft.mappable_array("signs", signs.shape, "uint8").append(signs)
        draft.array("scales", scales)
        draft.summarise(**{name: value for name, value in good.manifest.summary.items() if name not in STORED})


def with_equal_curvature(study):
    """All coordinates equally strong, under the version of before, as if measured so when the sketches were made."""
    curvature = studies.artifact(study, "curvature")
    flat = {
        name: np.ones_like(curvature.array(name))
        for name in curvature.array_names()
        if name.endswith(".corrected_eigenvalues")
    }
    started = curvature.manifest.started_at
    studies.rewrite(study, "curvature", arrays=flat)
    return started


def test_they_are_the_strongest_by_a_plain_sort_when_they_are_stored(standing):
    energies = np.concatenate([(x.Λ / (x.Λ + x.λ)).flatten().numpy() for x in layers_of(standing).values()])
    expected = np.sort(np.argsort(-energies, kind="stable")[:COUNT])
    for shard in SHARDS:
        assert kept_by(standing, shard).tolist() == expected.tolist()


@pytest.mark.slow
def test_a_question_and_the_agreement_use_those_that_are_stored(study, monkeypatch):
    """Whatever would be drawn now: a tie may fall otherwise, or the curvature be computed again."""
    before, answer = estimates(study, monkeypatch)
    agreement = studies.artifact(study, "influence_details", query_set=FIRST).manifest.summary["sketch_agreement"]

    def weakest(layers, count):
        energies = np.concatenate([(x.Λ / (x.Λ + x.λ)).flatten().numpy() for x in layers.values()])
        everywhere = torch.from_numpy(np.sort(np.argsort(energies)[:count]))
        from influence_assets.maths.sketches import split_by_layer

        return Coordinates(split_by_layer(everywhere, {n: x.Λ.numel() for n, x in layers.items()}), 0.0)

    monkeypatch.setattr(sketches, "strongest_coordinates", weakest)
    after, again = estimates(study, monkeypatch)
    assert before.keys() == after.keys() == set(SHARDS)
    for shard in SHARDS:
        np.testing.assert_array_equal(after[shard], before[shard])
    assert [p.sequence_id for p in again.passages] == [p.sequence_id for p in answer.passages]
    details = studies.artifact(study, "influence_details", query_set=FIRST)
    shutil.rmtree(details.folder)
    studies.compute(study)
    computed = studies.artifact(study, "influence_details", query_set=FIRST).manifest.summary["sketch_agreement"]
    assert computed == agreement is not None


@pytest.mark.slow
def test_earlier_sketches_are_used_as_long_as_it_is_certain_what_they_keep(study, monkeypatch):
    before, _ = estimates(study, monkeypatch)
    for shard in SHARDS:
        as_before_they_were_stored(study, shard)
    after, answer = estimates(study, monkeypatch)
    for shard in SHARDS:
        np.testing.assert_array_equal(after[shard], before[shard])
    assert answer.unsketched_shards == []
    assert studies.compute(study) == []


@pytest.mark.slow
@pytest.mark.parametrize("doubt", ["several were equally strong", "the curvature was computed again"])
def test_earlier_sketches_of_which_it_is_not_certain_are_computed_again_once(study, monkeypatch, doubt):
    if doubt == "several were equally strong":
        with_equal_curvature(study)
        as_before_they_were_stored(study, COAST)  # after the curvature
    else:
        as_before_they_were_stored(study, COAST)
        studies.rewrite(study, "curvature")
    _, answer = estimates(study, monkeypatch)
    assert answer.unsketched_shards == [COAST]
    assert studies.compute(study) == [f"gradient_sketches[{COAST}]"]
    assert kept_by(study, COAST).tolist() == _first_of_equal(study)
    _, answer = estimates(study, monkeypatch)
    assert answer.unsketched_shards == []
    assert studies.compute(study) == []


def _first_of_equal(study):
    kept, start = [], 0
    layers = layers_of(study)
    drawn = strongest_coordinates(layers, COUNT).kept
    for name, layer in layers.items():
        kept += (drawn[name] + start).tolist()
        start += layer.Λ.numel()
    return kept
