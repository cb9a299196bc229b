"""The sample catalogue that the tests of SQL share."""

import pytest
from sample_rows import build


@pytest.fixture(scope="module")
def sample():
    with build() as connection:
        yield connection


@pytest.fixture
def catalogue(sample):
    """The sample, as it was again after each test."""
    sample.begin()
    yield sample
    sample.rollback()
