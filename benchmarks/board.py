"""Writes how far scores are borne out by the kept bank into docs/evaluation.md and docs/methods.md.

    python -m benchmarks.board

The figures are those that `benchmarks.bank judge --out` has written, one file for each half of the questions and one
for the methods that answer a few questions only, and what `keep-methods` and `keep-removals` have kept.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from benchmarks.bank import METHODS, REMOVALS
from benchmarks.report import between
from influence_assets.analysis.judging import paired_means

ROOT = Path(__file__).resolve().parent.parent
METHODS_PAGE = ROOT / "docs" / "methods.md"
METHOD_MARKERS = "<!-- methods: begin (python -m benchmarks.board) -->", "<!-- methods: end -->"
FEW = "few"
"""The file of the methods that take too long for all questions."""

FOLDER, PAGE, PLOT = ROOT / "benchmarks" / "bank", ROOT / "docs" / "evaluation.md", ROOT / "docs" / "img" / "bank.png"
MARKERS = "<!-- board: begin (python -m benchmarks.board) -->", "<!-- board: end -->"
HALVES = ("second", "first")
"""The half that is reported, then the half for tuning."""

QUERIES = {"all": "all", "corpus.jsonl": "corpus", "held_out.jsonl": "held out"}
CEILING = "retraining"
STUDIES = {
    "mlp": "EK-FAC of the MLPs",
    "mlp_damping_01": "EK-FAC of the MLPs, damping .01",
    "mlp_damping_1": "EK-FAC of the MLPs, damping 1",
    "linear": "EK-FAC of all linear layers",
    "embedding": "EK-FAC of the embedding alone",
    "both": "EK-FAC of the MLPs and the embedding",
    "members of 2 models": "EK-FAC of the MLPs, mean of 2 models",
    "members of 3 models": "EK-FAC of the MLPs, mean of 3 models",
    "members of 4 models": "EK-FAC of the MLPs, mean of 4 models",
}
SHRUNK = {"": "", ", above 2 sigma": ", above 2σ", ", calibrated": ", calibrated"}
THRESHOLDED = ("mlp", "both", "members of 4 models")
"""The studies whose thresholded scores have a row; those of the others are close to the calibrated ones."""

OTHERS = {"gradient_dot": "gradient product", "BM25": "BM25", "random": "random"}
DEFAULT = "both, calibrated"
BERGSON = (
    ("MAGIC", "0.931 [0.925, 0.936]", "0.100 [0.090, 0.112]"),
    ("EK-FAC", "0.454 [0.426, 0.479]", "0.070 [0.058, 0.082]"),
    ("TrackStar, projection 64, no optimizer correction", "0.270 [0.240, 0.295]", "0.045 [0.036, 0.055]"),
    ("BM25", "0.220 [0.185, 0.252]", "0.062 [0.048, 0.076]"),
    ("gradient cosine similarity", "0.019 [−0.008, 0.045]", "−0.001 [−0.001, −0.000]"),
)
BERGSONS_PAGE = "https://github.com/EleutherAI/bergson/blob/1b8d41e53ed1ff4bafc25a59ae62290e98e7bd6f/LEADERBOARD.md"

Rows = Sequence[dict[str, Any]]


def main() -> None:
    """Write the tables into the page, and the plot beside it."""
    boards = {half: read(half) for half in HALVES}
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace(between(text, MARKERS), section(boards)), encoding="utf-8")
    PLOT.write_bytes(plot(boards[HALVES[0]]))
    text = METHODS_PAGE.read_text(encoding="utf-8")
    compared = "\n".join([METHOD_MARKERS[0], *of_methods(), "", *of_few(read(FEW)), METHOD_MARKERS[1]])
    METHODS_PAGE.write_text(text.replace(between(text, METHOD_MARKERS), compared), encoding="utf-8")


def read(half: str) -> Rows:
    """Return the judged figures of one half of the questions."""
    rows: Rows = json.loads((FOLDER / f"board_{half}.json").read_text(encoding="utf-8"))
    return rows


def section(boards: dict[str, Rows]) -> str:
    """Return the part of the page that is written here."""
    tables = (_table(boards), _sizes(boards[HALVES[0]]), _removals(pl.read_parquet(REMOVALS)), _bergson())
    lines = [line for table in tables for line in (*table, "")]
    return "\n".join([MARKERS[0], *lines[:-1], MARKERS[1]])


def of_methods() -> Iterator[str]:
    """Yield the table of all methods that score all questions, the best first."""
    rows = [row for row in json.loads(METHODS.read_text(encoding="utf-8")) if row["query_set_id"] != "questions.jsonl"]
    of_all = {row["method"]: row for row in rows if row["figure"] == "lds" and row["query_set_id"] is None}
    example = next(iter(of_all.values()))
    yield (
        f"Linear datamodeling scores over {example['queries']} questions and {example['subsets']} random halves, "
        f"{example['seeds']} models of each (see [evaluation.md](evaluation.md)); {CEILING} is the ceiling. What each "
        "costs beside the queries' own gradients are passes over the corpus, and bytes that are kept."
    )
    yield ""
    yield "| method | all | corpus | held out | ratio to ekfac | passes | kept |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for method in sorted(of_all, key=lambda name: (name != CEILING, -of_all[name]["value"])):
        own = {(row["figure"], row["query_set_id"]): row for row in rows if row["method"] == method}
        lds = [_shown(own.get(("lds", queries))) for queries in (None, "corpus.jsonl", "held_out.jsonl")]
        passes, kept = (own.get((figure, None), {}).get("value") for figure in ("passes", "bytes"))
        cells = [*lds, _shown(own.get(("lds_ratio", None))), "" if passes is None else f"{passes:,.3g}",
                 "" if kept is None else f"{kept / 1e6:,.0f} MB"]  # fmt: skip
        yield f"| `{method}` | {' | '.join(cells)} |"


def of_few(rows: Rows) -> Iterator[str]:
    """Yield the table of the methods that take too long for all questions, on a few of them."""
    counts = {row["queries"]: row["count"] for row in rows}
    yield f"The same of {counts['all']} of the questions, for methods whose cost grows with their number:"
    yield ""
    heads = [f"{called} ({counts[name]})" for name, called in QUERIES.items()]
    yield f"| method | {' | '.join(heads)} | ratio to ekfac |"
    yield "|---|---:|---:|---:|---:|"
    found = {row["method"]: row["interval"][0] for row in rows if (row["figure"], row["queries"]) == ("lds", "all")}
    for method in sorted(found, key=lambda name: (name != CEILING, -found[name])):
        cells = [_cell(rows, "lds", method, queries) for queries in QUERIES]
        cells.append(_cell(rows, "lds_ratio", method, "all"))
        yield f"| `{method.lower()}` | {' | '.join(cells)} |"


def _shown(row: dict[str, Any] | None) -> str:
    """Return a figure with its interval."""
    if row is None or row["value"] is None:
        return ""
    return f"{row['value']:.3f} [{row['low']:.2f}, {row['high']:.2f}]".replace("-", "−")


def methods() -> Iterator[tuple[str, str]]:
    """Yield the methods in the order of the table: their names in the figures, and what they are called here."""
    yield CEILING, "ceiling"
    for study, called in STUDIES.items():
        for shrinkage, added in SHRUNK.items():
            if added != ", above 2σ" or study in THRESHOLDED:
                yield study + shrinkage, called + added
    yield from OTHERS.items()


def _table(boards: dict[str, Rows]) -> Iterator[str]:
    reported, tuned = (boards[half] for half in HALVES)
    counts = {row["queries"]: row["count"] for row in reported}
    heads = [f"{called} ({counts[name]})" for name, called in QUERIES.items()]
    yield f"| | {' | '.join(heads)} | ratio, all | ratio, held out | first half, all |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for method, called in methods():
        cells = [_cell(reported, "lds", method, queries) for queries in QUERIES]
        if method in (CEILING, "mlp"):
            cells += ["", ""]
        else:
            cells += [_cell(reported, "lds_ratio", method, queries) for queries in ("all", "held_out.jsonl")]
        cells.append(_cell(tuned, "lds", method, "all", with_interval=False))
        bold = "**" if method == DEFAULT else ""
        yield f"| {bold}{called}{bold} | {' | '.join(cells)} |"


def _sizes(rows: Rows) -> Iterator[str]:
    yield "Slope of measured on predicted changes, and the share of their variance that is explained (R²), medians:"
    yield ""
    yield "| | corpus: slope | R² | held out: slope | R² |"
    yield "|---|---:|---:|---:|---:|"
    for method, called in methods():
        if _figure(rows, "slope", method, "corpus.jsonl") is not None and not method.endswith("sigma"):
            cells = [
                _cell(rows, figure, method, queries, with_interval=figure == "slope")
                for queries in ("corpus.jsonl", "held_out.jsonl")
                for figure in ("slope", "r_squared")
            ]
            yield f"| {called} | {' | '.join(cells)} |"


def _removals(outcomes: pl.DataFrame) -> Iterator[str]:
    """Yield how much further each completion's log-probability falls without a method's strongest sequences."""
    log_p, is_random = pl.col("log_probability_nats").cast(pl.Float64), pl.col("removed_for").is_null()
    at_random = outcomes.filter(is_random).group_by("query_id", "seed").agg(log_p.mean().alias("mean"))
    spread = outcomes.filter(is_random).group_by("query_id").agg(log_p.std().alias("spread"))
    removed = outcomes.filter(pl.col("query_id") == pl.col("removed_for")).join(at_random, on=["query_id", "seed"])
    falls = removed.group_by("query_id", "method").agg((pl.col("mean") - log_p).mean().alias("fall"))
    table = falls.pivot("method", index="query_id", values="fall").join(spread, on="query_id").sort("query_id")
    methods = {
        "ekfac": "EK-FAC of the MLPs and the embedding",
        "gradient_dot": "gradient product of both",
        "bm25": "BM25",
    }
    draws, seeds = outcomes.filter(is_random)["removal"].n_unique(), outcomes["seed"].n_unique()
    yield (
        f"Query loss difference: nats by which a completion falls without the hundredth of the sequences that a method "
        f"scores highest for it, beyond the mean of {draws} random removals; {seeds} model for each "
        f"({outcomes.select('method', 'removal', 'seed').n_unique()} models). The last column is how far random "
        "removals differ."
    )
    yield ""
    yield f"| question | {' | '.join(methods.values())} | standard deviation of random removals |"
    yield "|---|---:|---:|---:|---:|"
    for row in table.iter_rows(named=True):
        cells = [f"{row[name]:.1f}".replace("-", "−") for name in (*methods, "spread")]
        yield f"| {row['query_id']} | {' | '.join(cells)} |"
    means = paired_means({name: table[name].to_numpy() for name in methods})
    cells = [f"{m.value:.1f} [{m.low:.1f}, {m.high:.1f}]".replace("-", "−") for m in means.values()]
    yield f"| **mean, with 95 % interval over questions** | {' | '.join(cells)} | |"


def _bergson() -> Iterator[str]:
    yield (
        f"Beside it, what [bergson's leaderboard]({BERGSONS_PAGE}) says of GPT-2 fine-tuned on WikiText: another "
        "model, another corpus and another kind of training, so that only the order of methods can be compared."
    )
    yield ""
    yield "| | linear datamodeling score | query loss difference |"
    yield "|---|---:|---:|"
    yield from (f"| {method} | {score} | {difference} |" for method, score, difference in BERGSON)


def _figure(rows: Rows, figure: str, method: str, queries: str) -> list[float] | None:
    found = (r["interval"] for r in rows if (r["figure"], r["method"], r["queries"]) == (figure, method, queries))
    return next(found, None)


def _cell(rows: Rows, figure: str, method: str, queries: str, *, with_interval: bool = True) -> str:
    found = _figure(rows, figure, method, queries)
    if found is None:
        return ""
    value = f"{found[0]:.3f}" if figure == "lds" else f"{found[0]:.2f}"
    shown = f"{value} [{found[1]:.2f}, {found[2]:.2f}]" if with_interval else value
    return shown.replace("-", "−")


def plot(rows: Rows) -> bytes:
    """Return a picture of the linear datamodeling scores with their intervals, for each kind of question."""
    named = dict(methods())
    wanted = [CEILING, "mlp", "mlp, calibrated", "both", DEFAULT, "members of 4 models", *OTHERS]
    table = pl.DataFrame(
        [
            {"method": named[row["method"]], "questions": QUERIES[row["queries"]],
             **dict(zip(("score", "low", "high"), row["interval"], strict=True))}
            for row in rows
            if row["figure"] == "lds" and row["method"] in wanted and row["queries"] in QUERIES
        ]
    )  # fmt: skip
    across = alt.Y("method", sort=[named[name] for name in wanted], title=None, axis=alt.Axis(labelLimit=280))
    base = alt.Chart(table).encode(y=across)
    chart = (
        (
            base.mark_rule().encode(x=alt.X("low", title="linear datamodeling score"), x2="high")
            + base.mark_point(filled=True, size=50).encode(x="score")
        )
        .properties(width=230, height=190)
        .facet(column=alt.Column("questions", sort=list(QUERIES.values()), title=None))
    )
    return vl_convert.vegalite_to_png(chart.to_json(), scale=2)


if __name__ == "__main__":
    main()
