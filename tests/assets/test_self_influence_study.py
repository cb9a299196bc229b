"""Self-influence as a run stores it: the oracle's, with every form of curvature, and only when it is asked for."""

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from influence_assets.assets import open_workspace
from influence_assets.assets.self_influence import none_is_negative
from influence_assets.assets.study_sizes import StudySizes
from influence_assets.forecast.estimates import estimates
from influence_assets.layouts.factors import curvature_on
from influence_assets.layouts.model import runner
from influence_assets.models.layers.selection import select_modules
from influence_assets.storage.catalogue import run_checks
from influence_assets.study import SEEDS_APART, Study
from influence_assets.upkeep.verify import verify
from tests import studies
from tests.assets import test_ensembles as ensembles
from tests.closeness import assert_same_scores
from tests.oracles import ekfac as oracle
from tests.oracles.readings import QUESTIONS, packed, question, question_id

ON = {"self_influence": True}
OF_SHARDS = {f"self_influence[{shard}]" for shard in studies.SHARDS}
OWN = """
    select sequence_id, self_influence_nats
    from self_influence inner join generations using (generation_id)
    where member = $1
"""
RELATIVE = 1e-6


def own_labels(study, **sections):
    """A study whose curvature is fitted on the text's own labels, with all that it asks for."""
    curvature = {"fisher": "empirical", **sections.pop("curvature", {})}
    study = studies.lay_out(study, scores=ON, curvature=curvature, **sections)
    assert set(studies.compute(study)) == studies.everything() | OF_SHARDS
    return study


def stored(study, member=0):
    return dict(studies.ask_sql(study, OWN, [member]).rows())


def trace(study):
    """Σ Λ/(Λ+λ) over all layers, which N times the mean self-influence is under the labels that Λ is fitted on."""
    model = runner(studies.versions_of(study).workspace, studies.artifact(study, "language_model"), lambda *_: None)
    layers = curvature_on(model, studies.artifact(study, "eigenbases"), studies.artifact(study, "curvature"))
    energies = [layer.energies() for layer in layers.values()]
    return sum(float(each.coordinates.sum()) + each.others for each in energies)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return own_labels(tmp_path_factory.mktemp("plain"))


def test_it_is_the_oracles(plain):
    model = AutoModelForCausalLM.from_pretrained(plain.parent / "model", dtype=torch.float64)
    model = model.eval().requires_grad_(False)
    modules, texts = select_modules(model, "mlp"), list(packed(studies.tokenizer()))
    curvature = oracle.dense_curvature(model, modules, texts, [t.tokens[1:].tolist() for t in texts], scale=0.1)
    losses, _ = oracle.loss_gradients(model, modules, texts, sign=-1)
    gains, _ = oracle.loss_gradients(model, modules, texts, sign=+1)
    expected = sum(layer.diagonal() for layer in oracle.scores(curvature, gains, losses).values())
    found = stored(plain)
    assert found.keys() == {text.key for text in texts}
    np.testing.assert_allclose([found[text.key] for text in texts], expected.numpy(), rtol=RELATIVE)


def test_relative_influence_is_the_angle_between_gradients_in_the_metric_of_the_inverse(plain):
    model = AutoModelForCausalLM.from_pretrained(plain.parent / "model", dtype=torch.float64)
    model = model.eval().requires_grad_(False)
    tokenizer = studies.tokenizer()
    modules, texts = select_modules(model, "mlp"), list(packed(tokenizer))
    asked = [question(row, tokenizer) for row in QUESTIONS]
    curvature = oracle.dense_curvature(model, modules, texts, [t.tokens[1:].tolist() for t in texts], scale=0.1)
    rows, _ = oracle.loss_gradients(model, modules, [*asked, *texts], sign=-1)
    products = -sum(oracle.scores(curvature, rows, rows).values()).numpy() * len(rows) / len(texts)  # ∇Lᵀ(G+λI)⁻¹∇L/N
    lengths = np.sqrt(products.diagonal())
    cosines = -products / np.outer(lengths, lengths)  # a query's gradient is of its likelihood, not of a loss
    found = studies.ask_sql(plain, "from relative_influence").rows(named=True)
    assert len(found) == len(asked) * len(texts)
    numbers = {row.get("query_id", question_id(row)): number for number, row in enumerate(QUESTIONS)}
    places = {text.key: len(asked) + index for index, text in enumerate(texts)}
    for row in found:
        query, place = numbers[row["query_id"]], places[row["sequence_id"]]
        assert row["cosine"] == pytest.approx(-cosines[query, place], rel=RELATIVE, abs=1e-9)
        assert row["l_relatif"] == pytest.approx(-cosines[query, place] * lengths[query], rel=RELATIVE, abs=1e-9)
    stored_norms = dict(studies.ask_sql(plain, "select query_id, self_influence_nats from queries").rows())
    assert stored_norms == {name: pytest.approx(lengths[number] ** 2) for name, number in numbers.items()}


