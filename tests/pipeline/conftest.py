"""Stores that stand, built once; a test that changes one takes a copy."""

import pytest

from tests import studies


@pytest.fixture(scope="session")
def standing(tmp_path_factory):
    """The study file of the GPT-2 study, all of it computed. Not to be changed."""
    study = studies.lay_out(tmp_path_factory.mktemp("standing"))
    assert set(studies.compute(study)) == studies.everything()
    return study


@pytest.fixture
def study(standing, tmp_path):
    """A copy of the computed study, to be changed at will."""
    return studies.copied(standing, tmp_path)
