"""Whether two commits give the same results: everything that the command `influence` makes of one small study.

    python -m tests.golden.same_results snapshot BEFORE.json --tree OLD_CHECKOUT
    python -m tests.golden.same_results snapshot AFTER.json
    python -m tests.golden.same_results compare BEFORE.json AFTER.json

Only the command is called, as a process of its own, and only the DuckDB file and Dagster's are read: so it works for
any two commits, whatever became of the modules between them. A snapshot follows the study through its life: computed,
a document withdrawn, a file added, a new generation, and everything verified, collected and built anew. It holds

- every row of every table, view and macro; data versions and ids exactly, numbers to 1e-9 of the column's largest;
- what the catalogue consists of, with its comments, and what Dagster was told: assets, partition keys and checks;
- the sub-commands with their arguments and options, and the figures of a few answers.

What differs from one run to the next is left out: times, hosts, runs, memory, sizes and the study's folder.
"""

import argparse
import json
import math
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb

from tests.golden import tiny_study

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = "<study>"
"""In the place of the study's folder, wherever a value names it."""

OF_THE_RUN = frozenset(
    {
        "bytes", "content_version", "cpu_seconds", "created_at", "day", "host", "loaded_at", "peak_memory_bytes",
        "removed_at", "run_id", "schema_version", "seconds", "started_at", "states_version",
    }
)  # fmt: skip
"""Columns that differ from one run to the next, or with the wording of a statement."""

TOLERANCES = {"float64": 1e-9, "float32": 1e-4}
"""By which share of a column's largest number two of its numbers may differ, by the precision of the passes."""

LONGEST_SHOWN = 240
"""Characters of a value or row that is printed."""

_CALLS = {
    "strongest": "select q.query_id as asked, s.* from queries as q, strongest(q.query_id, 4) as s",
    "strongest_of_each": "from strongest_of_each(3)",
    "ancestry_of": "select m.asset as of_asset, m.partition as of_partition, a.* from materializations as m, "
    "ancestry_of(m.materialization_id) as a where m.asset in ('influence_scores', 'curvature_drift')",
    "dependents_of_document": "select d.document_id as of_document, x.* from documents as d, "
    "dependents_of_document(d.document_id) as x",
}
"""Macros, each asked about everything."""

Snapshot = dict[str, Any]