@pytest.mark.parametrize(
    ("architecture", "curvature"),
    [
        ("gpt2", {"rank": 3}),
        ("gpt2", {"modules": "mlp+embedding"}),
        ("llama", {"modules": "mlp+embedding"}),
        pytest.param("gpt2", {"modules": "linear", "blocks": 2}, marks=pytest.mark.slow),
        pytest.param("mixtral", {}, marks=pytest.mark.slow),
    ],
)
def test_whatever_the_curvature_is_its_mean_is_the_trace(architecture, curvature, tmp_path):
    study = own_labels(tmp_path, architecture=architecture, curvature=curvature)
    found = stored(study)
    assert len(found) * np.mean(list(found.values())) == pytest.approx(trace(study), rel=1e-6)
    violations = run_checks(open_workspace(Study.load(study)).catalogue)
    assert [name for name, rows in violations.items() if rows.height] == []


def test_a_document_alone_in_its_sequences_has_theirs_and_others_have_parts(plain):
    spans = studies.ask_sql(plain, "select sequence_id, token_end - token_start as tokens from sequence_documents")
    shared = spans.filter(pl.len().over("sequence_id") > 1)
    parts = studies.ask_sql(plain, "select count(*) from self_influence_parts").item()
    assert parts == shared.height > 2
    documents = studies.ask_sql(plain, "select * from self_influence_by_document")
    assert documents.height == len(studies.COAST_ROWS + studies.TRADES_ROWS)
    assert documents["tokens"].sum() == spans["tokens"].sum()
    assert (documents["self_influence_nats"] > 0).all()
    np.testing.assert_allclose(documents["nats_per_token"], documents["self_influence_nats"] / documents["tokens"])


def test_it_is_computed_when_the_study_asks_and_nothing_else_is_computed_again(study):
    before = studies.data_versions(study)
    assert studies.ask_sql(study, "from self_influence").height == 0
    studies.write_study(study.parent, scores={"details_per_query": 2, **ON})
    assert set(studies.compute(study)) == OF_SHARDS | {"influence_catalogue"}
    after = studies.data_versions(study)
    assert {name: after[name] for name in before if name != "influence_catalogue"} == {
        name: version for name, version in before.items() if name != "influence_catalogue"
    }
    found = stored(study)
    studies.write_extra(study)
    assert set(studies.compute(study)) == studies.of_shard(studies.EXTRA) | {f"self_influence[{studies.EXTRA}]"}
    more = stored(study)
    assert {key: more[key] for key in found} == found
    assert len(more) > len(found)
    studies.assert_no_stale_row(study)
    assert verify(open_workspace(Study.load(study)), lambda *_: None) == []


def test_in_the_pass_with_others_and_alone_it_is_the_same(plain, tmp_path):
    alone = studies.copied(plain, tmp_path)
    for shard in studies.SHARDS:
        versions = studies.versions_of(alone)
        versions.workspace.store.remove(studies.artifact(alone, "self_influence", shard=shard).key)
    assert set(studies.compute(alone)) == OF_SHARDS
    assert_same_scores(stored(alone), stored(plain))


def test_a_forecast_counts_it(plain):
    sizes = StudySizes(studies.versions_of(plain))
    (stage,) = [each for each in estimates(sizes) if each.asset.name == "self_influence"]
    assert (stage.partitions, stage.outstanding) == (2, 0)
    assert stage.bytes == 0
    assert stage.peak_memory_bytes > 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: frame.head(frame.height - 1),
        lambda frame: frame.with_columns(self_influence_nats=-pl.col("self_influence_nats")),
        lambda frame: frame.with_columns(self_influence_nats=pl.lit(np.nan)),
    ],
)
def test_its_check_finds_a_sequence_without_one_and_what_is_no_square(plain, spoil, tmp_path):
    spoilt, place = studies.copied(plain, tmp_path), {"shard": studies.COAST}
    good = studies.artifact(spoilt, "self_influence", **place)
    open_input = studies.versions_of(spoilt).workspace.store.open
    assert none_is_negative(good, open_input).passed
    rows = spoil(good.table("self_influence").collect())
    bad = studies.rewrite(spoilt, "self_influence", tables={"self_influence": rows}, **place)
    assert not none_is_negative(bad, open_input).passed


def test_members_have_their_own_and_the_view_has_the_mean(tmp_path):
    model = {"path": None, "train": ensembles.TRAINED | {"members": 2}, "dtype": "float64"}
    study = studies.lay_out(tmp_path / "both", model=model, sequences={"length": 24}, scores=ON)
    computed = ensembles.run(study)
    assert computed == {0: studies.everything() | OF_SHARDS, 1: ensembles.of_member() | OF_SHARDS}
    trained = ensembles.TRAINED | {"seed": SEEDS_APART}
    model = {"path": None, "train": trained, "dtype": "float64"}
    alone = studies.lay_out(tmp_path / "alone", model=model, sequences={"length": 24}, scores=ON)
    ensembles.run(alone)
    assert_same_scores(stored(study, member=1), stored(alone))
    sql = "select document_id, self_influence_nats from ensemble_self_influence"
    mean = dict(studies.ask_sql(study, sql).rows())
    sql = "select document_id, self_influence_nats from self_influence_by_document"
    first, second = (dict(studies.ask_sql(each, sql).rows()) for each in (study, alone))
    assert mean == {document: pytest.approx((first[document] + second[document]) / 2) for document in first}
    ensembles.assert_whole(study)
