"""The outcomes of models that were trained again, kept in this folder, and scores that are judged by them.

    python -m benchmarks.bank keep --study FOLDER/study.yaml            # after `influence evaluate`
    python -m benchmarks.bank keep-removals --study FOLDER/study.yaml   # after `influence evaluate --removals`
    python -m benchmarks.bank keep-methods --study FOLDER/study.yaml    # after `influence evaluate`
    python -m benchmarks.bank judge mlp=FOLDER/study.yaml both=OTHER/study.yaml --out board.json

Studies that are judged together are of the same corpus and model and differ in how they attribute; the first is the
reference of ratios. Half of the questions are for tuning, half for reporting: `--half first` or `second`.
"""

import argparse
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from influence_assets.analysis.judging import figures, judge
from influence_assets.analysis.shrinkage import calibrated, soft_threshold
from influence_assets.analysis.word_overlap import bm25_scores
from influence_assets.engine.workspace import catalogue_path
from influence_assets.storage.catalogue import query
from influence_assets.study import Study

FOLDER = Path(__file__).parent / "bank"
OUTCOMES, LEFT_OUT = FOLDER / "outcomes.parquet", FOLDER / "left_out.parquet"
REMOVALS, METHODS = FOLDER / "removals.parquet", FOLDER / "methods.json"
RESAMPLES, DIGITS = 1000, 4


def keep(study: Path) -> None:
    """Write the outcomes of a study's retrained models, and what each subset lacks."""
    from influence_assets.assets import open_workspace
    from influence_assets.engine.partitions import Partition
    from influence_assets.engine.versions import Versions

    loaded = Study.load(study)
    outcomes = query(catalogue_path(loaded), "select subset, seed, query_id, log_probability_nats from outcomes")
    if outcomes.is_empty():
        raise SystemExit(f"{study} has no outcomes in its catalogue; run `influence evaluate` first.")
    outcomes = outcomes.with_columns(pl.col("log_probability_nats").cast(pl.Float32))
    FOLDER.mkdir(exist_ok=True)
    outcomes.sort("query_id", "seed", "subset").write_parquet(OUTCOMES, compression="zstd", compression_level=19)
    versions = Versions(open_workspace(loaded))
    models = versions.workspace.graph["retrained_models"]
    tables = []
    for subset in range(loaded.evaluation.subsets):
        key = versions.key(models, Partition(name=f"subset-{subset:04}.seed-1"))
        if key is not None and versions.holds(key):
            left_out = versions.workspace.store.open(key).table("left_out").collect()["unit"].cast(pl.Int64)
            tables.append(pl.DataFrame({"sequence_id": left_out}).with_columns(subset=pl.lit(subset, pl.Int16)))
    pl.concat(tables).sort("sequence_id", "subset").write_parquet(LEFT_OUT, compression="zstd", compression_level=19)
    print(f"{outcomes.height:,} outcomes of {len(tables)} subsets, {outcomes['query_id'].n_unique()} queries")


def keep_removals(study: Path) -> None:
    """Write what a study's models say that lack a method's strongest sequences, or as many at random."""
    sql = "select * exclude (materialization_id) from removal_outcomes order by method, removal, seed, query_id"
    outcomes = query(catalogue_path(Study.load(study)), sql)
    if outcomes.is_empty():
        raise SystemExit(f"{study} has no removals in its catalogue; run `influence evaluate --removals` first.")
    outcomes = outcomes.with_columns(pl.col("log_probability_nats").cast(pl.Float32))
    outcomes.write_parquet(REMOVALS, compression="zstd", compression_level=19)
    print(f"{outcomes.height:,} outcomes of {outcomes.select('method', 'removal', 'seed').n_unique()} models")


def keep_methods(study: Path) -> None:
    """Write how far the scores of each of a study's methods are borne out, and what they cost."""
    sql = "select * exclude (materialization_id) from evaluations order by method, figure, query_set_id"
    rows = query(catalogue_path(Study.load(study)), sql)
    if rows.is_empty():
        raise SystemExit(f"{study} has no evaluation in its catalogue; run `influence evaluate` first.")
    rounded = rows.with_columns(pl.col("value", "low", "high").round(DIGITS)).to_dicts()
    METHODS.write_text("[\n" + ",\n".join(map(json.dumps, rounded)) + "\n]\n", encoding="utf-8")
    print(f"{rows['method'].n_unique()} methods")


