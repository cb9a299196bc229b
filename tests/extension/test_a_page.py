"""A page of one file, found by its folder and by its entry point, and shown in Dagster's UI."""

import pytest

from influence_assets.assets import asset_graph
from influence_assets.orchestration.shown import metadata
from influence_assets.report import page as pages
from influence_assets.report.page import pages_of
from tests import studies

EXAMPLE = "document_lengths"


@pytest.fixture(autouse=True)
def _nothing_remembered():
    """Entry points do not change while a process lives, but they do from test to test."""
    pages._pages.cache_clear()
    yield
    pages._pages.cache_clear()


@pytest.fixture(params=["folder", "entry point"])
def add(request):
    def add():
        if request.param == "folder":
            request.getfixturevalue("extend")(EXAMPLE)
        else:
            request.getfixturevalue("install")(EXAMPLE, "influence_assets.report.pages")
        pages._pages.cache_clear()

    return add


def test_it_is_shown_of_its_asset_beside_what_the_asset_shows(standing, add):
    artifact = studies.artifact(standing, "documents", shard=studies.COAST)
    before = metadata(asset_graph()["documents"], artifact, computed=True)
    add()
    after = metadata(asset_graph()["documents"], artifact, computed=True)
    assert after.keys() - before.keys() == {EXAMPLE}
    assert after[EXAMPLE].value.startswith("![Length of each document](data:image/png;base64,iVBORw0KGgo")
    assert [page.name for page in pages_of("curvature")] == ["spectra"], "other assets' pages are as they were"