class Commands:
    """Runs `influence` of a tree on a study.

    Args:
        tree: a checkout, whose package is the one that runs.
        study: the study's file.
    """

    def __init__(self, tree: Path, study: Path) -> None:
        self._study = study
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER", "INFLUENCE"))},
            "PYTHONPATH": str(tree),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
            "NO_COLOR": "1",
        }
        package = self._call([sys.executable, "-c", "import influence_assets; print(influence_assets.__file__)"])
        if not Path(package.strip()).is_relative_to(tree):
            raise SystemExit(f"The package that runs is {package.strip()}, not the one in {tree}.")

    def __call__(self, *arguments: str) -> str:
        """What a sub-command prints; its failure ends everything."""
        print("influence", *arguments, file=sys.stderr, flush=True)
        return self._call([str(Path(sys.executable).with_name("influence")), *arguments])

    def _call(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, env=self._environment, cwd=self._study.parent,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout


def snapshot(tree: Path) -> Snapshot:
    """The life of the study with the package of a tree, in float64; its first stage in float32 too."""
    with tempfile.TemporaryDirectory(prefix="same-results-") as folder:
        study = tiny_study.lay_out(Path(folder).resolve() / "float64")
        influence = Commands(tree, study)
        taken: Snapshot = {"command": _command(influence), "stages": {}}
        stages = taken["stages"]
        for stage in _life(influence, study.parent):
            stages[f"float64, {stage}"] = _catalogue(study.parent)
        taken["answer"] = _figures(influence("ask", "--prompt", "The ships carry", "--completion", " the bell"))
        taken["dagster"] = _dagster(study.parent / "store" / ".dagster")
        taken["store"] = sorted(_artifacts(study.parent / "store"))
        study = tiny_study.lay_out(Path(folder).resolve() / "float32", model={"dtype": "float32"})
        Commands(tree, study)("run")
        stages["float32, computed"] = _catalogue(study.parent)
    return taken


def _life(influence: Commands, folder: Path) -> Iterator[str]:
    """What happens to the study; yields the name of each stage that it has come to."""
    influence("run")
    yield "computed"
    (document,) = _rows(folder, f"select document_id from documents where title = '{tiny_study.WITHDRAWN_TITLE}'")
    influence("forget", "--document", document["document_id"], "--reason", "asked for by the author")
    yield "a document withdrawn"
    tiny_study.add_a_file(folder)
    influence("run")
    yield "a file added"
    influence("run", "--new-generation")
    yield "a new generation"
    influence("verify")
    influence("gc", "--keep", "0")
    influence("rebuild-catalogue")
    yield "collected and built anew"


def _rows(folder: Path, sql: str) -> list[dict[str, Any]]:
    """The answer of the catalogue, without what is the run's."""
    with duckdb.connect(str(folder / "store" / "influence.duckdb"), read_only=True) as connection:
        answer = connection.execute(sql)
        names = [column[0] for column in answer.description]
        rows = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
    return [{name: _plain(value, folder) for name, value in row.items() if name not in OF_THE_RUN} for row in rows]


def _plain(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return value.replace(str(folder), FOLDER)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, datetime | date):
        return None
    return value if isinstance(value, int | float | bool | None) else str(value)


def _catalogue(folder: Path) -> Snapshot:
    """Everything in the DuckDB file."""
    tables = _rows(folder, "select table_name, comment from duckdb_tables() where not internal")
    views = _rows(folder, "select view_name, comment from duckdb_views() where not internal")
    columns = "select table_name, column_name, data_type, is_nullable, comment from duckdb_columns() where not internal"
    macros = (
        "select function_name, function_type, parameters::varchar as parameters, comment from duckdb_functions() "
        "where not internal and function_type in ('macro', 'table_macro')"
    )
    names = [row["table_name"] for row in tables] + [row["view_name"] for row in views]
    return {
        "tables": tables,
        "views": views,
        "columns": _rows(folder, columns),
        "macros": _rows(folder, macros),
        "rows": {name: _rows(folder, f'from "{name}"') for name in names},
        "calls": {name: _rows(folder, sql) for name, sql in _CALLS.items()},
    }


def _dagster(home: Path) -> Snapshot:
    """The partition keys and checks that Dagster was told of, and the assets that it has events of."""
    with closing(sqlite3.connect(home / "history" / "runs" / "index.db")) as index:
        questions = {
            "partitions": "select partitions_def_name, partition from dynamic_partitions",
            "checks": "select distinct asset_key, check_name from asset_check_executions",
            "assets": "select asset_key from asset_keys",
        }
        return {name: sorted(" ".join(row) for row in index.execute(sql)) for name, sql in questions.items()}


def _artifacts(store: Path) -> Iterator[str]:
    """The artifacts in the store, by asset, partition and version."""
    for manifest in store.glob("[!.]*/*/[!.]*/manifest.json"):
        yield manifest.parent.relative_to(store).as_posix()


def _command(influence: Commands) -> Snapshot:
    """Every sub-command with the names of its arguments and options, as `--help` lists them."""
    names = re.findall(r"^│ ([a-z][a-z-]*) {2,}", influence("--help"), re.MULTILINE)
    return {name: _parameters(influence(name, "--help")) for name in names}


def _parameters(shown: str) -> list[str]:
    """The arguments and options that a help text lists, each option with its short form."""
    first_columns = r"^│ \*? *(--?[a-z-]+|[a-z_]+)(?: +(-[a-z]))? {2,}"
    return sorted(" ".join(filter(None, names)) for names in re.findall(first_columns, shown, re.MULTILINE))


def _figures(shown: str) -> list[str]:
    """The numbers in what a command printed, in order."""
    return re.findall(r"[-+]\d+(?:\.\d+)?(?:e-?\d+)?", shown)


def differences(before: Any, after: Any, *, place: str = "", tolerance: float = 0.0) -> Iterator[str]:
    """What differs between two snapshots, or parts of them, one line each."""
    if place.startswith("/stages/"):
        tolerance = TOLERANCES[place.split("/")[2].split(",")[0]]
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted(before.keys() | after.keys()):
            if name not in before or name not in after:
                yield f"{place}/{name}: is only {'after' if name in after else 'before'}"
            else:
                yield from differences(before[name], after[name], place=f"{place}/{name}", tolerance=tolerance)
    elif _is_table(before) and _is_table(after):
        yield from _table_differences(before, after, place, tolerance)
    elif before != after:
        yield f"{place}: {_short(before)} before, {_short(after)} after"


def _is_table(rows: Any) -> bool:
    return isinstance(rows, list) and all(isinstance(row, dict) for row in rows)


def _table_differences(before: list[Snapshot], after: list[Snapshot], place: str, tolerance: float) -> Iterator[str]:
    """Rows in any order: matched by all that is compared exactly, then number by number."""
    columns = [list(rows[0]) if rows else [] for rows in (before, after)]
    shared = columns[0] or columns[1]
    if before and after:
        for name in sorted(set(columns[0]) ^ set(columns[1])):
            yield f"{place}.{name}: is a column only {'after' if name in columns[1] else 'before'}"
        shared = [name for name in columns[0] if name in columns[1]]
    numbers = [name for name in shared if any(isinstance(row[name], float) for row in (*before, *after))]
    rows = [_ordered(side, [name for name in shared if name not in numbers], numbers) for side in (before, after)]
    unmatched = list(_unmatched(*([exact for exact, _ in side] for side in rows)))
    yield from (f"{place}: {row}" for row in unmatched)
    if unmatched:
        return
    largest = [max(_size(values[index]) for side in rows for _, values in side) for index in range(len(numbers))]
    for (exact, old), (_, new) in zip(*rows, strict=True):
        for name, one, other, size in zip(numbers, old, new, largest, strict=True):
            if not _is_close(one, other, tolerance * size):
                yield f"{place}.{name}: {_short(one)} before, {_short(other)} after, at {exact[:LONGEST_SHOWN]}"


def _ordered(rows: list[Snapshot], exact: list[str], numbers: list[str]) -> list[tuple[str, list[Any]]]:
    """What is compared exactly of each row, as text, and its numbers."""
    split = [
        (json.dumps({name: row[name] for name in exact}, ensure_ascii=False), [row[name] for name in numbers])
        for row in rows
    ]
    return sorted(split, key=lambda row: (row[0], [_size(value) for value in row[1]]))


def _unmatched(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    """The rows that are on one side alone."""
    counts = Counter(before), Counter(after)
    for side, rows in (("before", counts[0] - counts[1]), ("after", counts[1] - counts[0])):
        for row in rows.elements():
            yield f"only {side} {row[:LONGEST_SHOWN]}"


def _size(value: Any) -> float:
    return abs(value) if isinstance(value, int | float) else 0.0


def _is_close(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= tolerance
    return bool(one == other)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} …"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    actions = parser.add_subparsers(dest="action", required=True)
    taking = actions.add_parser("snapshot", help="run the study and write what came of it")
    taking.add_argument("file", type=Path)
    taking.add_argument("--tree", type=Path, default=REPOSITORY, help="the checkout whose package runs")
    comparing = actions.add_parser("compare", help="print what differs; ends with 1 if anything does")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.action == "snapshot":
        given.file.write_text(json.dumps(snapshot(given.tree.resolve()), ensure_ascii=False), encoding="utf-8")
        return
    before, after = (json.loads(file.read_text(encoding="utf-8")) for file in (given.before, given.after))
    lines = list(differences(before, after))
    print(*lines, sep="\n", end="\n" if lines else "")
    print(f"{len(lines)} differences" if lines else "No differences.")
    raise SystemExit(bool(lines))


if __name__ == "__main__":
    main()
