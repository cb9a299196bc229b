"""Models of other families from folder to SQL, all their linear layers attributed."""

import math

import numpy as np
import pytest
import torch

from influence_assets.assets import asset_graph
from influence_assets.capture.batches import Sequences
from influence_assets.layouts.model import load_model
from influence_assets.layouts.sequences import shard_sequences
from influence_assets.models import loading
from influence_assets.models.layers.selection import select_modules
from tests import studies
from tests.oracles import gradients as oracle
from tests.tiers import slow_rows_but

LAYERS = {
    "llama": {
        *(f"model.layers.{block}.self_attn.{part}_proj" for block in (0, 1) for part in "qkvo"),
        *(f"model.layers.{block}.mlp.{part}_proj" for block in (0, 1) for part in ("gate", "up", "down")),
    },
    "neox": {
        f"gpt_neox.layers.{block}.{part}"
        for block in (0, 1)
        for part in ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    },
    "mixtral": {
        *(f"model.layers.{block}.self_attn.{part}_proj" for block in (0, 1) for part in "qkvo"),
        *(
            f"model.layers.{block}.mlp.experts.{expert}.{part}"
            for block in (0, 1)
            for expert in range(5)
            for part in ("gate_up_proj", "down_proj")
        ),
    },
}


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    slow_rows_but(
        slow=[("llama", "bfloat16"), ("neox", "float64"), ("mixtral", "float32")],
        of=[
            *(("llama", "float64"), ("llama", "bfloat16"), ("neox", "float64"), ("neox", "float32")),
            *(("mixtral", "float64"), ("mixtral", "float32"), ("mixtral", "bfloat16")),
        ],
    ),
)
def test_a_study_of_another_family_ends_in_sql(tmp_path, architecture, dtype):
    study = studies.lay_out(
        tmp_path, architecture=architecture, curvature={"modules": "linear"}, model={"dtype": dtype}
    )
    assert set(studies.compute(study)) == studies.everything()
    assert set(studies.ask_sql(study, "select module_name from modules")["module_name"]) == LAYERS[architecture]
    scores = studies.scores(study)
    sequences = studies.ask_sql(study, "select count(*) from sequences").item()
    assert len(scores) == 3 * sequences
    assert all(map(math.isfinite, scores.values()))
    assert len(set(scores.values())) > 0.9 * len(scores)
    layers = studies.ask_sql(
        study,
        "select max(abs(total - influence_nats)) / max(abs(influence_nats)) from ("
        "select query_id, sequence_id, sum(influence_nats) as total from layer_influence group by all) "
        "join current_scores using (query_id, sequence_id)",
    ).item()
    assert layers < {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.05}[dtype]


@pytest.mark.slow
def test_an_expert_that_no_token_reaches_has_no_influence(tmp_path):
    """A study with one is computed, with a damping of the other layers' size for it; all others have influence."""
    study = studies.lay_out(tmp_path, architecture="mixtral", model={"dtype": "float64"})
    studies.compute(study)
    modules = studies.ask_sql(study, "select module_name, mean_eigenvalue, damping from modules").rows()
    unreached = {name for name, mean, _ in modules if mean == 0}
    assert unreached == {name for name in LAYERS["mixtral"] if ".experts.4." in name}
    others = [damping for name, _, damping in modules if name not in unreached]
    theirs = [damping for name, _, damping in modules if name in unreached]
    assert theirs == pytest.approx([np.mean(others)] * len(unreached))
    moved = studies.ask_sql(
        study, "select module_name, max(abs(influence_nats)) from layer_influence group by all"
    ).rows()
    assert {name for name, most in moved if most == 0} == unreached


