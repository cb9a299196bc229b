"""Whole studies with curvature of low rank, against the studies that they must agree with and a dense inverse."""

from functools import lru_cache

import numpy as np
import polars as pl
import pytest
import torch

from influence_assets.api.asking import ask
from influence_assets.assets import asset_graph
from influence_assets.capture.batches import Sequences
from influence_assets.capture.covariance import covariances
from influence_assets.errors import InputError
from influence_assets.layouts.model import load_model, runner
from influence_assets.layouts.sequences import shard_sequences
from influence_assets.maths import range_finder
from influence_assets.models.layers.selection import select_modules
from tests import studies
from tests.oracles import gradients as oracle

FULL = 1000
FISHER = {"fisher": "empirical"}


def computed(folder, rank, **settings):
    curvature = FISHER if rank is None else FISHER | {"rank": rank}
    study = studies.lay_out(folder, architecture="gpt2", curvature=curvature, **settings)
    assert set(studies.compute(study)) == studies.everything()
    return study


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return computed(tmp_path_factory.mktemp("whole"), None, methods=["ekfac", "gradient_dot"])


@pytest.fixture(scope="module")
def low(tmp_path_factory):
    return computed(tmp_path_factory.mktemp("low"), 3)


def relative(found, expected):
    keys = sorted(expected)
    a, b = (np.array([scores[key] for key in keys]) for scores in (found, expected))
    assert set(found) == set(expected)
    return float(np.abs(a - b).max() / np.abs(b).max())


def stored(study):
    return {name: studies.artifact(study, name) for name in ("eigenbases", "curvature", "corrected_eigenvalues")}


def test_of_full_rank_it_is_ekfac(whole, tmp_path):
    study = computed(tmp_path, FULL)
    assert relative(studies.scores(study), studies.scores(whole)) < 1e-10
    sketches = [studies.artifact(each, "gradient_sketches", shard=studies.COAST) for each in (whole, study)]
    assert len({artifact.manifest.summary["coordinates"] for artifact in sketches}) == 1
    for each in ("expected_energy", "agreement"):
        ours, theirs = (artifact.manifest.summary[each] for artifact in sketches)
        assert ours == pytest.approx(theirs, rel=1e-3)
    answers = [ask(studies.versions_of(each), "The lamp", " turns", 5) for each in (whole, study)]
    ours, theirs = ([(p.sequence_id, p.influence_nats) for p in answer.passages] for answer in answers)
    assert [key for key, _ in ours] == [key for key, _ in theirs]
    assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], rel=1e-8)
    for table in ("layer_influence", "token_influence"):
        sums = [
            studies.ask_sql(each, f"select sum(influence_nats), sum(abs(influence_nats)) from {table}").row(0)
            for each in (whole, study)
        ]
        assert sums[0] == pytest.approx(sums[1], rel=1e-7)


def test_of_rank_zero_it_is_the_product_of_gradients_scaled_layer_by_layer(tmp_path):
    study = computed(tmp_path, 0)
    with pytest.raises(InputError, match="Set a higher one"):
        ask(studies.versions_of(study), "The lamp", " turns", 2)
    found = stored(study)
    assert oracle_error(study, found) < 1e-10
    λ = found["curvature"].manifest.summary["damping"]
    for layer in λ:
        (σ,) = found["curvature"].array(f"{layer}.corrected_eigenvalues").flatten()
        assert λ[layer] == pytest.approx(0.1 * σ)
    assert studies.artifact(study, "gradient_sketches", shard=studies.COAST).manifest.summary["coordinates"] == 0


def test_scores_are_those_of_a_dense_inverse(low):
    assert oracle_error(low, stored(low)) < 1e-9


