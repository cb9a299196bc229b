"""`influence demo`."""

import shlex
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from influence_assets.cli.command import Command
from influence_assets.cli.console import console
from influence_assets.escaping import visible
from influence_assets.study import Study

PASSAGES_SHOWN = 3
CHARACTERS_SHOWN = 150
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
    """Print the strongest passages for each question, and how often each method finds the true article."""
    import polars as pl

    from influence_assets.demo.retrieval import led_by_true_articles, ranked_passages, retrieval

    ranked = ranked_passages(catalogue)
    influences = ranked.filter(pl.col("method") == "ekfac", pl.col("rank") <= PASSAGES_SHOWN)
    questions, noises = _questions(catalogue), _noises(catalogue)
    for (query_id,), passages in influences.group_by(["query_id"], maintain_order=True):
        prompt, completion, article = questions[str(query_id)]
        heading = f"\n[dim]{escape(prompt)}[/][bold]{escape(completion)}[/]  (article: {escape(article)}"
        console.print(f"{heading}; {noises[str(query_id)]})")
        for row in passages.iter_rows(named=True):
            mark = "[green]✓[/]" if set(row["titles"]) & set(row["articles"]) else " "
            text = " ".join(visible(row["text"]).split())[:CHARACTERS_SHOWN]
            titles = escape(" + ".join(row["titles"]))
            console.print(f" {mark} {row['score']:+.3g} nats  [cyan]{titles}[/]  {escape(text)}…")
    heads = ("method", "true article first", "in the first ten", "median rank", "true of the first ten")
    table = Table(*heads, box=None, pad_edge=False)
    for figures in retrieval(ranked):
        shares = [f"{count} of {figures.questions}" for count in (figures.first, figures.in_ten)]
        table.add_row(figures.method, *shares, f"{figures.median_rank:g}", f"{figures.of_ten:.1f}")
    console.print()
    console.print(table)
    led = led_by_true_articles(catalogue)
    console.print(f"By whole documents (influence_by_document), a true article leads for {led} of {len(questions)}.")


def _questions(catalogue: Path) -> dict[str, tuple[str, str, str]]:
    """Return each question's prompt, completion and article, by its query_id."""
    from influence_assets.demo.retrieval import QUESTIONS
    from influence_assets.storage.catalogue import query

    rows = query(catalogue, QUESTIONS).to_dicts()
    return {row["query_id"]: (row["prompt"], row["completion"], row["article"]) for row in rows}


def _noises(catalogue: Path) -> dict[str, str]:
    """Return how many passages stand above each question's noise, by its query_id."""
    from influence_assets.storage.catalogue import query

    rows = query(catalogue, "select query_id, sequences, sequences_above, threshold_nats from query_noise").rows()
    return {
        query_id: "noise not known" if above is None else f"{above:,} of {n:,} above the noise, {threshold:.2g} nats"
        for query_id, n, above, threshold in rows
    }


COMMAND = Command(name="demo", function=demo, rank=130)
