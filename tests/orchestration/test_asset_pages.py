"""What the page of an asset says beside its figures: columns, owners, its code, and files that are gone."""

from pathlib import Path

import dagster as dg
import pytest

import influence_assets
from influence_assets.orchestration.definitions import build_definitions
from influence_assets.orchestration.sources import FILE_EXISTS, FILE_GONE
from influence_assets.study import Study
from tests import studies
from tests.studies import COAST

PACKAGE = Path(influence_assets.__file__).parent


def latest(located, asset, partition=None):
    """The metadata of an asset's last materialization."""
    records = located.instance.fetch_materializations(
        dg.AssetRecordsFilter(located.key(asset), asset_partitions=None if partition is None else [partition]), limit=1
    ).records
    return records[0].asset_materialization.metadata


def test_columns_are_explained_by_the_comments_of_the_sql_schema(computed):
    schema = latest(computed, "documents", COAST)["dagster/column_schema"].schema
    columns = {column.name: (column.type, column.description) for column in schema.columns}
    assert columns["characters"] == ("Int64", "Characters of its text.")
    assert columns["document_id"][1] == "First 32 hex digits of the sha256 of the document's UTF-8 text."
    metadata = latest(computed, "token_sequences", COAST)
    tables = {"columns_sequences", "columns_sequence_documents", "dagster/column_schema"} & metadata.keys()
    assert len(tables) == 2, "one for each table, the first on Dagster's own page"


def test_a_person_reads_the_outcome_then_pictures_then_tables_then_figures(computed):
    names = list(latest(computed, "curvature"))
    places = [
        names.index(name)
        for name in ("in_short", "outcome", "spectra", "layers", "attributed_share", "seconds", "path")
    ]
    assert places == sorted(places)


@pytest.fixture
def definitions(tmp_path):
    path = studies.write_study(tmp_path, automation={"enabled": False, "owners": ["ada@example.org", "team:models"]})
    return build_definitions([Study.load(path)])


def test_owners_are_those_of_the_study(definitions):
    specs = [spec for spec in definitions.resolve_all_asset_specs() if spec.metadata.get("dagster/code_references")]
    assert len(specs) == len(studies.shown())
    assert {owner for spec in specs for owner in spec.owners} == {"ada@example.org", "team:models"}


def test_the_code_of_an_asset_is_its_own_file(definitions):
    for spec in definitions.resolve_all_asset_specs():
        references = spec.metadata.get("dagster/code_references")
        if references is not None:
            (reference,) = references.code_references
            name = spec.key.path[-1]
            assert reference.label == name
            assert Path(reference.file_path) == PACKAGE / "assets" / f"{name}.py"
            line = Path(reference.file_path).read_text(encoding="utf-8").splitlines()[reference.line_number - 1]
            assert line.startswith("def ")


def observed(located, asset):
    """What was observed of the partition of the file that goes, the last first."""
    wanted = dg.AssetRecordsFilter(located.key(asset), asset_partitions=[COAST])
    records = located.instance.fetch_observations(wanted, limit=10).records
    return [record.asset_observation.metadata["file"].value for record in records]


def test_partitions_of_a_file_that_is_gone_say_so(computed):
    path = computed.path.parent / "corpus" / COAST
    content = path.read_bytes()
    assert observed(computed, "gradient_sketches") == []
    path.unlink()
    computed.sense()
    assert observed(computed, "gradient_sketches") == [FILE_GONE]
    assert observed(computed, "source_files")[0] == FILE_GONE
    computed.sense()
    assert observed(computed, "gradient_sketches") == [FILE_GONE], "once"
    path.write_bytes(content)
    computed.sense()
    assert observed(computed, "gradient_sketches") == [FILE_EXISTS, FILE_GONE]