def test_what_is_stored_is_small_and_passes_its_checks(low):
    found = stored(low)
    layer = "transformer.h.1.mlp.c_fc"
    assert found["eigenbases"].array(f"{layer}.U_A").shape == (9, 3)
    assert found["eigenbases"].array(f"{layer}.U_S").shape == (32, 3)
    assert found["curvature"].array(f"{layer}.corrected_eigenvalues").shape == (4, 4)
    assert not [name for name in found["eigenbases"].array_names() if ".Q_" in name]
    open_input = studies.versions_of(low).workspace.store.open
    for name, artifact in found.items():
        findings = dict(asset_graph()[name].checks.findings(artifact, open_input)) if asset_graph()[name].checks else {}
        assert all(finding.passed for finding in findings.values())
    page = asset_graph()["curvature"].shown(found["curvature"])
    assert page


def test_a_split_over_layers_and_tokens_adds_up(low):
    for table in ("layer_influence", "token_influence"):
        worst = studies.ask_sql(
            low,
            "select max(abs(total - influence_nats)) / max(abs(influence_nats)) from ("
            f"select query_id, sequence_id, sum(influence_nats) as total from {table} group by all) "
            "join current_scores using (query_id, sequence_id)",
        ).item()
        assert worst < 1e-10


def test_a_new_shard_alone_is_computed_and_its_drift_is_that_of_dense_matrices(low):
    drifts = studies.artifact(low, "curvature_drift").table("layer_drift").collect()
    assert drifts["drift"].max() < 1e-10  # these factors are narrow, so that their eigenvectors are exact
    before = studies.scores(low)
    studies.write_extra(low)
    assert set(studies.compute(low)) == studies.of_shard(studies.EXTRA)
    after = studies.scores(low)
    assert {key: after[key] for key in before} == before
    found = studies.artifact(low, "curvature_drift").table("layer_drift").collect()
    assert oracle_error(low, stored(low), studies.EXTRA) < 1e-9
    for row in found.iter_rows(named=True):
        if row["measure"] in "AS":
            assert row["drift"] == pytest.approx(dense_drift(low, row["module_name"], row["measure"]), rel=1e-6)
    assert found["drift"].is_between(1e-9, 2).all()


@pytest.mark.parametrize(
    ("architecture", "dtype", "tolerance"),
    [
        pytest.param("gpt2", "float32", 1e-4, marks=pytest.mark.slow),
        pytest.param("gpt2", "bfloat16", 0.1, marks=pytest.mark.slow),
        pytest.param("mixtral", "float64", 1e-9, marks=pytest.mark.slow),
    ],
)
def test_sketched_factors_and_sampled_labels(architecture, dtype, tolerance, tmp_path, monkeypatch):
    """Scores are those of a dense inverse with whatever subspace was found; parts of sequences sum to them."""
    monkeypatch.setattr(range_finder, "OVERSAMPLING", (1, 2))
    study = studies.lay_out(
        tmp_path, architecture=architecture, model={"dtype": dtype}, curvature={"rank": 3},
        methods=["ekfac", "gradient_dot"],
    )  # fmt: skip
    assert set(studies.compute(study)) == studies.everything()
    found = stored(study)
    layer = next(iter(found["eigenbases"].manifest.summary["shapes"]))
    assert found["eigenbases"].array(f"{layer}.U_S").dtype == np.float64
    assert oracle_error(study, found) < tolerance
    artifact = studies.artifact(study, "influence_scores", shard=studies.COAST, query_set=studies.FIRST)
    whole, parts = (artifact.table(name).collect() for name in ("influence_scores", "part_scores"))
    sums = parts.group_by("query_id", "sequence_id").agg(total=pl.sum("influence_nats"))
    both = sums.join(whole, on=["query_id", "sequence_id"])
    assert len(both) == len(sums) > 0
    assert (both["total"] - both["influence_nats"]).abs().max() <= max(1e-9, tolerance) * whole[
        "influence_nats"
    ].abs().max()
    drifts = studies.artifact(study, "curvature_drift").table("layer_drift").collect()
    assert drifts["drift"].max() < max(1e-9, tolerance / 10), "sketched eigenvectors are no drift"
    assert ask(studies.versions_of(study), "The lamp", " turns", 2).passages


