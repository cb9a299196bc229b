"""A store that stands, for a test that changes it."""

import pytest

from tests import studies


@pytest.fixture
def study(standing, tmp_path):
    """A copy of the computed study, to be changed at will."""
    return studies.copied(standing, tmp_path)
