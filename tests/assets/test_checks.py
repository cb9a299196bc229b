"""Each check of an artifact: it passes what a run stored, and catches one mistake in it."""

import math

import numpy as np
import polars as pl
import pytest

from influence_assets.assets import asset_graph
from tests import studies
from tests.studies import COAST, FIRST

LAYER = "transformer.h.0.mlp.c_fc"
PARTITION = {
    "token_sequences": {"shard": COAST},
    "eigenbases": {},
    "corrected_eigenvalues": {},
    "curvature_drift": {},
    "influence_scores": {"shard": COAST, "query_set": FIRST},
    "influence_details": {"query_set": FIRST},
}


def asymmetric(A):
    A = A.copy()
    A[0, 1] += 0.01 * np.abs(A).max()
    return A


def indefinite(A):
    """Symmetric, but no covariance: two coordinates more alike than equal ones could be."""
    A = A.copy()
    A[0, 1] = A[1, 0] = 1.1 * math.sqrt(A[0, 0] * A[1, 1]) + 0.1 * np.abs(A).max()
    return A


def with_entry(value):
    def spoil(M):
        M = M.copy()
        M.flat[0] = value
        return M

    return spoil


def first_row(**columns):
    """The table with other values in its first row."""
    is_first = pl.int_range(pl.len()) == 0
    return lambda frame: frame.with_columns(
        pl.when(is_first).then(pl.lit(value)).otherwise(pl.col(name)).alias(name) for name, value in columns.items()
    )


def shorter(frame):
    return frame.head(frame.height - 1)


def twice(frame):
    """As many rows, but one pair twice and another not at all."""
    return pl.concat([frame.head(frame.height - 1), frame.head(1)])


MISTAKES = [
    ("token_sequences", "token_counts_agree", "tables", "sequence_documents", shorter),
    ("token_sequences", "token_counts_agree", "tables", "sequences", first_row(tokens=7)),
    ("token_sequences", "token_counts_agree", "arrays", "lengths", with_entry(7)),
    ("eigenbases", "factors_are_positive_semi_definite", "arrays", f"{LAYER}.eigenvalues_A", with_entry(-1.0)),
    ("eigenbases", "factors_are_positive_semi_definite", "arrays", f"{LAYER}.eigenvalues_S", with_entry(np.nan)),
    ("eigenbases", "bases_are_orthonormal", "arrays", f"{LAYER}.Q_A", lambda Q: 1.001 * Q),
    ("eigenbases", "bases_are_orthonormal", "arrays", f"{LAYER}.Q_S", with_entry(np.nan)),
    (
        "corrected_eigenvalues",
        "eigenvalues_are_finite_and_not_negative",
        "arrays",
        f"{LAYER}.corrected_eigenvalues",
        with_entry(-1e-6),
    ),
    (
        "corrected_eigenvalues",
        "eigenvalues_are_finite_and_not_negative",
        "arrays",
        f"{LAYER}.corrected_eigenvalues",
        with_entry(np.nan),
    ),
    ("curvature_drift", "drift_is_below_the_threshold", "tables", "layer_drift", first_row(drift=0.21)),
    ("curvature_drift", "drift_is_below_the_threshold", "tables", "layer_drift", first_row(drift=np.nan)),
    ("influence_scores", "every_sequence_is_scored", "tables", "influence_scores", shorter),
    ("influence_scores", "every_sequence_is_scored", "tables", "influence_scores", twice),
    ("influence_scores", "every_sequence_is_scored", "tables", "influence_scores", first_row(influence_nats=np.nan)),
    ("influence_scores", "every_sequence_is_scored", "tables", "influence_scores", first_row(influence_nats=np.inf)),
    ("influence_details", "layers_sum_to_the_score", "tables", "layer_influence", shorter),
    ("influence_details", "layers_sum_to_the_score", "tables", "layer_influence", first_row(influence_nats=1e3)),
    ("influence_details", "layers_sum_to_the_score", "tables", "layer_influence", first_row(influence_nats=np.nan)),
    ("influence_details", "layers_sum_to_the_score", "tables", "token_influence", first_row(influence_nats=1e3)),
    ("influence_details", "layers_sum_to_the_score", "tables", "token_influence", first_row(sequence_id=1)),
]


CHECKED = [
    asset.name
    for asset in asset_graph()
    if asset.checks.descriptions() and not asset.is_catalogue and not asset.on_request
]
"""The catalogue's own checks are SQL, and tried in tests/sql; those of what is on request, where that is tested."""


def findings(study, step, artifact):
    """Whether each check of a step passes."""
    store = studies.versions_of(study).workspace.store
    looked_up = asset_graph()[step].checks.findings(artifact, store.open)
    return {name: bool(finding.passed) for name, finding in looked_up}


@pytest.mark.parametrize("step", CHECKED)
def test_what_a_run_stored_passes(standing, step):
    found = findings(standing, step, studies.artifact(standing, step, **PARTITION[step]))
    assert found == dict.fromkeys(found, True)


@pytest.mark.parametrize(("step", "check", "kind", "name", "spoil"), MISTAKES)
def test_a_mistake_is_caught(study, step, check, kind, name, spoil):
    good = studies.artifact(study, step, **PARTITION[step])
    content = good.array(name) if kind == "arrays" else good.table(name).collect()
    bad = studies.rewrite(study, step, **{kind: {name: spoil(content)}}, **PARTITION[step])
    assert not findings(study, step, bad)[check]


def test_every_check_is_tried_with_a_mistake():
    assert {check for _, check, *_ in MISTAKES} == {
        name for step in CHECKED for name in asset_graph()[step].checks.descriptions()
    }


def test_details_of_no_query_pass(study):
    studies.write_study(study.parent, scores={"details_per_query": 0})
    studies.compute(study)
    details = studies.artifact(study, "influence_details", query_set=FIRST)
    assert details.manifest.rows == {"strongest": 0, "layer_influence": 0, "token_influence": 0}
    assert findings(study, "influence_details", details) == {"layers_sum_to_the_score": True}