def dense_drift(study, layer, letter):
    """Off the diagonal inside of the subspace, or energy that moved into or out of it: whichever is larger."""
    M = {shard: moments(study, shard)[layer][letter] for shard in (*studies.SHARDS, studies.EXTRA)}
    U = studies.artifact(study, "eigenbases").array(f"{layer}.U_{letter}")

    def outside(total):
        return 1 - np.trace(U.T @ total @ U) / np.trace(total)

    fitted, now = sum(M[shard] for shard in studies.SHARDS), sum(M.values())
    inside = U.T @ now @ U
    off = inside - np.diag(np.diag(inside))
    return max((off**2).sum() / (inside**2).sum(), abs(outside(now) - outside(fitted)))


@lru_cache
def moments(study, shard):
    """Σ a aᵀ and Σ Ds Dsᵀ of each layer over a shard's positions with a loss, in full."""
    sequences = shard_sequences(studies.artifact(study, "token_sequences", shard=shard)).with_loss()
    loaded_runner = runner(studies.versions_of(study).workspace, studies.artifact(study, "language_model"), silent)
    found = covariances(loaded_runner, sequences, None)
    return {name: {"A": each.A.total.numpy(), "S": each.S.total.numpy()} for name, each in found.items()}


def silent(*_):
    """Report no progress."""


def loaded(study):
    workspace = studies.versions_of(study).workspace
    weights = studies.artifact(study, "language_model").manifest.summary["weights_hash"]
    return load_model(workspace, workspace.model_folder, weights)


def oracle_error(study, found, shard=studies.COAST):
    """The largest difference from −∇fᵀ(G+λ)⁻¹∇L/N with a dense G, relative to the largest score."""
    model = loaded(study)
    sequences = shard_sequences(studies.artifact(study, "token_sequences", shard=shard))
    G, _ = oracle.gradients(model, select_modules(model, "mlp"), sequences, sign=-1)
    row, tokenizer = studies.SECOND_ROWS[0], studies.tokenizer()
    ids = [tokenizer.encode(row[part]).ids for part in ("prompt", "completion")]
    tokens = np.array([ids[0] + ids[1]], np.int32)
    question = Sequences(tokens, np.array([tokens.shape[1]]), np.array([0]), np.array([len(ids[0])]))
    V, _ = oracle.gradients(model, select_modules(model, "mlp"), question, sign=+1)
    total = torch.zeros(len(sequences), dtype=torch.float64)
    λ = found["curvature"].manifest.summary["damping"]
    for name in V:
        sides = [whole_basis(found["eigenbases"].array(f"{name}.U_{side}")) for side in "SA"]
        kept = [found["eigenbases"].array(f"{name}.U_{side}").shape[1] for side in "SA"]
        bordered = torch.from_numpy(found["curvature"].array(f"{name}.corrected_eigenvalues")).double()
        rows, columns = (torch.arange(len(Q)).clamp(max=r) for Q, r in zip(sides, kept, strict=True))
        Λ = bordered[rows][:, columns].flatten()
        Q = torch.kron(*sides)
        if bool(Λ.any()):  # not an expert that no token reaches
            assert λ[name] == pytest.approx(0.1 * float(Λ.mean()), rel=1e-5)
        damped = Q @ torch.diag(Λ + λ[name]) @ Q.T
        total -= G[name].double().flatten(1) @ torch.linalg.solve(damped, V[name].double().flatten())
    expected = total.numpy() / int(found["curvature"].manifest.summary["training_sequences"])
    scores = studies.artifact(study, "influence_scores", shard=shard, query_set=studies.SECOND)
    frame = scores.table("influence_scores").collect()
    mine = dict(frame.select("sequence_id", "influence_nats").iter_rows())
    return relative(mine, dict(zip(sequences.keys.tolist(), expected.tolist(), strict=True)))


def whole_basis(U):
    """U and any orthonormal columns of the rest."""
    U = torch.from_numpy(U)
    rest = torch.linalg.svd(torch.eye(len(U), dtype=torch.float64) - U @ U.T).U[:, : len(U) - U.shape[1]]
    return torch.cat([U, rest], dim=1)
