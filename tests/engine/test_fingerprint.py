"""The sensor's fingerprint changes with all that changes data versions, and with nothing else."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from influence_assets.assets import open_workspace
from influence_assets.corpus import source_format
from influence_assets.engine.fingerprint import fingerprint
from influence_assets.engine.graph import AssetGraph
from influence_assets.engine.workspace import Workspace
from influence_assets.extensions import EXTENSIONS
from influence_assets.methods import registry
from influence_assets.study import Study
from tests import studies
from tests.engine.small_assets import DOUBLED, LETTERS, TOTAL, lay_out

WITH_SQL = Path(__file__).parents[1] / "extension" / "parts"
CHANGES = {
    "code version": {"code_version": "2"},
    "settings": {"settings": lambda _study: {"rule": 2}},
    "source content": {"source_content": lambda _workspace, _partition: {"format_version": 2}},
}


@pytest.fixture
def small(tmp_path):
    """A study of two shards without a model of its own."""
    study = lay_out(tmp_path, {"a.txt": "first", "b.txt": "second"})
    return Study.model_validate(study.model_dump(mode="json") | {"model": {"train": {}}})


@pytest.mark.parametrize("asset", [LETTERS, DOUBLED, TOTAL], ids=lambda asset: asset.name)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_an_asset_puts_into_its_version_changes_it(small, asset, change):
    others = [other for other in (LETTERS, DOUBLED, TOTAL) if other is not asset]
    before = fingerprint(Workspace(small, lambda: AssetGraph([*others, asset])))
    after = fingerprint(Workspace(small, lambda: AssetGraph([*others, replace(asset, **change)])))
    assert before != after


def test_it_stays_where_nothing_changed(small):
    graphs = [AssetGraph([LETTERS, DOUBLED, TOTAL]) for _ in range(2)]
    one, other = (fingerprint(Workspace(small, lambda graph=graph: graph)) for graph in graphs)
    assert one == other


class TestPartsOfTheStudy:
    """Parts have versions of their own, which enter data versions by way of assets."""

    @pytest.fixture
    def changes(self, laid_out):
        """Whether what a block does to the code is seen."""
        before = fingerprint(open_workspace(laid_out))
        return lambda: fingerprint(open_workspace(laid_out)) != before

    @pytest.fixture
    def laid_out(self, tmp_path):
        return Study.load(studies.lay_out(tmp_path))

    def test_a_method_with_a_raised_version(self, changes, monkeypatch):
        methods = dict(registry.attribution_methods())
        methods["gradient_dot"] = replace(methods["gradient_dot"], code_version="99")
        monkeypatch.setattr(registry, "attribution_methods", lambda: methods)
        assert changes()

    def test_a_source_format_with_a_raised_version(self, changes, monkeypatch):
        raised = tuple(replace(one, version=99) for one in source_format.source_formats())
        monkeypatch.setattr(source_format, "source_formats", lambda: raised)
        assert changes()

    def test_another_statement_beside_an_asset(self, laid_out, tmp_path, monkeypatch):
        found = []
        for folder in ("before", "after"):
            shutil.copytree(WITH_SQL, tmp_path / folder)
            monkeypatch.setenv(EXTENSIONS, str(tmp_path / folder))
            if folder == "after":
                (view,) = tmp_path.glob("after/assets/**/views/*.sql")
                view.write_text(view.read_text() + "-- Another one.\n")
            found.append(fingerprint(open_workspace(laid_out)))
        assert found[0] != found[1]
