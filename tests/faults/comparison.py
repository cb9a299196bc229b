"""What a store should be, told without it: a from-scratch build in the same generations, and a search of every byte."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from influence_assets.assets import asset_graph, open_workspace
from influence_assets.engine.plan import plan
from influence_assets.engine.versions import Versions
from influence_assets.engine.workspace import Workspace
from influence_assets.storage.artifacts import Artifact, ArtifactStore
from influence_assets.storage.artifacts.manifest import ArtifactKey, Manifest, salvaged, sealed
from influence_assets.storage.catalogue import loaded_keys, query
from influence_assets.study import Study
from tests.faults import working

TABLES = (
    "shards", "documents", "sequences", "sequence_documents", "queries", "generations", "modules", "layer_drift",
    "influence_scores", "method_scores", "method_part_scores", "layer_influence", "token_influence", "materializations",
    "materialization_inputs", "tombstones", "partition_states", "catalogue",
)  # fmt: skip
OF_THE_RUN = {
    "run_id", "host", "device", "started_at", "seconds", "cpu_seconds", "peak_memory_bytes", "bytes", "loaded_at",
    "has_holes",
}  # fmt: skip
FROZEN = ("eigenbases", "corrected_eigenvalues", "curvature")
OF_EARLIER_GENERATIONS = {"influence_scores", "method_scores", "query_gradients", "influence_catalogue"}
AT_THE_TOP = {
    ".cache",
    ".dagster",
    ".failed_checks.lock",
    ".in_use",
    ".lock",
    "influence_store.json",
    "influence.duckdb",
    "influence.duckdb.lock",
}
CACHES = (
    "sources.json",
    "weights.json",
    "withdrawn.json",
    "last_generation.json",
    "requested_generation.json",
    "runs",
    "catalogue.json",
    "bad_rows.json",
    "failed_checks.json",
)
LISTS = {"withdrawn.jsonl", ".withdrawn.jsonl.lock", "tombstones.jsonl", ".tombstones.jsonl.lock", ".copies"}
Manifests = dict[ArtifactKey, Manifest]


def workspace(study: Path) -> Workspace:
    """A fresh look."""
    return open_workspace(Study.load(study))


def manifests(store: ArtifactStore) -> Manifests:
    """All manifests, those of records too."""
    return {manifest.key: manifest for manifest in store.manifests(with_records=True)}


def with_ancestors(keys: Iterable[ArtifactKey], known: Manifests) -> set[ArtifactKey]:
    """These artifacts and all that they were computed from."""
    unseen, found = list(keys), set()
    while unseen:
        key = unseen.pop()
        if key not in found:
            found.add(key)
            unseen += known[key].inputs if key in known else ()
    return found


def from_scratch(study: Path) -> Path:
    """The study file of a store that holds the frozen parts of the first and nothing else, brought up to date.

    Frozen are the generations that the catalogue holds: their eigenbases, their Λ and their curvature. Of what those
    were computed from there are only records, so that the lineage is known and everything is computed anew. The
    generations come one after the other, as they did in the first.
    """
    first = workspace(study)
    described = yaml.safe_load(study.read_text())
    described["storage"] = {"root": "again"}
    again = study.with_name("again.yaml")
    again.write_text(yaml.safe_dump(described))
    root = study.parent / "again"
    shutil.rmtree(root, ignore_errors=True)
    second = workspace(again)
    for name in ("withdrawn.jsonl", "tombstones.jsonl"):
        if (first.store.root / name).exists():
            shutil.copy(first.store.root / name, root / name)
    known = manifests(first.store)
    curvatures = [key for key in loaded_keys(first.catalogue) if key.asset == "curvature"]
    for key in sorted(curvatures, key=lambda key: known[key].summary["generation_id"]):
        _freeze(key, known, first.store, second.store)
        ran = working.run(again)
        assert not ran.failures, ran.failures
        assert not ran.left_out
    return again


def _freeze(curvature: ArtifactKey, known: Manifests, source: ArtifactStore, target: ArtifactStore) -> None:
    for key in with_ancestors([curvature], known):
        if target.holds(key):
            continue
        shutil.rmtree(target.place(key), ignore_errors=True)
        if source.holds(key):
            shutil.copytree(source.place(key), target.place(key))
            if key.asset not in FROZEN:
                target.reduce_to_record(key)
        else:
            record = source.place(key).with_name(f".record-{key.data_version}.json")
            target.place(key).parent.mkdir(parents=True, exist_ok=True)
            # Of a version of old that was damaged there is no record, but a manifest.
            known_by = record if record.exists() else source.place(key) / "manifest.json"
            target.place(key).with_name(record.name).write_bytes(sealed(salvaged(known_by.read_bytes())))


def rows(study: Path) -> dict[str, pl.DataFrame]:
    """Every table, without what is of a run."""
    return {table: _rows(workspace(study).catalogue, table) for table in TABLES}


def assert_equal_tables(found: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    """The same rows in every table."""
    for table in TABLES:
        assert_equal_rows(table, found[table], expected[table])


def assert_equal_catalogues(study: Path, again: Path) -> None:
    """Every table holds the same; of a generation before the current one, the first may lack what changed since."""
    one, other = workspace(study).catalogue, workspace(again).catalogue
    current = query(one, "select generation_id from generations where is_current").item()
    has_earlier = query(one, "select count(*) from generations").item() > 1
    for table in TABLES:
        found, expected = (_rows(path, table) for path in (one, other))
        if has_earlier:
            found, expected = _comparable(table, found, expected, current)
        assert_equal_rows(table, found, expected)


def _rows(path: Path, table: str) -> pl.DataFrame:
    frame = query(path, f"from {table}")
    return frame.select(column for column in frame.columns if column not in OF_THE_RUN)


def _comparable(
    table: str, found: pl.DataFrame, expected: pl.DataFrame, current: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Without what only the scores of the generation before decide, which must be a part of what is expected."""
    if table == "catalogue":
        return found.drop("content_version", "states_version"), expected.drop("content_version", "states_version")
    if table == "partition_states":
        found, expected = (f.filter(pl.col("asset") != "influence_catalogue") for f in (found, expected))
    if table == "materializations":
        surplus = expected.join(found, on="materialization_id", how="anti")
        assert set(surplus["asset"]) <= OF_EARLIER_GENERATIONS, surplus
        expected = expected.join(found, on="materialization_id", how="semi")
    if table == "materialization_inputs":
        expected = expected.join(found, on="materialization_id", how="semi")
    if table in ("influence_scores", "method_scores", "method_part_scores"):
        keys = [name for name, dtype in expected.schema.items() if not dtype.is_float()]
        is_earlier = pl.col("generation_id").fill_null(current) != current
        expected = pl.concat(
            [expected.filter(~is_earlier), expected.filter(is_earlier).join(found, on=keys, how="semi")]
        )
    return found, expected


