"""The metadata that Dagster's pages show for an artifact: the most useful first, then figures, then its storage."""

import base64
from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl

from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.notes import NOTES, notes_of
from influence_assets.engine.shown import Location, Picture, Shown, Table
from influence_assets.report.page import everything_shown
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.catalogue.statements import column_comments, statements

Metadata = dict[str, Any]

ORDER = (str, Picture, Table)
"""The kinds of metadata that come first: a sentence, a plot, a table."""


def metadata(asset: AssetDefinition, artifact: Artifact, *, computed: bool) -> Metadata:
    """Return all metadata of an artifact."""
    manifest = artifact.manifest
    figures = {
        name: value
        for name, value in manifest.summary.items()
        if name not in asset.hidden and name != NOTES and value is not None
    }
    storage: Metadata = {
        "seconds": round(manifest.seconds, 3),
        "bytes": manifest.bytes or None,  # an asset that publishes its content elsewhere shows that size itself
        "peak_memory_bytes": manifest.peak_memory_bytes,
        "path": dg.MetadataValue.path(str(artifact.folder)),
        "dagster/row_count": manifest.rows.get(manifest.asset),
    }
    outcome = f"computed in {manifest.seconds:.1f} s" if computed else "was up to date: nothing was done"
    notes = {NOTES: " ".join(notes_of(manifest))} if NOTES in manifest.summary else {}
    shown = metadata_values(_ordered({**everything_shown(asset, artifact), **notes, "outcome": outcome}))
    entries: Metadata = {
        **{name: value for name, value in shown.items() if name not in storage},
        **figures,
        **{f"rows_{table}": rows for table, rows in manifest.rows.items()},
        **storage,
        **_column_schemas(asset, artifact),
    }
    return {name: value for name, value in (entries | shown).items() if value is not None}


def _column_schemas(asset: AssetDefinition, artifact: Artifact) -> Metadata:
    """Return the columns of each table of an artifact; Dagster has a special page for the columns of one table."""
    published, schemas = statements("schema"), {}
    for table in artifact.manifest.rows:
        comments = column_comments(published[table].sql) if table in published else {}
        columns = [
            dg.TableColumn(name, type=str(dtype), description=comments.get(name))
            for name, dtype in artifact.table(table).collect_schema().items()
        ]
        schemas[table] = dg.MetadataValue.table_schema(dg.TableSchema(columns))
    main = asset.name if asset.name in schemas else next(iter(schemas), None)
    return {"dagster/column_schema" if table == main else f"columns_{table}": it for table, it in schemas.items()}


def metadata_values(shown: Mapping[str, Shown]) -> Metadata:
    """Return Dagster's metadata for an asset's own entries."""
    return {name: _metadata_value(value) for name, value in shown.items()}


def _ordered(shown: Mapping[str, Shown]) -> Mapping[str, Shown]:
    def place(entry: tuple[str, Shown]) -> int:
        return next((place for place, kind in enumerate(ORDER) if isinstance(entry[1], kind)), len(ORDER))

    return dict(sorted(shown.items(), key=place))


def _metadata_value(value: Shown) -> Any:
    if isinstance(value, Table):
        return _table(value.rows)
    if isinstance(value, Picture):
        encoded = base64.b64encode(value.png).decode()
        return dg.MetadataValue.md(f"![{value.title}](data:image/png;base64,{encoded})")
    if isinstance(value, Location):
        return dg.MetadataValue.path(str(value.path))
    return value


def _table(rows: pl.DataFrame) -> dg.TableMetadataValue:
    """Return a table in which every value is text, so that nothing from a corpus is taken for markup."""
    records = [dg.TableRecord({name: _text(value) for name, value in row.items()}) for row in rows.to_dicts()]
    schema = dg.TableSchema([dg.TableColumn(name) for name in rows.columns])
    return dg.MetadataValue.table(records, schema)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
