"""From results.json: the README's table, a plot, and the limits that the measurements are held against.

python -m benchmarks.report [--results benchmarks/results.json] [--readme README.md]
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import altair as alt
import polars as pl
import vl_convert

from benchmarks.agreement import THRESHOLD
from benchmarks.limits import lines
from benchmarks.rows import Row

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- speed: begin (python -m benchmarks.report) -->", "<!-- speed: end -->"
ESTIMATES = {"second_scores_32"}
"""Stages whose scores are estimates: compared at the agreement that is stated."""
NAMES = {
    "covariances": "covariances",
    "eigendecomposition": "eigendecomposition",
    "corrected_eigenvalues": "corrected eigenvalues",
    "scores_32": "scores, 32 queries",
    "scores_512": "scores, {queries} queries",
    "second_scores_32": "32 more queries, from sketches",
    "total": "whole job, {queries} queries",
}
HEADER = (
    "| size | stage | peer | sequences | peer, s | ours, s | ratio | of the pass alone | ours, training steps | "
    "counted limit | peak memory, MiB | beyond the libraries | on disk, MB | agreement |"
)
VARIANTS = {
    "sampled": "labels sampled from the model",
    "kept_memory": "with ours' memory allocator settings",
    "matched_batch": "with ours' batch size",
    "queries_rotated": "queries rotated, as for a larger corpus",
}


def main(given: list[str] | None = None) -> None:
    """Write the table into the README and the plot beside the results; print the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results.json")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    asked = parser.parse_args(given)
    rows: list[Row] = json.loads(asked.results.read_text())
    asked.results.with_suffix(".png").write_bytes(plot(rows))
    text = asked.readme.read_text()
    asked.readme.write_text(text.replace(between(text), section(rows)))
    print("\n".join(lines(rows)))


def between(text: str) -> str:
    """What stands between the README's markers, both included."""
    return text[text.index(BEGIN) : text.index(END) + len(END)]


def section(rows: list[Row]) -> str:
    """The README's generated part: a table for each device and precision."""
    kinds = list(dict.fromkeys((row["device"], row["dtype"]) for row in rows))
    tables = [table([row for row in rows if (row["device"], row["dtype"]) == kind]) for kind in kinds]
    return "\n".join([BEGIN, *(line for lines_of_one in tables for line in lines_of_one), END])


def table(rows: list[Row]) -> list[str]:
    """Caption, table and what was measured beside it."""
    alignment = "|" + " --- |" * 3 + " ---: |" * (HEADER.count("|") - 4)
    beside = [line for row in rows for line in variant_lines(row)]
    if beside:
        beside = ["Measured beside them:", "", *beside, ""]
    return [
        caption(rows),
        "",
        HEADER,
        alignment,
        *(line for row in rows for line in table_lines(row, rows)),
        "",
        *beside,
    ]


def caption(rows: list[Row]) -> str:
    """What the table was measured with."""
    first = rows[0]
    versions = first["versions"]
    sizes = {row["size"]: row for row in rows if row["subject"] == "training_step"}
    steps = "; ".join(
        f"{size} {_seconds(row):.3g} s for {row['sequences']} sequences of {row['tokens']} tokens"
        for size, row in sizes.items()
    )
    place = "CPU seconds" if first["device"] == "cpu" else f"wall seconds on {first['device_name']}"
    return (
        f"Medians in {place} ({first['dtype']}, {first['threads']} threads, torch {versions['torch']}, kronfluence "
        f"{versions.get('kronfluence', 'absent')}), in brackets the smallest and largest ratio of the repetitions. "
        f"The training step, forward and full backward: {steps}."
    )


def table_lines(row: Row, rows: list[Row]) -> Iterator[str]:
    """A line for each peer, and for each query batch that it was measured with."""
    if row["subject"] != "ours" or row["variant"] or row["stage"] not in NAMES:
        return
    name = NAMES[row["stage"]].format(queries=row["queries"])
    for against in row["peers"] or [None]:
        peer = None if against is None else peer_row(row, against, rows)
        cells = [
            row["size"], name, peer_name(against), str(row["sequences"]), _plain(peer), _plain(row),
            ratio(row, against, "whole"), ratio(row, against, "pass"), steps(row),
            "" if row["counted_training_steps"] is None else f"{row['counted_training_steps']:.2f}",
            f"{_mebibytes(row)} of {_mebibytes(peer)}", beyond(against), f"{row['bytes_on_disk'] / 1e6:.1f}",
            "" if against is None or against["agreement"] is None else f"{against['agreement']:.4f}",
        ]  # fmt: skip
        yield "| " + " | ".join(cells) + " |"


