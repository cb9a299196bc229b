"""The noise beside the passages of an answer."""

import sys

import numpy as np
import pytest

from influence_assets.api import ask, strongest
from influence_assets.storage.catalogue import query
from tests import studies

LAMP = studies.FIRST_ROWS[0]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with as many sequences as noise takes."""
    made = studies.lay_out(tmp_path_factory.mktemp("short"), sequences={"length": 8})
    studies.compute(made)
    return made


def test_the_noise_is_that_of_all_scores_of_the_query(study):
    answer = strongest(studies.versions_of(study, "published"), "lamp", 100)
    scores = np.array([score for (name, _), score in studies.scores(study).items() if name == "lamp"])
    assert len(scores) == len(answer.passages) >= 20
    sigma = np.median(np.abs(scores - np.median(scores))) / 0.6745
    threshold = max(np.median(scores), 0) + sigma * np.sqrt(2 * np.log(len(scores)))
    noise = answer.noise
    assert (noise.scores, noise.above) == (len(scores), np.sum(scores > threshold))
    assert (noise.median, noise.sigma, noise.threshold) == pytest.approx((np.median(scores), sigma, threshold))
    assert not answer.is_estimated
    for passage in answer.passages:
        score = max(passage.influence_nats, 0)
        assert passage.calibrated_nats == pytest.approx(score**2 / (score + 10 * sigma))
        assert answer.is_above_noise(passage) == (passage.influence_nats > threshold)


def test_of_a_new_question_the_noise_is_that_of_its_estimates(study):
    answer = ask(studies.versions_of(study, "published"), LAMP["prompt"], LAMP["completion"], 3)
    exact = strongest(studies.versions_of(study, "published"), "lamp", 3).noise
    assert answer.is_estimated
    assert answer.noise.scores == answer.sequences == exact.scores
    assert exact.sigma / 3 < answer.noise.sigma < 3 * exact.sigma
    assert {passage.calibrated_nats for passage in answer.passages} == {None}


def test_with_few_scores_nothing_is_said_of_the_noise(standing):
    for answer in (
        strongest(studies.versions_of(standing, "published"), "lamp", 3),
        ask(studies.versions_of(standing, "published"), LAMP["prompt"], LAMP["completion"], 3),
    ):
        assert (answer.noise.scores, answer.noise.sigma, answer.noise.above) == (17, None, None)
        assert [answer.is_above_noise(passage) for passage in answer.passages] == [None] * 3
        assert {passage.calibrated_nats for passage in answer.passages} == {None}


def test_a_catalogue_of_an_earlier_release_has_no_noise_and_no_ensemble(study, monkeypatch):
    """It lacks the views until the next run builds it again."""

    def of_before(path, sql, parameters):
        for view in ("query_noise", "ensemble_scores"):
            sql = sql.replace(view, "no_such_view")
            parameters = {key: "no_such_view" if value == view else value for key, value in parameters.items()}
        return query(path, sql, parameters)

    # The package's attribute of that name is the function.
    monkeypatch.setattr(sys.modules["influence_assets.api.strongest"], "query", of_before)
    answer = strongest(studies.versions_of(study, "published"), "lamp", 2)
    assert answer.noise is None
    assert [answer.is_above_noise(passage) for passage in answer.passages] == [None, None]
    assert [passage.over_members for passage in answer.passages] == [None, None]