def assert_equal_rows(table: str, found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """The same rows in any order; numbers of measurements to rounding."""
    keys = [name for name, dtype in expected.schema.items() if not dtype.is_float()]
    numbers = [name for name in expected.columns if name not in keys]
    found, expected = found.sort(keys, nulls_last=True), expected.sort(keys, nulls_last=True)
    if not found.select(keys).equals(expected.select(keys)):
        lost, doubled = (
            a.join(b, on=keys, how="anti", nulls_equal=True) for a, b in ((expected, found), (found, expected))
        )
        raise AssertionError(f"{table}: {found.height} rows, not {expected.height}; lost: {lost}; too many: {doubled}")
    for name in numbers:
        a, b = found[name].to_numpy(), expected[name].to_numpy()
        largest = np.max(np.abs(b), initial=0.0, where=~np.isnan(b))
        # A share of squares: where nothing has drifted it is the square of rounding.
        rounding = max(1e-12 * largest, 1e-15 if name == "drift" else 0.0)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=rounding, err_msg=f"{table}.{name}")


def assert_no_orphans(study: Path) -> None:
    """Nothing is in the store but what is wanted, published, or an ancestor of either."""
    look = workspace(study)
    known = manifests(look.store)
    wanted = _standing(Versions(look, "published")) | _standing(Versions(look, "newest"))
    needed = with_ancestors(wanted | set(loaded_keys(look.catalogue)), known)
    root = look.store.root
    top = {path.name for path in root.iterdir()}
    unknown = top - AT_THE_TOP - LISTS - {asset.name for asset in asset_graph()}
    assert not unknown, f"unknown at the top of the store: {unknown}"
    hidden = {path.name for path in (root / ".cache").iterdir()}
    assert hidden <= {f"{name}{end}" for name in CACHES for end in ("", ".partial")}, hidden
    places = {look.store.place(key) for key in needed}
    for asset in (root / name for name in top & {asset.name for asset in asset_graph()}):
        partitions = list(asset.iterdir())
        assert partitions, f"{asset} is empty"
        for partition in partitions:
            _assert_all_needed(partition, places)


