"""Where memory is short, groups of layers are measured in passes of their own, with the same results."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig

from influence_assets.capture import layer_groups
from influence_assets.capture.layer_groups import Demand, LayerGroup, groups_within, resident_bytes, room_for_layers
from influence_assets.capture.layer_vectors import Vectors
from influence_assets.errors import InputError
from influence_assets.models.layers.selection import select_modules
from tests import cases, studies
from tests.closeness import assert_same_scores, assert_same_values, values_of
from tests.commanding import influence
from tests.studies import COAST, EXTRA, FIRST

PARTITIONS = {
    "gradient_sketches": {"shard": COAST},
    "drift_statistics": {"shard": EXTRA},
    "influence_scores": {"shard": EXTRA, "query_set": FIRST},
    "influence_details": {"query_set": FIRST},
    "curvature_drift": {},
}


@pytest.fixture
def layers():
    return select_modules(cases.gpt2(), "mlp")


def test_groups_are_as_few_as_fit_and_keep_the_order(layers):
    sizes = dict(zip((layer.name for layer in layers), (3, 4, 2, 5), strict=True))
    groups = layer_groups.layer_groups(layers, lambda layer: sizes[layer.name], 7)
    assert [[sizes[layer.name] for layer in group] for group in groups] == [[3, 4], [2, 5]]
    assert [layer for group in groups for layer in group] == list(layers)
    assert len(layer_groups.layer_groups(layers, lambda layer: sizes[layer.name], 14)) == 1


def test_a_layer_that_does_not_fit_alone_is_refused_with_what_to_do(layers):
    with pytest.raises(InputError) as raised:
        layer_groups.layer_groups(layers, lambda _layer: 8 * 10**9, 5 * 10**9)
    told = str(raised.value)
    assert "compute.memory_bytes" in told
    assert f"measuring {layers[0].name} " in told
    assert "alone takes 8.0 GB, and there are 5.0 GB for it" in told
    assert "curvature.blocks" in told


@pytest.mark.parametrize(
    ("memory_bytes", "room"), [(None, 8 * 10**9), (5 * 10**9, 3 * 10**9), (20 * 10**9, 8 * 10**9), (10**9, -(10**9))]
)
def test_the_room_is_what_the_study_allows_less_what_is_in_use(monkeypatch, memory_bytes, room):
    here = torch.device("cpu")
    assert resident_bytes() > 10**7
    monkeypatch.setattr(layer_groups, "resident_bytes", lambda: 2 * 10**9)
    monkeypatch.setattr(layer_groups, "available_memory", lambda: 8 * 10**9)
    assert room_for_layers(here, memory_bytes, 0) == room
    assert room_for_layers(here, memory_bytes, 4 * 10**7) == room - 4 * 10**7


def test_vectors_stay_in_memory_as_far_as_there_is_room_before_there_are_more_passes():
    """A layer takes 100 bytes beside two vectors of 8 × 33 or 32 × 9 numbers, each made of one outer product."""
    layers = select_modules(cases.gpt2(layers=6), "mlp")
    demand = Demand(lambda _layer: 100, [Vectors(2, 1)], batch_tokens=1000)
    least, most, made = (list(map(of, layers)) for of in (demand.least, demand.most, demand.made_bytes))
    assert all(low < high for low, high in zip(least, most, strict=True))

    def held(room):
        groups = groups_within(layers, demand, room)
        assert all(group.bytes <= room for group in groups)
        assert [layer for group in groups for layer in group.layers] == list(layers)
        return [len(group.held) for group in groups]

    assert held(sum(most)) == [len(layers)], "all of them, and none is made when it is used"
    barely = sum(least) + sum(set(made))
    assert held(barely) == [0], "of one layer of each shape at a time"
    assert held(barely + (most[0] - least[0]) // 2) == [0], "some room stays for pieces"
    assert held(8 * (barely + most[0] - least[0]) // 7 + 1) == [1]
    assert groups_within(layers, replace(demand, spare=50), barely + 50)[0].bytes == barely
    assert groups_within(layers, replace(demand, batch_tokens=0), barely)[0].held, (
        "making them takes longer than passes"
    )
    assert sum(held(max(most))) == len(layers), "there is no room to make any, but for those of each layer by itself"
    with pytest.raises(InputError, match="alone takes"):
        groups_within(layers, demand, min(most) - 1)


def test_vectors_that_are_stored_in_full_always_stay(layers):
    """A run with them never takes more memory or passes than if none could be made."""
    in_full = Demand(lambda _layer: 0, [Vectors(3, math.inf)], 8, batch_tokens=1000)
    assert list(map(in_full.least, layers)) == list(map(in_full.most, layers))
    alone = max(map(in_full.most, layers))
    for room in (alone, 2 * alone, 3 * alone):
        groups = groups_within(layers, in_full, room)
        assert len(groups) == len(layer_groups.layer_groups(layers, in_full.most, room))
        assert all(len(group.held) == len(group.layers) for group in groups)
    with pytest.raises(InputError, match="alone takes"):
        groups_within(layers, in_full, alone - 1)
    both = replace(in_full, vectors=[Vectors(3, {layer.name: (1, math.inf)[n % 2] for n, layer in enumerate(layers)})])
    (group,) = groups_within(layers, both, sum(map(both.least, layers)) + sum(map(both.made_bytes, layers[:1])))
    assert group.held == {layer.name for layer in layers[1::2]}
    assert Vectors(3, math.inf).operations(layers[0]) == Vectors(3, 1000).operations(layers[0]) == 0
    numbers = layers[0].output_width * layers[0].input_width
    assert Vectors(3, 2).operations(layers[0]) == 2 * 2 * 3 * numbers


@pytest.mark.parametrize(
    "curvature", [{}, pytest.param({"rank": 3}, marks=pytest.mark.slow), {"modules": "mlp+embedding", "blocks": 2}]
)
def test_layer_by_layer_and_with_vectors_made_when_they_are_used_every_pass_comes_to_the_same(
    curvature, tmp_path, monkeypatch
):
    studies_ = []
    for name in ("at once", "layer by layer"):
        study = studies.lay_out(tmp_path / name, curvature=curvature)
        studies.compute(study)
        studies.write_extra(study)
        studies.compute(study)
        studies_.append(study)
        monkeypatch.setattr(
            layer_groups,
            "groups_within",
            lambda layers, _demand, _room: [LayerGroup([one], frozenset(), 0) for one in layers],
        )
    once, by_layer = studies_
    assert_same_scores(studies.scores(by_layer), studies.scores(once))
    for asset, partition in PARTITIONS.items():
        one, other = (studies.artifact(study, asset, **partition) for study in (once, by_layer))
        assert one.key == other.key
        assert_same_values(values_of(other), values_of(one))


def test_a_study_that_cannot_fit_is_refused_by_the_plan_before_anything_runs(tmp_path):
    """Made of a configuration alone: 2 layers that are 4,096 and 14,336 wide."""
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=2, num_attention_heads=32, vocab_size=1000,
    )  # fmt: skip
    wide = {"dtype": "float32"}
    study = studies.lay_out(tmp_path, model=wide, compute={"device": "cpu", "memory_bytes": 8 * 10**9})
    config.save_pretrained(tmp_path / "model")
    ended = influence("plan", "--study", study)
    assert ended.code == 1
    assert "compute.memory_bytes: decomposing a factor of model.layers.0.mlp" in ended.error
    assert "(14,336 wide) takes 9.9 GB" in ended.error
    assert "curvature.rank" in ended.error
    assert "curvature.blocks" in ended.error
    for setting in ({"blocks": 4}, {"rank": 64}):
        smaller = {"curvature": setting, "compute": {"device": "cpu", "memory_bytes": 8 * 10**9}}
        ended = influence("plan", "--study", studies.write_study(tmp_path, model=wide, **smaller))
        assert ended.code == 0, ended.error
