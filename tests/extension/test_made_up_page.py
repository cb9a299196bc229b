"""A page that one file adds to an asset, by a folder and by an entry point."""

import pytest

from influence_assets.assets import asset_graph
from influence_assets.engine.shown import Picture
from influence_assets.report import page as pages
from influence_assets.report.page import everything_shown, pages_of
from tests import studies


@pytest.fixture(autouse=True)
def _nothing_remembered():
    """Entry points do not change while a process lives, but they do from test to test."""
    pages._pages.cache_clear()
    yield
    pages._pages.cache_clear()


def of_folder(request):
    request.getfixturevalue("parts")


def of_entry_point(request):
    request.getfixturevalue("install")("influence_assets.report.pages", "document_lengths")


@pytest.mark.parametrize("bring", [of_folder, of_entry_point])
def test_it_is_shown_of_its_asset_beside_what_the_asset_shows(request, standing, bring):
    documents = studies.artifact(standing, "documents", shard=studies.COAST)
    before = everything_shown(asset_graph()["documents"], documents)
    bring(request)
    pages._pages.cache_clear()
    after = everything_shown(asset_graph()["documents"], documents)
    assert after.keys() - before.keys() == {"document_lengths"}
    picture = after["document_lengths"]
    assert isinstance(picture, Picture)
    assert (picture.title, picture.png[:4]) == ("Length of each document", b"\x89PNG")
    assert [page.name for page in pages_of("curvature")] == ["spectra"], "other assets' pages are as they were"
