"""`influence evaluate`."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.cli.figures import counted, duration, scaled, size
from influence_assets.errors import InputError
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.engine.partitions import Partition

MODELS, REMOVALS, JUDGEMENT = "retrained_models", "retrained_removals", "evaluations"
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}

SHOWN: Mapping[str, Callable[[float], str]] = {
    "slope": "{:.2f}".format,
    "r_squared": "{:.2f}".format,
    "passes": scaled,
    "bytes": size,
}
"""The figures beside the linear datamodeling score, in this order."""

BOARD = """
    select method, figure, query_set_id, value, low, high, queries, subsets, seeds
    from evaluations
    order by query_set_id nulls first
"""


def evaluate(
    budget: Annotated[
        str | None,
        typer.Option(help="The longest that training may take, such as 90m or 2h; the next call goes on."),
    ] = None,
    removals: Annotated[  # noqa: FBT002  # typer's own form
        bool, typer.Option("--removals", help="Also train models without what each method scores highest.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Show what it takes, and do nothing.")] = False,  # noqa: FBT002
    study: StudyOption = HERE,
) -> None:
    """Judge the scores by models that are trained again on random subsets of the corpus."""
    loaded = Study.load(study)
    seconds = None if budget is None else seconds_of(budget)
    from influence_assets.assets.retraining import recipe_of
    from influence_assets.cli.study_runs import run_study
    from influence_assets.engine.partitions import Partition
    from influence_assets.engine.workspace import catalogue_path

    recipe_of(loaded, 1)  # refuses a model that cannot be trained again
    wanted = [MODELS, REMOVALS] if removals else [MODELS]
    if seconds is not None:
        _refuse_budget(loaded, wanted)
    due = _planned(loaded, wanted)
    if plan:
        return
    started, all_is_well = time.monotonic(), True
    while due.partitions:
        left = None if seconds is None else seconds - (time.monotonic() - started)
        fitting = due.fitting(left)
        if not fitting:
            console.print(f"The budget is spent; {counted(due.count, 'model')} are left for another call.")
            break
        all_is_well &= run_study(loaded, console, requested=fitting)
        before, due = due, _due(loaded, wanted)
        if due.count == before.count:  # what has failed would fail again
            raise typer.Exit(1)
    all_is_well &= run_study(loaded, console, requested={JUDGEMENT: [Partition()]})
    if (judged := board(catalogue_path(loaded))) is not None:
        console.print(*judged, sep="\n", highlight=False, soft_wrap=True)
    if not all_is_well or judged is None:
        raise typer.Exit(1)


def _refuse_budget(study: Study, wanted: Sequence[str]) -> None:
    """Raise if every run trains models that a budget would hold back.

    Raises:
        InputError: the study's methods ask for all of them.
    """
    from influence_assets.assets import asset_graph

    if any(asset_graph()[name].is_due_in(study) for name in wanted):
        problem = "cannot hold back models that a method in `methods` is fitted to, which every run trains"
        raise InputError("--budget", problem, "Leave datamodels out of `methods` until they are trained.")


@dataclass(frozen=True)
class Due:
    """The models that are still to be trained.

    Args:
        partitions: those of each asset, in the order in which they are trained.
        seconds: how long a model of each asset takes.
        is_measured: the assets of which that is known from models that were trained here.
    """

    partitions: Mapping[str, list["Partition"]]
    seconds: Mapping[str, float]
    is_measured: frozenset[str]

    @property
    def count(self) -> int:
        """The number of models."""
        return sum(map(len, self.partitions.values()))

    def fitting(self, budget: float | None) -> dict[str, list["Partition"]]:
        """Return the first models, as many as fit into a number of seconds; None: all.

        Before one is measured, just one: counted operations say only what a model takes at least.
        """
        chosen: dict[str, list[Partition]] = {}
        for asset, partitions in self.partitions.items():
            if budget is None:
                chosen[asset] = partitions
                continue
            most = len(partitions) if asset in self.is_measured else 1
            count = min(most, max(0, int(budget / max(self.seconds[asset], 1e-9))))
            budget -= count * self.seconds[asset]
            if count:
                chosen[asset] = partitions[:count]
            if asset not in self.is_measured:
                break
        return chosen


def seconds_of(budget: str) -> float:
    """Return a duration such as 90m, 2h or 45s in seconds.

    Raises:
        InputError: it is not one.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", budget.strip())
    if match is None:
        raise InputError("--budget", f"{budget!r} is not a duration", "Write it as 45s, 90m or 2h.")
    return float(match[1]) * _SECONDS[match[2]]