class Judged:
    """The kept outcomes of the queries and sequences of a study.

    Args:
        catalogue: the catalogue of one of the studies.
        half: `first` or `second` half of the questions of each kind, or `both`.
    """

    def __init__(self, catalogue: Path, half: str) -> None:
        queries = query(catalogue, "select query_id, query_set_id, prompt || completion as text from queries")
        outcomes = pl.read_parquet(OUTCOMES)
        queries = queries.filter(pl.col("query_id").is_in(outcomes["query_id"].unique().to_list())).sort("query_id")
        if half != "both":
            place = pl.int_range(pl.len()).over("query_set_id") % 2
            queries = queries.filter(place == (half == "second"))
        self.queries = queries
        self.sequences = query(catalogue, "select sequence_id, text from sequences order by sequence_id")
        wide = outcomes.sort("query_id", "seed", "subset")
        subsets, seeds = wide["subset"].unique().sort(), wide["seed"].n_unique()
        kept = wide.filter(pl.col("query_id").is_in(queries["query_id"].to_list()))
        values = kept["log_probability_nats"].to_numpy().astype(np.float64)
        self.outcomes = values.reshape(queries.height, seeds, len(subsets)).transpose(1, 0, 2)
        left_out = pl.read_parquet(LEFT_OUT)
        rows = left_out.join(self.sequences.with_row_index("row"), on="sequence_id")
        assert rows.height == left_out.height, "the studies' sequences are not those of the bank"
        columns = rows.join(pl.DataFrame({"subset": subsets}).with_row_index("column"), on="subset")
        self.is_drawn = np.ones((self.sequences.height, len(subsets)))
        self.is_drawn[columns["row"].to_numpy(), columns["column"].to_numpy()] = 0

    def matrix(self, rows: pl.DataFrame) -> NDArray[np.float64]:
        """Return scores as float64 [query, sequence]."""
        placed = rows.join(self.queries.select("query_id").with_row_index("row"), on="query_id")
        placed = placed.join(self.sequences.select("sequence_id").with_row_index("column"), on="sequence_id")
        scores = np.zeros((self.queries.height, self.sequences.height))
        scores[placed["row"].to_numpy(), placed["column"].to_numpy()] = placed["score"].to_numpy()
        return scores


def methods(judged: Judged, studies: Mapping[str, Path]) -> dict[str, NDArray[np.float64]]:
    """Return the scores of each method, float64 [query, sequence]."""
    found: dict[str, NDArray[np.float64]] = {}
    for name, path in studies.items():
        catalogue = catalogue_path(Study.load(path))
        for called, scores in _of_members(judged, catalogue, name):
            found |= {
                called: scores,
                f"{called}, above 2 sigma": soft_threshold(scores),
                f"{called}, calibrated": calibrated(scores),
            }
        if name == next(iter(studies)):
            others = query(catalogue, "select query_id, sequence_id, method, score from method_scores")
            scored = judged.queries.height * judged.sequences.height
            for (method,), rows in others.group_by("method"):
                if rows.join(judged.queries, on="query_id", how="semi").height == scored:  # some score some alone
                    found[str(method)] = judged.matrix(rows)
    found["BM25"] = bm25_scores(list(judged.sequences["text"]), list(judged.queries["text"]))
    found["random"] = np.random.default_rng(0).standard_normal(found["BM25"].shape)
    return found


def _of_members(judged: Judged, catalogue: Path, name: str) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield the scores of the study's own model, and their means over the first 2, 3, ... members of its ensemble."""
    members = query(catalogue, "select generation_id from generations where is_current or member > 0 order by member")
    total = 0.0
    for count, generation in enumerate(members["generation_id"], start=1):
        rows = query(
            catalogue,
            "select query_id, sequence_id, influence_nats as score from influence_scores "
            "join queries using (query_key) where generation_id = ?",
            [generation],
        )
        total = total + judged.matrix(rows)
        yield (name if count == 1 else f"{name} of {count} models"), total / count


def board(judged: Judged, scores: Mapping[str, NDArray[np.float64]], studies: Collection[str]) -> list[dict[str, Any]]:
    """Return the figures of every method, over all queries and by query set."""
    predicted = {name: values @ judged.is_drawn for name, values in scores.items()}
    in_nats = [name for name in scores if name.partition(",")[0].partition(" of ")[0] in studies]
    rows: list[dict[str, Any]] = []
    sets = judged.queries["query_set_id"]
    for query_set in [None, *sets.unique().sort()]:
        chosen = np.arange(len(sets)) if query_set is None else np.flatnonzero((sets == query_set).to_numpy())
        part, outcomes = {name: values[chosen] for name, values in predicted.items()}, judged.outcomes[:, chosen]
        result = judge(part, outcomes, reference=next(iter(studies)), resamples=RESAMPLES)
        for each in figures(result, part, outcomes.mean(0), in_nats):
            interval = [round(value, DIGITS) for value in each.interval]
            rows.append({"queries": query_set or "all", "count": len(chosen), **each._asdict(), "interval": interval})
    return rows


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    keeping = commands.add_parser("keep")
    keeping.add_argument("--study", type=Path, required=True)
    removing = commands.add_parser("keep-removals")
    removing.add_argument("--study", type=Path, required=True)
    comparing = commands.add_parser("keep-methods")
    comparing.add_argument("--study", type=Path, required=True)
    judging = commands.add_parser("judge")
    judging.add_argument("studies", nargs="+", help="NAME=STUDY_FILE")
    judging.add_argument("--half", choices=["first", "second", "both"], default="both")
    judging.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.command == "keep":
        keep(asked.study)
        return
    if asked.command == "keep-removals":
        keep_removals(asked.study)
        return
    if asked.command == "keep-methods":
        keep_methods(asked.study)
        return
    studies = {name: Path(path) for name, _, path in (pair.partition("=") for pair in asked.studies)}
    judged = Judged(catalogue_path(Study.load(next(iter(studies.values())))), asked.half)
    rows = board(judged, methods(judged, studies), studies)
    for row in rows:
        print(
            row["queries"], row["figure"], row["method"], "{:.3f} [{:.3f}, {:.3f}]".format(*row["interval"]), sep="  "
        )
    if asked.out:
        asked.out.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
