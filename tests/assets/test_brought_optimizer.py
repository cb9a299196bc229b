"""The method `adam_metric` of a model that was brought with the state of its optimiser."""

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel, Trainer

from influence_assets.assets import open_workspace
from influence_assets.engine.fingerprint import fingerprint, sources
from influence_assets.errors import InputError
from influence_assets.layouts.sequences import shard_sequences
from influence_assets.models.layers.selection import select_modules
from influence_assets.orchestration.sources import build_sources
from influence_assets.study import Study
from tests import adapters, studies
from tests.oracles import gradients as oracle

METHODS = ["ekfac", "adam_metric"]
PROMPT, COMPLETION = "The baker rises at", " three"


def one_group(model):
    return [{"params": list(model.parameters())}]


def trainers_groups(model):
    decayed = Trainer.get_decay_parameter_names(None, model)
    named = list(model.named_parameters())
    return [
        {"params": [p for name, p in named if name in decayed]},
        {"params": [p for name, p in named if name not in decayed], "weight_decay": 0.0, "lr": 3e-3},
    ]


def laid_out(folder, layout, **model):
    """A study of a model after a few steps of AdamW, and that model with its optimiser."""
    keys = {"path": "model", "optimizer": "optimizer.pt", "dtype": "float64", **model}
    study = studies.lay_out(folder, methods=METHODS, model=keys)
    return study, *trained(folder, layout)


def trained(folder, layout, steps=4):
    trained = GPT2LMHeadModel.from_pretrained(folder / "model").double().eval()
    optimizer = torch.optim.AdamW(layout(trained), lr=1e-3, betas=(0.9, 0.98), eps=1e-6)
    text = torch.tensor(studies.tokenizer().encode(" ".join(row["text"] for row in studies.COAST_ROWS)).ids)
    for step in range(steps):
        tokens = text[None, 9 * step : 9 * step + studies.LENGTH]
        optimizer.zero_grad()
        trained(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    trained.save_pretrained(folder / "model")
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    return trained, optimizer


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
    study, _, _ = laid_out(tmp_path_factory.mktemp("brought"), one_group)
    studies.compute(study)
    return study


def expected(study, model, optimizer):
    """η ⟨∇f / (√v̂ + ε), ∇ log p(z)⟩ over the layers' weights: by autograd, with the state in the optimiser itself."""
    language_model = studies.artifact(study, "language_model")
    modules = select_modules(model, language_model.manifest.summary.get("attributed_by_default", "mlp"))
    chosen = [p for module in modules for p in module.module.parameters(recurse=False)]
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}

    def gradient(tokens, start):
        return torch.autograd.grad(oracle.log_likelihood(model, torch.as_tensor(tokens), start), chosen)

    tokenizer = studies.tokenizer_of(language_model)
    start = len(tokenizer.encode(PROMPT).ids)
    f = gradient(tokenizer.encode(PROMPT + COMPLETION).ids, start)
    steps = []
    for parameter, g in zip(chosen, f, strict=True):
        state = optimizer.state[parameter]
        root = (state["exp_avg_sq"] / (1 - 0.98 ** int(state["step"]))).sqrt()
        steps.append(rates[id(parameter)] * g / (root + 1e-6))
    found = {}
    for shard in studies.SHARDS:
        sequences = shard_sequences(studies.artifact(study, "token_sequences", shard=shard))
        for row, key in enumerate(sequences.keys.tolist()):
            tokens = sequences.tokens[row, : sequences.lengths[row]].astype(np.int64)
            found[key] = sum(float((x * y).sum()) for x, y in zip(steps, gradient(tokens, 1), strict=True))
    return found


@pytest.mark.parametrize("layout", [one_group, trainers_groups])
def test_scores_are_in_the_metric_of_the_optimiser_itself(tmp_path, layout):
    study, model, optimizer = laid_out(tmp_path, layout)
    computed = studies.compute(study)
    assert "training_trajectory" not in computed
    assert studies.compute(study) == []
    rows = studies.ask_sql(study, "select * from method_scores where method = 'adam_metric'")
    assert set(rows["unit"]) == {None}
    found = dict(rows.filter(query_id="baker").select("sequence_id", "score").rows())
    assert found == pytest.approx(expected(study, model, optimizer), rel=1e-6, abs=1e-9)