@pytest.mark.slow
def test_a_study_with_factors_in_blocks(tmp_path):
    """Its scores are those of a dense inverse with the blocks that it stored, to a new shard and its drift."""
    study = studies.lay_out(tmp_path, architecture="gpt2", curvature={"blocks": 2, "fisher": "empirical"})
    assert set(studies.compute(study)) == studies.everything()
    stored = {name: studies.artifact(study, name) for name in ("eigenbases", "curvature")}
    layer = "transformer.h.1.mlp.c_fc"
    shapes = [stored["eigenbases"].array(f"{layer}.block{i}.Q_{side}").shape for side in "AS" for i in (0, 1)]
    assert shapes == [(5, 5), (4, 4), (16, 16), (16, 16)]
    assert not {f"{layer}.Q_A", f"{layer}.Q_S"} & set(stored["eigenbases"].array_names())
    assert oracle_error(study, stored) < 1e-9
    open_input = studies.versions_of(study).workspace.store.open
    findings = dict(asset_graph()["eigenbases"].checks.findings(stored["eigenbases"], open_input))
    assert findings
    assert all(finding.passed for finding in findings.values())
    before = studies.data_versions(study)
    studies.write_extra(study)
    assert set(studies.compute(study)) == studies.of_shard(studies.EXTRA)
    drifts = studies.artifact(study, "curvature_drift").table("layer_drift").collect()["drift"]
    assert drifts.is_between(1e-6, 1).all()
    studies.write_study(study.parent, curvature={"blocks": 1, "fisher": "empirical"})
    changed = {name for name, version in studies.data_versions(study).items() if version != before.get(name)}
    assert "covariances" in changed
    assert not {f"token_sequences[{shard}]" for shard in studies.SHARDS} & changed


def oracle_error(study, stored):
    """The largest difference from −∇fᵀ(QΛQᵀ+λ)⁻¹∇L/N, relative to the largest score, of one query set and shard."""
    workspace = studies.versions_of(study).workspace
    weights = studies.artifact(study, "language_model").manifest.summary["weights_hash"]
    model = load_model(workspace, workspace.model_folder, weights)
    modules = select_modules(model, "mlp")
    sequences = shard_sequences(studies.artifact(study, "token_sequences", shard=studies.COAST))
    G, _ = oracle.gradients(model, modules, sequences, sign=-1)
    row = studies.SECOND_ROWS[0]
    tokenizer = studies.tokenizer()
    ids = [tokenizer.encode(row[part]).ids for part in ("prompt", "completion")]
    tokens = np.array([ids[0] + ids[1]], np.int32)
    question = Sequences(tokens, np.array([tokens.shape[1]]), np.array([0]), np.array([len(ids[0])]))
    V, _ = oracle.gradients(model, modules, question, sign=+1)
    total = torch.zeros(len(sequences), dtype=torch.float64)
    for name in V:
        Q_S, Q_A = (
            torch.block_diag(*(torch.from_numpy(stored["eigenbases"].array(f"{name}.block{i}.{Q}")) for i in (0, 1)))
            for Q in ("Q_S", "Q_A")
        )
        Q = torch.kron(Q_S, Q_A)
        Λ = torch.from_numpy(stored["curvature"].array(f"{name}.corrected_eigenvalues")).flatten()
        damped = Q @ torch.diag(Λ + 0.1 * Λ.mean()) @ Q.T
        total -= G[name].flatten(1) @ torch.linalg.solve(damped, V[name].flatten())
    expected = total.numpy() / int(stored["curvature"].manifest.summary["training_sequences"])
    rows = studies.artifact(study, "influence_scores", shard=studies.COAST, query_set=studies.SECOND)
    found = {r["sequence_id"]: r["influence_nats"] for r in rows.table("influence_scores").collect().rows(named=True)}
    return max(abs(found[key] - value) for key, value in zip(sequences.keys.tolist(), expected, strict=True)) / max(
        map(abs, expected)
    )


@pytest.mark.slow
def test_a_study_of_a_spread_model_has_the_same_versions_and_scores(tmp_path, monkeypatch):
    """Where a model lies changes no result, so that nothing is computed anew for it."""
    alone = studies.lay_out(tmp_path / "alone")
    studies.compute(alone)
    asked = []
    load = loading.AutoModelForCausalLM.from_pretrained

    def asks(*where, **how):
        asked.append(how.get("device_map"))
        return load(*where, **how)

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", asks)
    spread = studies.lay_out(tmp_path / "spread", model={"device_map": "auto"})
    studies.compute(spread)
    assert set(asked) == {"auto"}
    assert studies.data_versions(spread) == studies.data_versions(alone)
    assert studies.scores(spread) == pytest.approx(studies.scores(alone), rel=1e-9)
