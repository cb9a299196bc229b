"""What `influence plan` estimates, against torch's count of what then really runs and the bytes that it writes."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from influence_assets.assets import open_workspace
from influence_assets.assets.shared_pass import SHARD_PASS
from influence_assets.assets.study_sizes import BYTES_A_TOKEN, StudySizes
from influence_assets.engine.partitions import Partition
from influence_assets.engine.plan import plan
from influence_assets.engine.versions import Versions
from influence_assets.forecast.estimates import estimates
from influence_assets.forecast.groups import cost_of, groups_of
from influence_assets.study import Study
from tests import studies
from tests.counting import LEFT_OUT_BY_TORCH

MEASURED = ("covariances", "corrected_eigenvalues", "query_gradients", "gradient_sketches", "influence_scores")


def by_name(study):
    return {stage.asset.name: stage for stage in estimates(StudySizes(studies.versions_of(study)))}


def counted(function):
    with FlopCounterMode(display=False, custom_mapping=LEFT_OUT_BY_TORCH) as counter:
        result = function()
    return counter.get_total_flops(), result


@pytest.fixture
def study(tmp_path):
    return studies.lay_out(tmp_path)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A study of a model that is wide enough for its arrays to outweigh what is written about them."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"sketches": {"coordinates": 4096}, "compute": {"batch_sequences": 4}}
    study = studies.lay_out(folder, model={"dtype": "float32"}, **sizes)
    vocabulary = studies.tokenizer().get_vocab_size()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=studies.CONTEXT, n_embd=64, n_layer=2, n_head=2, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder / "model")
    studies.compute(study, until="token_sequences")
    before = by_name(study)
    done = {}
    for step in MEASURED:
        done[step], _ = counted(lambda step=step: studies.compute(study, until=step))
    studies.compute(study)
    return study, before, done, by_name(study)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["covariances", "query_gradients"])
def test_operations_are_those_that_run(wide, step):
    """What the estimate leaves out: batches that are not full, and trying out the head (16 tokens a partition).

    In the last block a prompt has no gradient, which is half of this model, and little of a large one.
    """
    study, before, done, _ = wide
    shape = StudySizes(studies.versions_of(study)).shape
    tried = before[step].partitions * 16 * shape.forward / shape.tokens
    without_gradient = 0
    if step == "query_gradients":
        rows = studies.ask_sql(study, "select sum(prompt_tokens - 1)::bigint from queries").item()
        without_gradient = sum(layer.outer_products(rows) for layer in shape.layers[2:])
    assert done[step] - tried == pytest.approx(before[step].operations - without_gradient, rel=0.15)


@pytest.mark.slow
def test_operations_of_corrected_eigenvalues_are_those_that_run(wide):
    """Merging and decomposing lie between, of which torch counts nothing."""
    _, before, done, _ = wide
    assert done["corrected_eigenvalues"] == pytest.approx(before["corrected_eigenvalues"].operations, rel=0.15)


@pytest.mark.slow
def test_sketches_and_scores_are_one_pass(wide):
    _, before, done, _ = wide
    sharing = ("gradient_sketches", *studies.SCORES)  # the first of them computes all
    expected = sum(before[step].operations for step in sharing)
    assert done["gradient_sketches"] + done["influence_scores"] == pytest.approx(expected, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", ["eigenbases", "corrected_eigenvalues", "curvature", "query_gradients", "gradient_sketches"]
)
def test_bytes_are_those_that_are_written(wide, step):
    """Floats hardly compress, but those of float64 that were made of float32; every array and table has a head."""
    _, before, _, after = wide
    assert after[step].measured.bytes == pytest.approx(before[step].bytes, rel=0.4, abs=6000)


def test_before_anything_is_there_everything_is_outstanding_and_estimated_from_bytes(study):
    sizes = StudySizes(studies.versions_of(study))
    assert sizes.is_about
    coast = (study.parent / "corpus" / studies.COAST).stat().st_size
    assert sizes.sequences(studies.COAST) == round(coast / BYTES_A_TOKEN / studies.LENGTH)
    for stage in estimates(sizes):
        assert (stage.outstanding, stage.measured) == (stage.partitions, None)
        assert not stage.is_calibrated
        if stage.asset.name in MEASURED:
            assert stage.operations > 0
            assert stage.seconds > 0
            assert stage.bytes > 0
            assert stage.peak_memory_bytes > 2**20


def test_a_model_that_is_not_trained_yet_has_the_shapes_of_its_settings(tmp_path):
    training = {"layers": 3, "width": 16, "heads": 2, "vocabulary": 300, "epochs": 5}
    study = studies.lay_out(tmp_path, model={"path": None, "train": training, "dtype": "float32"})
    sizes = StudySizes(studies.versions_of(study))
    norms, weights, biases = 4 * 16, 12 * 16**2, 9 * 16
    embeddings = (300 + studies.LENGTH) * 16
    assert sizes.shape.parameters == 3 * (norms + weights + biases) + embeddings + 2 * 16
    assert [layer.name for layer in sizes.shape.layers if "mlp" not in layer.name] == ["transformer.wte"]
    assert len(sizes.shape.layers) == 1 + 6
    stage = by_name(study)["language_model"]
    assert stage.operations == 5 * sizes.all_sequences() * 3 * (sizes.shape.forward + sizes.shape.head)


@pytest.mark.slow
def test_what_stands_is_measured_and_costs_nothing_more(wide):
    _, _, _, after = wide
    for name, stage in after.items():
        assert (stage.outstanding, stage.operations) == (0, 0), name
        assert stage.measured.partitions == stage.partitions
        assert stage.measured.peak_memory_bytes > 2**20


@pytest.mark.slow
def test_a_new_shard_is_one_pass_and_its_time_follows_what_was_measured(study):
    studies.compute(study)
    seen = by_name(study)
    studies.write_extra(study)
    stages, sizes = by_name(study), StudySizes(studies.versions_of(study))
    outstanding, standing = groups_of(sizes, list(plan(sizes.versions)))
    (together,) = outstanding[studies.EXTRA]
    assert [step.name for step, _ in together] == [
        "drift_statistics",
        "gradient_sketches",
        *["influence_scores"] * 2,
        *["method_scores"] * 2,
    ]
    assert [len(group) for group in standing[studies.COAST]] == [1, 5]
    of_pass = sum(stages[step].operations for step in {step.name for step, _ in together})
    assert of_pass == pytest.approx(SHARD_PASS.operations(sizes, studies.EXTRA, together))
    shape, sequences = sizes.shape, sizes.sequences(studies.EXTRA)
    assert of_pass > sequences * shape.passes(2)
    assert stages["gradient_sketches"].is_calibrated
    before = cost_of(sizes, stages["gradient_sketches"].asset, sizes_of(study, "gradient_sketches"), standing)
    expected = seen["gradient_sketches"].measured.seconds * stages["gradient_sketches"].operations / before.operations
    assert math.isclose(stages["gradient_sketches"].seconds, expected)


def sizes_of(study, name):
    versions = studies.versions_of(study)
    state = next(state for state in plan(versions) if state.asset.name == name)
    return [partition.partition for partition in state.of("standing")]


def test_fewer_fitted_sequences_cost_less_and_are_passes_of_their_own(tmp_path):
    whole = by_name(studies.lay_out(tmp_path / "whole"))["covariances"]
    study = studies.lay_out(tmp_path / "few", curvature={"fit_sequences": 2})
    sizes = StudySizes(studies.versions_of(study))
    few = by_name(study)["covariances"]
    each = {shard: sizes.sequences(shard) for shard in studies.SHARDS}
    assert few.operations * sum(each.values()) == pytest.approx(whole.operations * 2)


def test_models_that_are_trained_again_take_as_long_for_their_operations_as_the_studys_own_did(tmp_path):
    trained = {"layers": 1, "width": 16, "heads": 2, "vocabulary": 280, "epochs": 2, "batch_sequences": 2}
    evaluation = {"subsets": 4, "seeds": 1, "share": 0.25}
    study = studies.lay_out(
        tmp_path, model={"path": None, "train": trained, "dtype": "float32"}, evaluation=evaluation,
        sequences={"length": 32},
    )  # fmt: skip
    models = {"retrained_models": [Partition(name=name) for name in Study.load(study).evaluation.retrainings()]}

    def stages():
        versions = Versions(open_workspace(Study.load(study), models))
        return {stage.asset.name: stage for stage in estimates(StudySizes(versions))}

    assert not stages()["retrained_models"].is_calibrated
    studies.compute(study, until="language_model")
    own, again = (stages()[name] for name in ("language_model", "retrained_models"))
    assert again.is_calibrated
    assert math.isclose(again.seconds, 4 * 0.25 * min(own.measured.seconds, own.measured.cpu_seconds))
