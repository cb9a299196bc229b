"""What the UI shows of an artifact: figures, tables and plots."""

import base64
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
import polars as pl

from influence_assets.engine.workspace import CATALOGUE
from influence_assets.storage.artifacts import Artifact

HIDDEN = frozenset(
    {"layers", "shapes", "damping", "fitted_shards", "config", "identity", "inserted_rows", "withdrawn", "drift"}
)
ROWS_SHOWN = 10
SAMPLED_SCORES = "select query_id, influence_nats from current_scores using sample 20000"


def metadata(artifact: Artifact, *, computed: bool) -> dict[str, Any]:
    """Everything the UI shows of an artifact."""
    manifest = artifact.manifest
    shown: dict[str, Any] = {
        "outcome": "computed" if computed else "stood already: nothing was done",
        "seconds": round(manifest.seconds, 3),
        "bytes": manifest.bytes,
        "peak_memory_bytes": manifest.peak_memory_bytes,
        "path": dg.MetadataValue.path(str(artifact.folder)),
        **{f"rows_{table}": rows for table, rows in manifest.rows.items()},
        **{name: value for name, value in manifest.summary.items() if name not in HIDDEN and value is not None},
    }
    if manifest.asset in manifest.rows:
        shown["dagster/row_count"] = manifest.rows[manifest.asset]
    if (extra := EXTRAS.get(manifest.asset)) is not None:
        shown |= extra(artifact)
    return shown


def _documents(artifact: Artifact) -> Mapping[str, Any]:
    # No text and no title: events are kept for ever, and a document may be withdrawn.
    columns = ("document_id", "source", "licence", "characters")
    return {"first_documents": table(artifact.table("documents").select(columns).head(ROWS_SHOWN).collect())}


def _curvature(artifact: Artifact) -> Mapping[str, Any]:
    from influence_assets.report.plots import spectra

    damping: dict[str, float] = artifact.manifest.summary["damping"]
    eigenvalues = {layer: artifact.array(f"{layer}.corrected_eigenvalues") for layer in damping}
    return {
        "spectra": image(spectra(eigenvalues, damping), "Corrected eigenvalues"),
        "layers": table(artifact.table("modules").drop("generation_id").collect()),
    }


def _curvature_drift(artifact: Artifact) -> Mapping[str, Any]:
    from influence_assets.report.plots import drift

    layers, shards = (artifact.table(name).collect() for name in ("layer_drift", "shard_drift"))
    return {"plot": image(drift(layers, shards), "Drift of each layer and shard")}


def _query_gradients(artifact: Artifact) -> Mapping[str, Any]:
    columns = ("query_id", "prompt", "completion", "completion_tokens", "log_probability_nats", "gradient_norm")
    return {"first_queries": table(artifact.table("queries").select(columns).head(ROWS_SHOWN).collect())}


def _influence_scores(artifact: Artifact) -> Mapping[str, Any]:
    strongest = artifact.table("influence_scores").sort("influence_nats", descending=True).head(ROWS_SHOWN)
    return {"strongest": table(strongest.select("query_id", "sequence_id", "influence_nats").collect())}


def _influence_catalogue(artifact: Artifact) -> Mapping[str, Any]:
    from influence_assets.report.plots import score_distribution
    from influence_assets.storage.catalogue import query

    rows: dict[str, int] = artifact.manifest.summary["inserted_rows"]
    file = artifact.folder.parents[2] / CATALOGUE
    return {
        "path": dg.MetadataValue.path(str(file)),
        "distribution": image(score_distribution(query(file, SAMPLED_SCORES)), "Distribution of scores"),
        "inserted": table(pl.DataFrame({"table": list(rows), "rows": list(rows.values())})),
    }


EXTRAS: Mapping[str, Callable[[Artifact], Mapping[str, Any]]] = {
    "documents": _documents,
    "curvature": _curvature,
    "curvature_drift": _curvature_drift,
    "query_gradients": _query_gradients,
    "influence_scores": _influence_scores,
    "influence_catalogue": _influence_catalogue,
}


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
