"""The asset `evaluations`: how far scores are borne out by the retrained models, beside BM25 and chance."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from influence_assets.assets.bank import SUBSET_PREDICTIONS, Bank, read_bank, trained_shards
from influence_assets.assets.method_costs import MethodCost, method_costs, retraining_cost, scored_costs
from influence_assets.assets.retraining import BM25, RANDOM, OfTrainedShards
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import METHODS, AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown, Table
from influence_assets.layouts.retraining import SEQUENCE, Units, reads_documents
from influence_assets.methods.registry import MAIN
from influence_assets.storage.artifacts import Artifact

NATS = "nats"

CALIBRATED, THRESHOLD = f"{MAIN}_calibrated", f"{MAIN}_threshold"

Scores = Mapping[str, NDArray[np.float64]]
"""For each method float64 [query, passage] or [query, subset]."""

EVALUATION_SCHEMA = pl.Schema(
    {
        "method": pl.String, "figure": pl.String, "query_set_id": pl.String,
        "value": pl.Float64, "low": pl.Float64, "high": pl.Float64,
        "queries": pl.Int32, "subsets": pl.Int32, "seeds": pl.Int32,
    }
)  # fmt: skip


CALIBRATION_SCHEMA = pl.Schema({"c": pl.Float64, "queries": pl.Int32, "subsets": pl.Int32})


def _compute(work: Work) -> None:
    from influence_assets.analysis.judging import figures, judge

    bank = read_bank(work)
    queries = pl.concat(a.table("queries").select("query_id", "query_set_id", "prompt", "completion").collect()
                        for a in work.open_all("query_gradients"))  # fmt: skip
    queries = queries.filter(pl.col("query_id").is_in(bank.query_ids))
    position = {name: row for row, name in enumerate(bank.query_ids)}
    outcomes = bank.outcomes[:, [position[name] for name in queries["query_id"]]]
    predicted, constant = _predicted(work, queries, bank, outcomes.mean(0))
    seeds, _, subsets = outcomes.shape
    methods = [asset.method for asset in work.workspace.graph if asset.method is not None]
    in_nats = [MAIN, CALIBRATED, THRESHOLD, *(method.name for method in methods if method.unit == NATS)]
    rows: list[dict[str, Any]] = []
    by_query: list[pl.DataFrame] = []
    for query_set in [None, *queries["query_set_id"].unique().sort()]:
        chosen = np.flatnonzero((queries["query_set_id"] == query_set).to_numpy()) if query_set else slice(None)
        of_set = {name: values[chosen] for name, values in predicted.items()}
        board = judge(of_set, outcomes[:, chosen], reference=MAIN)
        described = {"query_set_id": query_set, "queries": outcomes[:, chosen].shape[1], "subsets": subsets,
                     "seeds": seeds}  # fmt: skip
        for each in figures(board, of_set, outcomes[:, chosen].mean(0), in_nats):
            rows.append({"method": each.method, "figure": each.figure, **each.interval._asdict(), **described})
        if query_set is None:
            by_query = [
                queries.select("query_id").with_columns(method=pl.lit(name), rank_correlation=pl.Series(values))
                for name, values in board.by_query.items()
            ]
    rows += _removals(work)
    described = {"query_set_id": None, "queries": queries.height, "subsets": subsets, "seeds": seeds}
    rows += [{**row, **described} for row in _costs(work)]
    work.draft.table("evaluations", pl.DataFrame(rows, schema=EVALUATION_SCHEMA).fill_nan(None))
    work.draft.table("predictions", _predictions(queries, predicted[MAIN], outcomes.mean(0)))
    work.draft.table("evaluations_by_query", pl.concat(by_query).select("method", "query_id", "rank_correlation"))
    fitted = [] if constant is None else [{"c": constant, "queries": queries.height, "subsets": subsets}]
    work.draft.table("fitted_calibration", pl.DataFrame(fitted, schema=CALIBRATION_SCHEMA))
    work.draft.summarise(queries=queries.height, subsets=subsets, seeds=seeds, units=len(bank.units.names))


def _predicted(
    work: Work, queries: pl.DataFrame, bank: Bank, measured: NDArray[np.float64]
) -> tuple[Scores, float | None]:
    """Return the sum of each method's scores over each subset, float64 [query, subset].

    Beside them stands the constant of calibrated scores that all queries give, if there are enough. Those that are
    judged have the constant of the other half of the queries.
    """
    from influence_assets.analysis.shrinkage import FEWEST_QUESTIONS, cross_fitted, fitted_constant, soft_threshold
    from influence_assets.analysis.word_overlap import bm25_scores

    passages = _passages(bank.units, by_sequence=work.study.evaluation.by == SEQUENCE)
    texts = pl.concat(a.table("sequences").select("sequence_id", "text").collect() for a in trained_shards(work))
    of_sequences = passages.select("sequence_id").join(
        texts.with_row_index("row"), on="sequence_id", how="left", maintain_order="left"
    )
    share = passages["share"].to_numpy()
    scores = {name: _matrix(rows, queries, passages) for name, rows in _stored(work, queries, passages)}
    words = bm25_scores(list(texts["text"]), list(queries["prompt"] + queries["completion"]))
    scores[BM25] = words[:, of_sequences["row"].to_numpy()] * share
    is_drawn = bank.is_drawn[passages["unit"].to_numpy()]
    scores[CALIBRATED] = cross_fitted(scores[MAIN], is_drawn, measured)
    scores[THRESHOLD] = soft_threshold(scores[MAIN])
    scores[RANDOM] = np.random.default_rng(0).standard_normal(scores[MAIN].shape)
    predicted = {name: values @ is_drawn for name, values in scores.items()}
    predicted |= _predicted_apart(work, queries, bank)
    if queries.height < 2 * FEWEST_QUESTIONS:  # neither half could judge the other's constant
        return predicted, None
    return predicted, fitted_constant(scores[MAIN], is_drawn, measured)


def _predicted_apart(work: Work, queries: pl.DataFrame, bank: Bank) -> dict[str, NDArray[np.float64]]:
    """Return the predictions of methods that are fitted to the bank, each subset's by a fit that has not seen it.

    The sums of their scores would be judged by the very outcomes that these were fitted to.
    """
    predicted = {}
    for asset in work.workspace.graph:
        for artifact in [] if asset.method is None else work.open_all(asset.name):
            if asset.method is not None and SUBSET_PREDICTIONS in artifact.manifest.rows:
                by_query = artifact.table(SUBSET_PREDICTIONS).collect().pivot("subset", index="query_id")
                rows = queries.select("query_id").join(by_query, on="query_id", how="left", maintain_order="left")
                predicted[asset.method.name] = rows.select(map(str, bank.subsets)).to_numpy()
    return predicted


def _passages(units: Units, *, by_sequence: bool) -> pl.DataFrame:
    """Return what has a score: sequences, or the parts of documents in them where a subset can divide a sequence.

    Returns:
        Columns `passage` (the row's number), `sequence_id`, `document_id` (null for a sequence), `unit`, and `share`,
        the passage's share of its sequence's tokens.
    """
    spans = units.spans
    if by_sequence:
        spans = spans.unique("sequence_id", maintain_order=True).with_columns(
            document_id=pl.lit(None, pl.String), share=pl.lit(1.0)
        )
    else:
        tokens = pl.col("token_end") - pl.col("token_start")
        spans = spans.with_columns(share=tokens / tokens.sum().over("sequence_id"))
    return spans.select("sequence_id", "document_id", "unit", "share").with_row_index("passage")


def _stored(work: Work, queries: pl.DataFrame, passages: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield each method's scores: `query_id`, `passage`, `score`.

    Those of methods that do not split a sequence among its documents are divided by the parts' tokens. A method that
    has scored some passages only, or some of the queries, cannot be judged.
    """
    main = work.open_all("influence_scores")
    nats = pl.col("influence_nats").alias("score"), pl.lit(MAIN).alias("method")
    yield MAIN, _by_passage(_table(main, "influence_scores", *nats), _table(main, "part_scores", *nats), passages)
    columns = pl.col("score"), pl.col("method")
    for asset in work.workspace.graph:
        if asset.method is None and asset.name != "method_scores":
            continue
        artifacts = work.open_all(asset.name)
        scores, parts = (_table(artifacts, name, *columns) for name in ("method_scores", "method_part_scores"))
        for (name,), of_method in scores.group_by("method"):
            rows = _by_passage(of_method, parts.filter(pl.col("method") == name), passages)
            if rows.join(queries, on="query_id", how="semi").height == queries.height * passages.height:
                yield str(name), rows


def _table(artifacts: Sequence[Artifact], name: str, *columns: pl.Expr) -> pl.DataFrame:
    """Return the rows of all artifacts that have a table: `query_id`, `sequence_id`, `document_id`, `score`, `method`.

    `document_id` is null where a score is that of a sequence.
    """
    none = pl.DataFrame(schema={"query_id": pl.String, "sequence_id": pl.Int64, "document_id": pl.String,
                                "score": pl.Float64, "method": pl.String})  # fmt: skip
    frames = [artifact.table(name) for artifact in artifacts if name in artifact.manifest.rows]
    document = [
        pl.col("document_id")
        if "document_id" in frame.collect_schema()
        else pl.lit(None, pl.String).alias("document_id")
        for frame in frames
    ]
    rows = [
        frame.select("query_id", "sequence_id", which, *columns).collect()
        for frame, which in zip(frames, document, strict=True)
    ]
    return pl.concat([none, *rows], how="diagonal_relaxed")


def _by_passage(scores: pl.DataFrame, parts: pl.DataFrame, passages: pl.DataFrame) -> pl.DataFrame:
    """Return one method's scores of passages: `query_id`, `passage`, `score`."""
    columns = ["query_id", "passage", "score"]
    placed = scores.drop("document_id").join(passages, on="sequence_id")
    if not parts.height:
        return placed.with_columns(score=pl.col("score") * pl.col("share")).select(columns)
    whole = placed.filter(pl.col("share") == 1).select(columns)
    split = parts.join(passages, on=["sequence_id", "document_id"]).select(columns)
    return pl.concat([whole, split])


def _matrix(rows: pl.DataFrame, queries: pl.DataFrame, passages: pl.DataFrame) -> NDArray[np.float64]:
    """Return scores as float64 [query, passage]."""
    placed = rows.join(queries.select("query_id").with_row_index("row"), on="query_id")
    matrix = np.zeros((queries.height, passages.height))
    matrix[placed["row"].to_numpy(), placed["passage"].to_numpy()] = placed["score"].to_numpy()
    return matrix


def _predictions(queries: pl.DataFrame, predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> pl.DataFrame:
    """Return the changes of each query from its mean over all subsets, predicted and measured, one row a subset."""
    changes = {
        name: (values - values.mean(axis=1, keepdims=True)).reshape(-1)
        for name, values in (("predicted_nats", predicted), ("measured_nats", measured))
    }
    named = queries.select("query_id", "query_set_id")[np.repeat(np.arange(queries.height), predicted.shape[1])]
    return named.with_columns(**{name: pl.Series(values) for name, values in changes.items()})


def _removals(work: Work) -> Iterator[dict[str, Any]]:
    """Yield how much further log-probabilities fall without what each method scores highest than at random."""
    from influence_assets.analysis.judging import paired_means

    tables = [artifact.table("removal_outcomes").collect() for artifact in work.open_all("retrained_removals")]
    if not tables:
        return
    outcomes = pl.concat(tables)
    log_p = pl.col("log_probability_nats")
    at_random = (
        outcomes.filter(pl.col("removed_for").is_null()).group_by("query_id", "seed").agg(at_random=log_p.mean())
    )
    without = outcomes.filter(pl.col("query_id") == pl.col("removed_for")).join(at_random, on=["query_id", "seed"])
    falls = without.group_by("method", "query_id").agg(fall=(pl.col("at_random") - log_p).mean())
    complete = falls.pivot("method", index="query_id", values="fall").drop_nulls().sort("query_id")
    if not complete.height:
        return  # what is trained so far has nothing to be compared with
    of_methods = {name: complete[name].to_numpy() for name in sorted(complete.columns) if name != "query_id"}
    removed, seeds = outcomes.select("method", "removal").unique().height, outcomes["seed"].n_unique()
    for name, interval in paired_means(of_methods).items():
        yield {"method": name, "figure": "qld", "query_set_id": None, "queries": complete.height,
               "subsets": removed, "seeds": seeds, **interval._asdict()}  # fmt: skip


def _costs(work: Work) -> Iterator[dict[str, Any]]:
    """Yield what each method and the retrained models cost."""
    from influence_assets.analysis.judging import CEILING

    of_methods, nothing = method_costs(work), MethodCost(0, 0)
    shrunk = {CALIBRATED: of_methods[MAIN], THRESHOLD: of_methods[MAIN]}  # made of the same scores
    everything = {
        **of_methods,
        **scored_costs(work),
        **shrunk,
        BM25: nothing,
        RANDOM: nothing,
        CEILING: retraining_cost(work),
    }
    for method, cost in everything.items():
        yield {"method": method, "figure": "passes", "value": cost.passes}
        yield {"method": method, "figure": "bytes", "value": float(cost.bytes)}


def _cost(sizes: Any, _partition: Partition) -> Cost:
    return Cost(bytes=None, amount=sizes.all_sequences())


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    table = artifact.table("evaluations").filter(pl.col("query_set_id").is_null(), pl.col("figure") == "lds").collect()
    return {"board": Table(table.select("method", "value", "low", "high").sort("value", descending=True))}


ASSET = AssetDefinition(
    name="evaluations",
    group="evaluation",
    description=(
        "How far scores are borne out by the retrained models: the linear datamodeling score of each method with its "
        "ceiling and its cost, beside BM25 and chance, and whether predicted changes have the measured sizes. Computed "
        "on request."
    ),
    kinds=frozenset({"polars"}),
    inputs=(
        "documents",
        "language_model",
        "token_sequences",
        "query_gradients",
        "influence_scores",
        "method_scores",
        METHODS,
        "retrained_models",
        "retrained_removals",
    ),
    uses=lambda study, name: name != "documents" or reads_documents(study.evaluation.by),
    code_version="3",
    settings=lambda study: {"seeds": study.evaluation.seeds, "by": study.evaluation.by},
    compute=_compute,
    frozen=OfTrainedShards(),
    on_request=True,
    holds_text=True,
    is_published=True,
    cost=CostModel(partition=_cost),
    shown=_shown,
)
