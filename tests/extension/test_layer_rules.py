"""Made-up kinds of layers, each a file, measured as the package's own are: against autograd, one sequence at a time."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.model_shape import model_shape
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import scores
from influence_assets.errors import InputError
from influence_assets.extensions import EXTENSIONS
from influence_assets.layouts.model import load_model
from influence_assets.layouts.sequences import shard_sequences
from influence_assets.models.layers import conv1d, linear
from influence_assets.models.layers.rule import layer_rules
from influence_assets.models.layers.selection import select_modules
from tests import cases, studies
from tests.commanding import influence
from tests.extension.commanded import damage, run
from tests.extension.installed import install
from tests.extension.modeling_scaled_gpt2 import ScaledGPT2
from tests.oracles import gradients as oracle
from tests.tiers import slow_but

HERE = Path(__file__).parent
EXAMPLES = [HERE / "scaled_linear", HERE / "routed_linear"]
ROOM = "influence_assets.models.layers"


@pytest.fixture(params=["folder", "entry point"])
def extended(request, monkeypatch, tmp_path):
    """The made-up rules are there, by either way."""
    if request.param == "folder":
        monkeypatch.setenv(EXTENSIONS, os.pathsep.join(map(str, EXAMPLES)))
    else:
        for file in sorted(HERE.glob("*_linear/layers/*.py")):
            folder = install(tmp_path / file.stem, ROOM, file)
            monkeypatch.syspath_prepend(str(folder))


def scaled_gpt2():
    """The made-up model of `modeling_scaled_gpt2`, as small as the others."""
    torch.manual_seed(0)
    model = cases.frozen(ScaledGPT2(cases.gpt2().config))
    model.transformer.h[0].mlp.c_fc.scale.fill_(0.7)
    return model


class RoutedLinear(nn.Module):
    """Two matrices; which one a token goes through is decided by its hidden state."""

    def __init__(self, width: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, d_out, width) * 0.4)

    def route(self, x):
        return (x[..., 0] > 0).long()

    def forward(self, x):
        routes = self.route(x)
        return torch.einsum("stoi,sti->sto", self.weight[routes], x)


def routed_gpt2():
    torch.manual_seed(0)
    model = cases.gpt2()
    for block in model.transformer.h:
        block.mlp.c_fc = RoutedLinear(8, 32)
    return cases.frozen(model)


MODELS = {"scaled": scaled_gpt2, "routed": routed_gpt2}
LAYERS = {
    "scaled": [f"transformer.h.{block}.mlp.{name}" for block in (0, 1) for name in ("c_fc", "c_proj")],
    "routed": [f"transformer.h.{block}.mlp.{name}" for block in (0, 1) for name in ("c_fc.0", "c_fc.1", "c_proj")],
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.usefixtures("extended")
def test_gradients_and_scores_of_a_made_up_layer_are_those_of_autograd(kind):
    model, sequences, queries = MODELS[kind](), cases.sequences(), cases.queries()
    layers = select_modules(model, "mlp")
    assert [layer.name for layer in layers] == LAYERS[kind]
    runner = Runner(model, layers, 4)
    V, log_probabilities = oracle.gradients(model, layers, queries, sign=+1)
    measured = query_gradients(runner, queries)
    np.testing.assert_allclose(measured.log_probabilities, log_probabilities, rtol=1e-10)
    for name, gradient in V.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(measured.layers[name], gradient)
    P = {m.name: torch.randn(3, m.output_width, m.input_width, dtype=torch.float64) for m in layers}
    G, _ = oracle.gradients(model, layers, sequences, sign=-1)
    expected = -sum(torch.einsum("qoi,soi->qs", P[name], G[name]) for name in P) / 40
    np.testing.assert_allclose(scores(runner, sequences, {"any": P}, 40)["any"], expected, rtol=1e-9)


@pytest.mark.usefixtures("extended")
def test_experts_sum_what_they_see_of_the_tokens_that_are_routed_to_them():
    model, sequences = routed_gpt2(), cases.sequences()
    runner = Runner(model, select_modules(model, ["*.c_fc"]), 4)
    seen = []
    handle = model.transformer.h[0].mlp.c_fc.register_forward_hook(
        lambda _module, inputs, _y: seen.append(inputs[0][0])
    )
    for row, length in zip(sequences.tokens, sequences.lengths, strict=True):
        model(input_ids=torch.from_numpy(row[None, : length - 1].astype("int64")))
    handle.remove()
    rows = torch.cat(seen)
    totals = covariances(runner, sequences, None)
    for expert, own in enumerate((rows[rows[:, 0] <= 0], rows[rows[:, 0] > 0])):
        assert len(own) > 0
        torch.testing.assert_close(totals[f"transformer.h.0.mlp.c_fc.{expert}"].A.total, own.T @ own)


@pytest.mark.usefixtures("extended")
def test_the_forecast_knows_the_shape_of_a_made_up_layer(monkeypatch):
    build = "influence_assets.capture.model_shape.AutoModelForCausalLM.from_config"
    monkeypatch.setattr(build, lambda config, **_: ScaledGPT2(config))
    shape = model_shape(cases.gpt2().config, "float32", "mlp", tokens=4)
    assert [(layer.d_out, layer.d_in) for layer in shape.layers] == [(32, 9), (8, 33)] * 2


def test_without_its_rule_a_made_up_layer_is_refused_by_name():
    with pytest.raises(InputError, match=r"no layer rule covers transformer\.h\.0\.mlp\.c_fc \(ScaledLinear\)"):
        select_modules(scaled_gpt2(), "mlp")


def test_two_rules_for_one_kind_of_layer_are_refused(monkeypatch, tmp_path):
    (tmp_path / "layers").mkdir()
    rule = (HERE / "scaled_linear" / "layers" / "scaled_linear.py").read_text()
    (tmp_path / "layers" / "another.py").write_text(rule.replace('"scaled_linear"', '"another"'))
    monkeypatch.setenv(EXTENSIONS, f"{EXAMPLES[0]}{os.pathsep}{tmp_path}")
    assert {"linear", "conv1d", "scaled_linear", "another"} <= {rule.name for rule in layer_rules()}
    with pytest.raises(InputError, match=r"another and scaled_linear|scaled_linear and another"):
        select_modules(scaled_gpt2(), "mlp")


@pytest.fixture
def remote_code(monkeypatch, tmp_path):
    """Code beside weights is copied to where it harms nobody."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