def _planned(study: Study, assets: Sequence[str]) -> Due:
    """Print what is to be trained, and return it."""
    due, drawn = _due(study, assets), study.evaluation
    trained = len(drawn.retrainings()) - len(due.partitions.get(MODELS, ()))
    console.print(
        f"{drawn.subsets} random subsets, each with {drawn.share:.0%} of the corpus by {drawn.by}, "
        f"{counted(drawn.seeds, 'seed')} each: {len(drawn.retrainings()):,} models, {trained:,} of them trained.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for asset, partitions in due.partitions.items():
        each, about = due.seconds[asset], "about" if asset in due.is_measured else "at least"
        console.print(
            f"{asset}: {counted(len(partitions), 'model')} to train, {about} {duration(each)} each, "
            f"{duration(each * len(partitions))} in all.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    return due


def _due(study: Study, assets: Sequence[str]) -> Due:
    from influence_assets.assets import asset_graph, open_workspace
    from influence_assets.assets.study_sizes import StudySizes
    from influence_assets.engine.partitions import Partition
    from influence_assets.engine.versions import Versions
    from influence_assets.forecast.estimates import estimates

    everything = {name: [Partition(name=key) for key in asset_graph()[name].listed(study)] for name in assets}
    versions = Versions(open_workspace(study, everything))
    graph, stages = versions.workspace.graph, estimates(StudySizes(versions))
    partitions = {
        name: due
        for name, of_asset in everything.items()
        if (due := [partition for partition in of_asset if not versions.stands(graph[name], partition)])
    }
    seconds = {stage.asset.name: (stage.seconds or 0.0) / max(1, stage.outstanding) for stage in stages}
    is_measured = frozenset(stage.asset.name for stage in stages if stage.is_calibrated)
    return Due(partitions, {name: seconds[name] for name in partitions}, is_measured)


def board(catalogue: Path) -> tuple[str, Table] | None:
    """Return the linear datamodeling score of each method, over all queries and by query set, with a sentence on it.

    None if nothing has been judged.
    """
    from influence_assets.analysis.judging import CEILING
    from influence_assets.storage.catalogue import query

    rows = query(catalogue, BOARD)
    if rows.is_empty():
        return None
    sets = list(rows["query_set_id"].unique(maintain_order=True))
    table = Table("method", *("all queries" if name is None else name for name in sets), "slope", "R²", "passes",
                  "kept", box=None, pad_edge=False)  # fmt: skip
    figures = {(row["method"], row["figure"], row["query_set_id"]): row for row in rows.iter_rows(named=True)}
    lds = sorted((r for (_, f, s), r in figures.items() if f == "lds" and s is None), key=lambda r: -r["value"])
    for row in lds:
        cells = [_cell(figures[row["method"], "lds", name]) for name in sets]
        others = [figures.get((row["method"], figure, None)) for figure in SHOWN]
        table.add_row(
            row["method"],
            *cells,
            *("" if each is None or each["value"] is None else SHOWN[each["figure"]](each["value"]) for each in others),
        )
    first = lds[0]
    sentence = (
        f"Linear datamodeling score with its 95 % interval: {first['queries']:,} queries, "
        f"{counted(first['subsets'], 'subset')}, {counted(first['seeds'], 'seed')}. {CEILING} is the ceiling; slope "
        "and R² compare predicted with measured nats. passes over the corpus and the bytes kept are what it costs."
    )
    return sentence, table


def _cell(row: dict[str, float]) -> str:
    return f"{row['value']:.3f} [{row['low']:.2f}, {row['high']:.2f}]"


COMMAND = Command(name="evaluate", function=evaluate, rank=77)