def _standing(versions: Versions) -> set[ArtifactKey]:
    states = [(state.asset, held.partition) for state in plan(versions) for held in state.of("standing")]
    return {key for step, partition in states if (key := versions.key(step, partition)) is not None}


def _assert_all_needed(partition: Path, places: set[Path]) -> None:
    kept = 0
    for entry in partition.iterdir():
        if entry.name in (".lock", ".claim"):
            continue
        if entry.name.startswith(".record-"):
            place = partition / entry.name.removeprefix(".record-").removesuffix(".json")
        else:
            assert entry.is_dir(), entry
            place = entry
        assert place in places, f"{entry} is of no use to anybody"
        kept += 1
    assert kept, f"{partition} is empty"


def traces(study: Path, words: dict[str, list[int]]) -> list[tuple[str, str]]:
    """Where in the store words are found: in the raw bytes of any file, and in what they stand for.

    Args:
        study: the study.
        words: that are in one document alone, each with its tokens.
    """
    look = workspace(study)
    found = []
    for path in (path for path in look.store.root.rglob("*") if path.is_file()):
        raw = path.read_bytes()
        found += [(str(path), word) for word in words if word.encode() in raw]
        if path.suffix == ".parquet":
            text = _all_text(pl.read_parquet(path, glob=False))
            found += [(f"{path}, decompressed", word) for word in words if word in text]
    for manifest in look.store.manifests(with_damaged=True):
        found += _tokens_in(look.store.open(manifest.key), words)
    for (table,) in query(look.catalogue, "select table_name from duckdb_tables()").rows():
        text = _all_text(query(look.catalogue, f"from {table}"))
        found += [(f"table {table}", word) for word in words if word in text]
    return found


def _all_text(frame: pl.DataFrame) -> str:
    """Every text of a table, column by column without anything between, as tokens of a word may stand in rows."""
    columns = (frame[name].drop_nulls().to_list() for name, dtype in frame.schema.items() if dtype == pl.String)
    return "\n".join("".join(column) for column in columns)


def _tokens_in(artifact: Artifact, words: dict[str, list[int]]) -> Iterator[tuple[str, str]]:
    for name in artifact.array_names():
        values = artifact.array(name)
        if np.issubdtype(values.dtype, np.integer):
            # Padding stands at the end of sequences that are not full; documents go on over the ends of full ones.
            flat = _spelled(values[values >= 0])
            place = f"{artifact.key}, array {name}"
            yield from ((place, word) for word, tokens in words.items() if _spelled(tokens) in flat)


def _spelled(tokens: Any) -> bytes:
    return b" " + b" ".join(str(int(token)).encode() for token in np.ravel(tokens)) + b" "
