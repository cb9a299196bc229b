"""`influence demo`."""

import shlex
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from influence_assets.cli.command import Command
from influence_assets.cli.console import console
from influence_assets.escaping import visible
from influence_assets.study import Study

if TYPE_CHECKING:
    import polars as pl

SHOWN = 3
FACTS_SHOWN = 4
CHARACTERS_SHOWN = 150
KINDS_SHOWN = {"verbatim": "verbatim sentences", "fact": "invented facts"}
TRY = """\
The demo took {seconds:.0f} s. Try:
  influence ask --study {study} --prompt 'The "while" statement is used for' --completion ' repeated execution'
  influence strongest while --study {study}
  influence sql --study {study} "select * from strongest('while', 5)"
  influence ui --study {study}"""


def demo(folder: Annotated[Path, typer.Argument(help="The folder to create.")] = Path("demo")) -> None:
    """Train a small model on Python's manual and see which articles taught it its completions."""
    from influence_assets.cli.study_runs import run_study
    from influence_assets.demo.study import CORPUS_FOLDER, HELD_BACK_FOLDER, write_demo
    from influence_assets.engine.workspace import catalogue_path

    started = time.monotonic()
    path = write_demo(folder)
    study = Study.load(path)
    console.rule("1. A model learns CPython's manual, and every training passage is scored")
    console.print(f"The study is [bold]{escape(str(path))}[/]; its documents lie in {escape(study.corpus.path)}.")
    if not run_study(study, console):
        raise typer.Exit(1)
    console.rule("2. Which passages taught it these completions?")
    show_retrieval(catalogue_path(study), console)
    console.rule("3. One more file arrives")
    for file in sorted((folder / HELD_BACK_FOLDER).iterdir()):
        shutil.copyfile(file, folder / CORPUS_FOLDER / file.name)
        console.print(f"Copied {escape(file.name)} into the corpus folder.")
    if not run_study(study, console):
        raise typer.Exit(1)
    console.rule("4. Your turn")
    hints = TRY.format(seconds=time.monotonic() - started, study=shlex.quote(str(path)))
    console.print(hints, markup=False, highlight=False, soft_wrap=True)


def show_retrieval(catalogue: Path, console: Console) -> None:
    """Print what is strongest for each question, and how often each method finds what is true.

    Of the questions about invented facts, some are shown, with whole documents, which are short.
    """
    import polars as pl

    from influence_assets.demo.retrieval import QUESTIONS, ranked
    from influence_assets.storage.catalogue import query

    items = ranked(catalogue)
    questions, noises = query(catalogue, QUESTIONS), _noises(catalogue)
    facts = questions.filter(kind="fact").head(FACTS_SHOWN)
    for question in pl.concat([questions.filter(kind="verbatim"), facts]).iter_rows(named=True):
        is_fact, query_id = question["kind"] == "fact", question["query_id"]
        heading = f"\n[dim]{escape(question['prompt'])}[/][bold]{escape(question['completion'])}[/]  "
        about = f"{'fact' if is_fact else 'article'}: {escape(question['subject'])}"
        console.print(f"{heading}({about}; {noises[query_id]})")
        unit = "document" if is_fact else "passage"
        strongest = items.filter(pl.col("rank") <= SHOWN, query_id=query_id, unit=unit, method="ekfac")
        for row in strongest.iter_rows(named=True):
            mark = "[green]✓[/]" if row["is_true"] else " "
            text = " ".join(visible(row["text"]).split())
            shown = text[:CHARACTERS_SHOWN] + "…" * (len(text) > CHARACTERS_SHOWN)
            titles = escape(" + ".join(row["titles"]))
            console.print(f" {mark} {row['score']:+.3g} nats  [cyan]{titles}[/]  {escape(shown)}")
    console.print()
    console.print(_figures(items))


def _figures(items: "pl.DataFrame") -> Table:
    """Return a table of how often each method ranks what is true first."""
    from influence_assets.demo.retrieval import retrieval

    heads = ("questions", "ranked", "method", "true one first", "in the first ten", "mean 1/rank", "recall in ten")
    table = Table(*heads, box=None, pad_edge=False)
    for figures in retrieval(items):
        shares = [f"{count} of {figures.questions}" for count in (figures.first, figures.in_ten)]
        means = [f"{mean:.2f}" for mean in (figures.reciprocal_rank, figures.recall)]
        table.add_row(KINDS_SHOWN[figures.kind], f"{figures.unit}s", figures.method, *shares, *means)
    return table


def _noises(catalogue: Path) -> dict[str, str]:
    """Return how many passages stand above each question's noise, by its query_id."""
    from influence_assets.storage.catalogue import query

    rows = query(catalogue, "select query_id, sequences, sequences_above, threshold_nats from query_noise").rows()
    return {
        query_id: "noise not known" if above is None else f"{above:,} of {n:,} above the noise, {threshold:.2g} nats"
        for query_id, n, above, threshold in rows
    }


COMMAND = Command(name="demo", function=demo, rank=130)
