"""A made-up method from one file: against autograd, and in whole studies by the command line."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from influence_assets.assets import open_workspace
from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import scores
from influence_assets.errors import InputError
from influence_assets.extensions import EXTENSIONS
from influence_assets.maths.ekfac import LayerCurvature, damping, eigenbasis
from influence_assets.methods.ekfac import precondition
from influence_assets.methods.method import MethodContext, TrainingSequences
from influence_assets.methods.registry import attribution_methods, methods_in_full, versions_of
from influence_assets.models.layers.selection import select_modules
from influence_assets.study import Study
from tests import cases, studies
from tests.commanding import influence
from tests.extension.commanded import damage, run
from tests.extension.installed import install
from tests.oracles import gradients as oracle
from tests.oracles.gauss_newton import dense_gauss_newton
from tests.tiers import slow_but

HERE = Path(__file__).parent
EXAMPLE = HERE / "centred"
NAME = "centred"


@pytest.fixture(params=["folder", "entry point"])
def extended(request, monkeypatch, tmp_path):
    """The made-up method is there, by either way."""
    if request.param == "folder":
        monkeypatch.setenv(EXTENSIONS, str(EXAMPLE))
    else:
        file = EXAMPLE / "methods" / f"{NAME}.py"
        monkeypatch.syspath_prepend(str(install(tmp_path / "site", "influence_assets.methods", file)))


@pytest.mark.usefixtures("extended")
def test_it_prepares_what_autograd_says():
    model, queries = cases.gpt2(), cases.queries()
    runner = Runner(model, select_modules(model, "mlp"), 4)
    shards = [cases.sequences(5, seed=1), cases.sequences(3, seed=2)]
    bases = {name: eigenbasis(c.A, c.S) for name, c in covariances(runner, shards[0], None).items()}
    context = MethodContext(runner, bases, training=TrainingSequences([lambda s=s: s for s in shards]))
    P = attribution_methods()[NAME].prepare(query_gradients(runner, queries, bases).layers, context)
    V, _ = oracle.gradients(model, runner.modules, queries, sign=+1)
    G = [oracle.gradients(model, runner.modules, shard, sign=-1)[0] for shard in shards]
    flat = [torch.cat([by_layer[name].flatten(1) for name in V], 1) for by_layer in (V, *G)]
    v, g = flat[0], torch.cat(flat[1:])
    m = g.mean(0)
    expected = -(v - torch.outer(v @ m / (m @ m), m)) @ g.T / 9
    measured = [scores(runner, shard, {NAME: {n: p.clone() for n, p in P.items()}}, 9, bases)[NAME] for shard in shards]
    np.testing.assert_allclose(np.concatenate(measured, 1), expected, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.slow
def test_a_method_with_products_of_the_hessian_solves_the_dense_system(monkeypatch):
    """It starts from EK-FAC's answer, which is not the exact one."""
    monkeypatch.setenv(EXTENSIONS, str(HERE / "conjugate_gradient"))
    model, queries = cases.gpt2(width=4, layers=1), cases.queries(2)
    runner = Runner(model, select_modules(model, "mlp"), 4)
    shards = [cases.sequences(5, seed=1), cases.sequences(3, seed=2)]
    bases = {name: eigenbasis(c.A, c.S) for name, c in covariances(runner, shards[0], None).items()}
    Λ = {name: m.mean() for name, m in eigenvalue_corrections(runner, shards[0], bases, None).items()}
    curvature = {name: LayerCurvature(bases[name], Λ[name], damping(float(Λ[name].mean()), 0.1)) for name in bases}
    context = MethodContext(runner, bases, curvature, TrainingSequences([lambda s=s: s for s in shards]))
    V = query_gradients(runner, queries, bases).layers
    P = attribution_methods()["conjugate_gradient"].prepare(V, context)
    f, _ = oracle.gradients(model, runner.modules, queries, sign=+1)
    λ = torch.cat([torch.full((layer.parameters,), curvature[layer.name].λ) for layer in runner.modules])
    G = dense_gauss_newton(model, runner.modules, shards)
    flat = torch.cat([f[layer.name].flatten(1) for layer in runner.modules], 1)
    expected = torch.linalg.solve(G + torch.diag(λ), flat.T).T
    solved = torch.cat([bases[m.name].rotate_back(P[m.name]).flatten(1) for m in runner.modules], 1)
    torch.testing.assert_close(solved, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    approximate = torch.cat([bases[n].rotate_back(p).flatten(1) for n, p in precondition(V, curvature).items()], 1)
    assert float((approximate - expected).norm() / expected.norm()) > 0.05


def laid_out(folder, others):
    return studies.lay_out(folder, methods=["ekfac", *others])


@pytest.mark.parametrize("way", slow_but(of=["folder", "entry point", "study"], slow=("folder",)))
def test_a_study_scores_with_it_and_keeps_it_like_the_packages_own(way, tmp_path, monkeypatch):
    study = laid_out(tmp_path / "study", ["gradient_dot"])
    before = run(study)
    exact, plain = studies.scores(study), baseline(study, "gradient_dot")
    if way == "folder":
        monkeypatch.setenv(EXTENSIONS, str(EXAMPLE))
    elif way == "entry point":
        file = EXAMPLE / "methods" / f"{NAME}.py"
        monkeypatch.syspath_prepend(str(install(tmp_path / "site", "influence_assets.methods", file)))
    else:
        study.write_text(study.read_text() + f"\nextensions: ['{EXAMPLE}']\n")
    study.write_text(study.read_text().replace("- gradient_dot", f"- gradient_dot\n- {NAME}"))
    after = run(study)
    assert "covariances" in before
    assert after.keys() == {"method_vectors", "method_scores", "influence_catalogue"}
    assert studies.scores(study) == exact
    assert baseline(study, "gradient_dot") == pytest.approx(plain, rel=1e-9)
    centred = baseline(study, NAME)
    assert centred.keys() == exact.keys()
    assert_centred(centred, plain)
    if way != "folder":
        return
    assert influence("verify", "--study", study).code == 0
    assert influence("gc", "--study", study).code == 0
    assert baseline(study, NAME) == centred
    assert run(study) == {}
    damage(studies.artifact(study, "method_vectors", query_set=studies.FIRST).folder)
    assert influence("verify", "--study", study).code == 1
    assert "method_vectors" in run(study)
    assert baseline(study, NAME) == pytest.approx(centred)
    document = studies.ask_sql(study, "select document_id from documents order by all limit 1").item()
    assert influence("forget", "--document", document, "--study", study).code == 0
    remaining = baseline(study, NAME)
    assert remaining.keys() == studies.scores(study).keys() != centred.keys()
    assert_centred(remaining, baseline(study, "gradient_dot"))


def baseline(study, method):
    rows = studies.ask_sql(study, "select query_id, sequence_id, score from method_scores where method = $1", [method])
    return {(query, sequence): score for query, sequence, score in rows.iter_rows()}


def assert_centred(centred, plain):
    """The scores of a query add up to zero, and differ from the plain product of gradients."""
    for query in {query for query, _ in plain}:
        of_query = [[scores[key] for key in scores if key[0] == query] for scores in (centred, plain)]
        assert abs(sum(of_query[0])) < 1e-9 * sum(map(abs, of_query[1]))
        assert abs(sum(of_query[1])) > 1e-3 * sum(map(abs, of_query[1]))


@pytest.mark.parametrize(
    ("others", "problem"),
    [
        (["odd"], r"methods\.1: there is no method 'odd'\. Methods not named yet: .*centred, .*gradient_dot,.*\."),
        (["gradient_dot", "ekfac"], r"methods\.2: 'ekfac' is already used"),
        (["centred", "centred"], r"methods\.2: 'centred' is already used"),
    ],
)
def test_methods_that_a_study_cannot_have_are_refused_with_what_there_is(others, problem, tmp_path, monkeypatch):
    monkeypatch.setenv(EXTENSIONS, str(EXAMPLE))
    study = laid_out(tmp_path, others)
    with pytest.raises(InputError, match=problem):
        open_workspace(Study.load(study))
    ended = influence("status", "--study", study)
    assert ended.code != 0
    assert "methods." in ended.error


def test_another_version_of_a_methods_code_is_another_version_of_its_scores(tmp_path, monkeypatch):
    folder = tmp_path / "extension"
    shutil.copytree(EXAMPLE, folder)
    file = folder / "methods" / f"{NAME}.py"
    file.write_text(file.read_text().replace("reads_training=True", 'reads_training=True, code_version="2"'))
    study = Study.load(laid_out(tmp_path / "study", [NAME]))
    settings = []
    for extension in (EXAMPLE, folder):
        monkeypatch.setenv(EXTENSIONS, str(extension))
        settings.append(versions_of(study, methods_in_full(study)))
    assert settings == [{NAME: {"code": "1"}}, {NAME: {"code": "2"}}]


def test_a_share_of_the_training_sequences_is_drawn_by_their_ids():
    shards = [cases.sequences(400, seed=1), cases.sequences(300, seed=2)]
    training = TrainingSequences([lambda s=s: s for s in shards])
    drawn = np.concatenate([sample.keys for sample in training.sample(0.3, 5)])
    assert 0.2 < len(drawn) / 700 < 0.4
    halves = TrainingSequences([lambda s=s, r=r: s.take(np.arange(r, len(s), 2)) for s in shards for r in (1, 0)])
    assert set(drawn) == set(np.concatenate([sample.keys for sample in halves.sample(0.3, 5)]))
    assert set(drawn) != set(np.concatenate([sample.keys for sample in training.sample(0.3, 6)]))