def peer_name(against: Row | None) -> str:
    """kronfluence's query batch with it where there are several."""
    if against is None:
        return ""
    batch = f", {against['query_batch']} queries at once" if against["query_batch"] else ""
    return f"{against['subject']}{batch}"


def peer_row(row: Row, against: Row, rows: list[Row]) -> Row | None:
    """The peer's row for the same stage."""
    same = ("size", "stage", "variant", "device", "dtype")
    for other in rows:
        alike = all(other[field] == row[field] for field in same)
        if alike and all(other[field] == against[field] for field in ("subject", "query_batch")):
            return other
    return None


def ratio(row: Row, against: Row | None, part: str) -> str:
    """How many times faster; nothing is called faster whose scores do not agree."""
    if against is None or against[part] is None:
        return ""
    if not against["scores_agree"] and row["stage"] not in ESTIMATES:
        return f"not compared: agreement below {THRESHOLD}"
    found = against[part]
    spread = f" ({found['smallest']:.3g}–{found['largest']:.3g})" if row["repetitions"] > 1 else ""
    return f"{found['median']:.3g}{spread}"


def steps(row: Row) -> str:
    """Training steps over the same sequences; of scores, the pass alone."""
    found = row.get("pass_training_steps") or row.get("training_steps")
    return "" if found is None else f"{found['median']:.3g}"


def beyond(against: Row | None) -> str:
    """Ours' share of the peer's memory, without what both processes hold before they have a model."""
    found = None if against is None else against["peak_memory_beyond_libraries"]
    return "" if found is None else f"{found:.2f}"


def variant_lines(row: Row) -> Iterator[str]:
    """What is measured beside the table."""
    if row["variant"]:
        name = NAMES[row["stage"]]
        found = f"{_seconds(row):.3g} s, {_mebibytes(row)} MiB"
        if row["pass_training_steps"]:
            found += f", the pass {row['pass_training_steps']['median']:.3g} training steps"
        yield f"- {row['size']}, {name}, {row['subject']}, {VARIANTS[row['variant']]}: {found}"
    elif row["stage"] == "sketches":
        found = f"{_seconds(row):.3g} s, {row['bytes_on_disk'] / 1e6:.1f} MB"
        yield f"- {row['size']}, sketches of {row['sequences']} sequences, ours alone: {found}"


def plot(rows: list[Row]) -> bytes:
    """Every stage in training steps over the same sequences, by subject; a line from the smallest to the largest."""
    drawn = pl.DataFrame(
        [
            {
                "size": row["size"],
                "stage": NAMES[row["stage"]].format(queries=row["queries"]),
                "subject": row["subject"] + (f", {row['query_batch']} at once" if row["query_batch"] else ""),
                **row["training_steps"],
            }
            for row in rows
            if row["stage"] in NAMES and not row["variant"] and row.get("training_steps")
        ]
    )
    order = list(dict.fromkeys(drawn["stage"]))
    shared = {
        "y": alt.Y("stage:N", sort=order, title=None, axis=alt.Axis(labelLimit=300)),
        "yOffset": "subject:N",
        "color": alt.Color("subject:N", title=None, legend=alt.Legend(orient="bottom", columns=3)),
    }
    title = "training steps over the same sequences"
    bars = alt.Chart().mark_bar(opacity=0.8).encode(x=alt.X("median:Q", title=title), **shared)
    spread = (
        alt.Chart().mark_rule(color="black").encode(x="smallest:Q", x2="largest:Q", y=shared["y"], yOffset="subject:N")
    )
    chart = alt.layer(bars, spread, data=drawn).properties(width=420).facet(row=alt.Row("size:N", title=None))
    return vl_convert.vegalite_to_png(chart.resolve_scale(x="independent", y="independent").to_json(), scale=1.5)


def _seconds(row: Row) -> float:
    clock = "cpu_seconds_median" if row["device"] == "cpu" else "wall_seconds_median"
    return float(row[clock])


def _plain(row: Row | None) -> str:
    return "" if row is None else f"{_seconds(row):.3g}"


def _mebibytes(row: Row | None) -> str:
    return "–" if row is None else f"{row['peak_memory_bytes'] / 2**20:.0f}"


if __name__ == "__main__":
    main()
