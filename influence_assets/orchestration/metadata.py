"""What the UI shows of an artifact: figures, tables and plots."""

import base64
from typing import Any

import dagster as dg
import polars as pl

from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.shown import Location, Picture, Shown, Table
from influence_assets.report.page import everything_shown
from influence_assets.storage.artifacts import Artifact


def metadata(asset: AssetDefinition, artifact: Artifact, *, computed: bool) -> dict[str, Any]:
    """Return everything the UI shows of an artifact."""
    manifest = artifact.manifest
    figures = {name: value for name, value in manifest.summary.items() if name not in asset.hidden}
    shown: dict[str, Any] = {
        "outcome": "computed" if computed else "stood already: nothing was done",
        "seconds": round(manifest.seconds, 3),
        "bytes": manifest.bytes,
        "peak_memory_bytes": manifest.peak_memory_bytes,
        "path": dg.MetadataValue.path(str(artifact.folder)),
        **{f"rows_{table}": rows for table, rows in manifest.rows.items()},
        **{name: value for name, value in figures.items() if value is not None},
    }
    if manifest.asset in manifest.rows:
        shown["dagster/row_count"] = manifest.rows[manifest.asset]
    return shown | {name: _value(value) for name, value in everything_shown(asset, artifact).items()}


def _value(value: Shown) -> Any:
    if isinstance(value, Table):
        return table(value.rows)
    if isinstance(value, Picture):
        return image(value.png, value.title)
    return dg.MetadataValue.path(str(value.path)) if isinstance(value, Location) else value


def table(frame: pl.DataFrame) -> dg.TableMetadataValue:
    """A table in the UI, every value as text: the corpus's own text is data there, never markup."""
    records = [dg.TableRecord({name: _text(value) for name, value in row.items()}) for row in frame.to_dicts()]
    schema = dg.TableSchema([dg.TableColumn(name) for name in frame.columns])
    return dg.MetadataValue.table(records, schema)


def image(png: bytes, title: str) -> dg.MarkdownMetadataValue:
    """A picture in the UI."""
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