def lay_out_scaled(folder):
    """A study of the made-up model, whose code lies beside its weights."""
    study = studies.lay_out(folder, model={"trust_remote_code": True}, methods=["ekfac", "gradient_dot"])
    config = studies.network("gpt2", vocabulary=studies.tokenizer().get_vocab_size()).config
    torch.manual_seed(0)
    ScaledGPT2(config).save_pretrained(folder / "model")
    shutil.copy(HERE / "modeling_scaled_gpt2.py", folder / "model")
    described = json.loads((folder / "model" / "config.json").read_text())
    described["auto_map"] = {"AutoModelForCausalLM": "modeling_scaled_gpt2.ScaledGPT2"}
    (folder / "model" / "config.json").write_text(json.dumps(described))
    return study


def plain_scores_by_autograd(study):
    """−⟨∇f, ∇L⟩ / N of the second query set and the first shard, from the model and the tokens alone."""
    versions = studies.versions_of(study)
    described = studies.artifact(study, "language_model").manifest.summary
    model = load_model(versions.workspace, versions.workspace.model_folder, described["weights_hash"])
    layers = select_modules(model, "mlp")
    tokenizer, (row,) = studies.tokenizer(), studies.SECOND_ROWS
    prompt, completion = (tokenizer.encode(row[part]).ids for part in ("prompt", "completion"))
    tokens = np.array([prompt + completion], np.int32)
    question = cases.Sequences(tokens, np.array([tokens.shape[1]]), np.array([0]), np.array([len(prompt)]))
    sequences = shard_sequences(studies.artifact(study, "token_sequences", shard=studies.COAST))
    V, _ = oracle.gradients(model, layers, question, sign=+1)
    G, _ = oracle.gradients(model, layers, sequences, sign=-1)
    N = studies.ask_sql(study, "select count(*) from sequences").item()
    scores = -sum(torch.einsum("qoi,soi->s", V[name], G[name]) for name in V) / N
    return dict(zip(sequences.keys.tolist(), scores.tolist(), strict=True))


@pytest.mark.usefixtures("extended", "remote_code")
@pytest.mark.parametrize("extended", slow_but(of=["folder", "entry point"], slow=()), indirect=True)
def test_a_study_of_a_made_up_model_is_kept_like_any_other(tmp_path, request):
    study = lay_out_scaled(tmp_path / "study")
    with pytest.MonkeyPatch.context() as without:
        own = (linear.LAYER_RULE, conv1d.LAYER_RULE)
        without.setattr("influence_assets.models.layers.rule.layer_rules", lambda: own)
        refused = influence("run", "--study", study)
    assert refused.code == 1
    assert "(ScaledLinear)" in refused.out
    run(study)
    shapes = studies.ask_sql(study, "select module_name, output_width, input_width from modules order by all").rows()
    assert shapes == sorted((name, *((32, 9) if "c_fc" in name else (8, 33))) for name in LAYERS["scaled"])
    in_second = "select sequence_id, score from method_scores join queries using (query_id) where query_set_id = $1"
    stored = dict(studies.ask_sql(study, in_second, [studies.SECOND]).rows())
    expected = plain_scores_by_autograd(study)
    assert {key: stored[key] for key in expected} == pytest.approx(expected, rel=1e-9)
    if "entry point" in request.node.name:
        return
    scores = studies.scores(study)
    for command in ("verify", "gc"):
        assert influence(command, "--study", study).code == 0
    assert run(study) == {}
    damage(studies.artifact(study, "corrected_eigenvalues").folder)
    assert influence("verify", "--study", study).code == 1
    assert "corrected_eigenvalues" in run(study)
    assert studies.scores(study) == pytest.approx(scores, rel=1e-9)
    document = studies.ask_sql(study, "select document_id from documents order by all limit 1").item()
    assert influence("forget", "--document", document, "--study", study).code == 0
    sequences = studies.ask_sql(study, "select sequence_id from sequences")["sequence_id"].to_list()
    scored = studies.scores(study).keys()
    assert sorted(scored) == sorted(
        (query, sequence) for query in {query for query, _ in scores} for sequence in sequences
    )
    assert scored != scores.keys()