def test_another_state_is_another_version(brought, tmp_path):
    study = studies.copied(brought, tmp_path)
    before = studies.data_versions(study)
    described = torch.load(study.parent / "optimizer.pt", weights_only=True)
    described["state"][0]["exp_avg_sq"] *= 4
    torch.save(described, study.parent / "optimizer.pt")
    after = studies.data_versions(study)
    pairs = {f"adam_metric[{query_set}|{shard}]" for query_set in studies.QUERY_SETS for shard in studies.SHARDS}
    assert {name for name in before if after.get(name) != before[name]} >= pairs
    computed = studies.compute(study)
    assert {name for name in computed if name.startswith("adam_metric")} == pairs
    assert not any(name.startswith(("influence_scores", "language_model", "token_sequences")) for name in computed)
    studies.assert_no_stale_row(study)


def test_the_file_is_a_source_that_is_observed(brought, tmp_path):
    study = studies.copied(brought, tmp_path)

    def seen():
        workspace = open_workspace(Study.load(study))
        return sources(workspace)["optimizer_file"], fingerprint(workspace)

    assert "optimizer_file" in {source.key.path[-1] for source in build_sources(Study.load(study))}
    before = seen()
    assert seen() == before
    trained(study.parent, one_group, steps=5)
    assert all(now != then for now, then in zip(seen(), before, strict=True))
    studies.write_study(study.parent, methods=["ekfac"])
    assert "optimizer_file" not in sources(open_workspace(Study.load(study)))
    assert "optimizer_file" not in {source.key.path[-1] for source in build_sources(Study.load(study))}


def test_a_new_shard_is_scored_and_the_others_stay(brought, tmp_path):
    study = studies.copied(brought, tmp_path)
    studies.write_extra(study)
    computed = {name for name in studies.compute(study) if name.startswith("adam_metric")}
    assert computed == {f"adam_metric[{query_set}|{studies.EXTRA}]" for query_set in studies.QUERY_SETS}


def test_a_file_that_is_gone_is_refused_with_its_key(brought, tmp_path):
    study = studies.copied(brought, tmp_path)
    (study.parent / "optimizer.pt").unlink()
    with pytest.raises(InputError, match=r"model\.optimizer: .*optimizer\.pt cannot be read \(No such file"):
        studies.compute(study)


def test_a_state_of_another_model_is_refused(brought, tmp_path):
    study = studies.copied(brought, tmp_path)
    torch.save(torch.optim.AdamW([torch.zeros(2)]).state_dict(), study.parent / "optimizer.pt")
    with pytest.raises(InputError, match=r"model\.optimizer: .*has no second moment"):
        studies.compute(study)


def test_a_model_with_an_adapter_is_refused(tmp_path):
    study, model, _ = laid_out(tmp_path, one_group)
    adapters.write(model.float(), tmp_path / "adapter")
    keys = {"path": "model", "adapter": "adapter", "optimizer": "optimizer.pt"}
    studies.write_study(tmp_path, methods=METHODS, model=keys, curvature={"modules": "linear"})
    with pytest.raises(InputError, match=r"model\.optimizer: .*the study's model has an adapter"):
        studies.compute(study)


def test_without_the_key_the_remedy_is_named(tmp_path):
    study = studies.lay_out(tmp_path, methods=METHODS)
    with pytest.raises(InputError, match=r"lists adam_metric, which follows .* Name the state .* as model\.optimizer"):
        studies.compute(study)


def test_a_study_that_trains_its_model_has_no_file(tmp_path):
    study = studies.lay_out(tmp_path, model={"path": None, "train": {}, "optimizer": "optimizer.pt"})
    with pytest.raises(InputError, match="`optimizer` belongs to the model in `path`"):
        Study.load(study)
