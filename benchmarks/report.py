"""Write what was measured: the README's table, the long one of docs/benchmarks.md, a plot, and how limits were met.

python -m benchmarks.report [--results benchmarks/results.json] [--readme README.md] [--page docs/benchmarks.md]
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
FIGURES = "<!-- figures: begin (python -m benchmarks.report) -->", "<!-- figures: end -->"
"""Around the README's table."""

SPEED = "<!-- speed: begin (python -m benchmarks.report) -->", "<!-- speed: end -->"
"""Around the long table."""

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
    """Write both tables and the plot; print how the limits were met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results.json")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/benchmarks.md")
    options = parser.parse_args(given)
    rows: list[Row] = json.loads(options.results.read_text())
    options.results.with_suffix(".png").write_bytes(plot(rows))
    for file, markers, text in ((options.readme, FIGURES, figures(rows)), (options.page, SPEED, section(rows))):
        before = file.read_text()
        file.write_text(before.replace(between(before, markers), text))
    print("\n".join(lines(rows)))


def between(text: str, markers: tuple[str, str]) -> str:
    """Return what is between two markers, both included."""
    begin, end = markers
    return text[text.index(begin) : text.index(end) + len(end)]


def figures(rows: list[Row]) -> str:
    """Return the README's part: every stage at the first size, with the whole job at the others in the caption."""
    size, device, dtype = (rows[0][field] for field in ("size", "device", "dtype"))
    same = [row for row in rows if (row["device"], row["dtype"]) == (device, dtype)]
    ours = [row for row in same if row["subject"] == "ours" and not row["variant"] and row["stage"] in NAMES]
    head = ["| stage | ours, s | kronfluence, s | ratio | agreement |", "|---|---:|---:|---:|---:|"]
    body = (line for row in ours if row["size"] == size for line in figure_lines(row, same))
    whole = "; ".join(
        f"at the size {row['size']} the whole job's ratio is {row['peers'][0]['whole']['median']:#.3g}"
        for row in ours
        if row["stage"] == "total" and row["size"] != size and row["peers"]
    )
    first = rows[0]
    caption = (
        f"{'CPU seconds' if device == 'cpu' else 'Wall seconds'} at the size {size} ({dtype}, {first['threads']} "
        f"threads, one machine){'; ' + whole if whole else ''}."
    )
    return "\n".join([FIGURES[0], *head, *body, "", caption, FIGURES[1]])


def figure_lines(row: Row, rows: list[Row]) -> Iterator[str]:
    """Yield a line for each query batch that kronfluence was measured with."""
    for against in row["peers"]:
        if against["subject"] != "kronfluence":
            continue
        batch = f" (peer: {against['query_batch']} at once)" if against["query_batch"] else ""
        stage = NAMES[row["stage"]].format(queries=row["queries"]) + batch
        cells = [stage, _plain(row), _plain(peer_row(row, against, rows)), _times(row, against)]
        yield "| " + " | ".join([*cells, f"{against['agreement']:.4f}"]) + " |"


def section(rows: list[Row]) -> str:
    """Return the long table's part: a table for each device and precision."""
    kinds = list(dict.fromkeys((row["device"], row["dtype"]) for row in rows))
    tables = [table([row for row in rows if (row["device"], row["dtype"]) == kind]) for kind in kinds]
    return "\n".join([SPEED[0], *(line for lines_of_one in tables for line in lines_of_one), SPEED[1]])


def table(rows: list[Row]) -> list[str]:
    """Return the caption, the table and what was measured beside it."""
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
    """Return what the table was measured with."""
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
    """Yield a line for each peer, and for each query batch that it was measured with."""
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
    """Return the peer's name, with its query batch where there are several."""
    if against is None:
        return ""
    batch = f", {against['query_batch']} queries at once" if against["query_batch"] else ""
    return f"{against['subject']}{batch}"


def peer_row(row: Row, against: Row, rows: list[Row]) -> Row | None:
    """Return the peer's row for the same stage."""
    same = ("size", "stage", "variant", "device", "dtype")
    for other in rows:
        alike = all(other[field] == row[field] for field in same)
        if alike and all(other[field] == against[field] for field in ("subject", "query_batch")):
            return other
    return None


def ratio(row: Row, against: Row | None, part: str) -> str:
    """Return how many times faster ours is, with the spread; nothing is called faster whose scores do not agree."""
    if against is None or against[part] is None:
        return ""
    if not _comparable(row, against):
        return f"not compared: agreement below {THRESHOLD}"
    times = against[part]
    spread = f" ({times['smallest']:.3g}–{times['largest']:.3g})" if row["repetitions"] > 1 else ""
    return f"{times['median']:.3g}{spread}"


def _times(row: Row, against: Row) -> str:
    return f"{against['whole']['median']:#.3g}" if _comparable(row, against) else "–"


def _comparable(row: Row, against: Row) -> bool:
    return bool(against["scores_agree"]) or row["stage"] in ESTIMATES


def steps(row: Row) -> str:
    """Return the time in training steps over the same sequences; of scores, that of the pass alone."""
    count = row.get("pass_training_steps") or row.get("training_steps")
    return "" if count is None else f"{count['median']:.3g}"


def beyond(against: Row | None) -> str:
    """Return our share of the peer's memory, without what both processes hold before they have a model."""
    share = None if against is None else against["peak_memory_beyond_libraries"]
    return "" if share is None else f"{share:.2f}"


def variant_lines(row: Row) -> Iterator[str]:
    """Yield what was measured beside the table."""
    if row["variant"]:
        name = NAMES[row["stage"]]
        measured = f"{_seconds(row):.3g} s, {_mebibytes(row)} MiB"
        if row["pass_training_steps"]:
            measured += f", the pass {row['pass_training_steps']['median']:.3g} training steps"
        yield f"- {row['size']}, {name}, {row['subject']}, {VARIANTS[row['variant']]}: {measured}"
    elif row["stage"] == "sketches":
        measured = f"{_seconds(row):.3g} s, {row['bytes_on_disk'] / 1e6:.1f} MB"
        yield f"- {row['size']}, sketches of {row['sequences']} sequences, ours alone: {measured}"


def plot(rows: list[Row]) -> bytes:
    """Return a PNG: every stage in training steps, by subject, with a line from the smallest to the largest."""
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
