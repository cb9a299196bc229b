"""A store that `influence run` made, built once."""

import pytest

from tests import studies
from tests.commanding import Finished, influence


@pytest.fixture(scope="session")
def first_run(tmp_path_factory):
    """A study file and what the first `influence run` of it ended with. Not to be changed."""
    study = studies.lay_out(tmp_path_factory.mktemp("commanded"))
    ended: Finished = influence("run", "--study", study)
    assert ended.code == 0, ended.out + ended.err
    return study, ended


@pytest.fixture
def study(first_run, tmp_path):
    """A copy of the computed study with its Dagster instance, to be changed at will."""
    return studies.copied(first_run[0], tmp_path)
