"""Models of other families from folder to SQL, all their linear layers attributed."""

import math

import pytest

from tests import studies

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
}


@pytest.mark.parametrize(
    ("architecture", "dtype"), [("llama", "float64"), ("llama", "bfloat16"), ("neox", "float64"), ("neox", "float32")]
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
        "join influence_scores using (query_id, sequence_id)",
    ).item()
    assert layers < {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.05}[dtype]
