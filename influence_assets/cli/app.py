"""The sub-commands. Each says in its docstring what `influence --help` shows."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from influence_assets.study import Study

app = typer.Typer(
    help="Which training data made a language model say this: EK-FAC influences, answered in SQL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
PIPED_WIDTH = 160
"""Columns of output that goes to a file or another command."""

# `:warning:` in a corpus stays what it is.
console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, emoji=False)

StudyOption = Annotated[Path, typer.Option("--study", "-s", help="The study file.", envvar="INFLUENCE_STUDY")]
HERE = Path("study.yaml")


class Format(StrEnum):
    """How rows are printed or written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Write a commented study with a small corpus and questions to start from."""
    from influence_assets.cli.starting import write_example

    study = write_example(folder)
    console.print(f"Wrote [bold]{study}[/]. Read it, then: [bold]influence run --study {study}[/]")


@app.command()
def run(
    *,
    new_generation: Annotated[
        bool, typer.Option("--new-generation", help="Fit the curvature anew on all shards, beside the one that stands.")
    ] = False,
    study: StudyOption = HERE,
) -> None:
    """Bring everything up to date: compute what is new, changed or missing, and nothing else."""
    from influence_assets.cli.running import run_study

    if not run_study(Study.load(study), console, new_generation=new_generation):
        raise typer.Exit(1)


@app.command()
def forget(
    document: Annotated[list[str], typer.Option(help="A document_id; give the option once for each.")],
    reason: Annotated[str, typer.Option(help="Why; it stays in the tombstone.")] = "withdrawn",
    *,
    only_list: Annotated[
        bool, typer.Option("--only-list", help="Only list them; the next run and `influence gc` do the rest.")
    ] = False,
    study: StudyOption = HERE,
) -> None:
    """Withdraw documents: out of every table at once, then out of every array and from the disk."""
    from influence_assets.cli.keeping import forget_documents

    if not forget_documents(Study.load(study), document, reason, console, only_list=only_list):
        raise typer.Exit(1)


@app.command()
def verify(study: StudyOption = HERE) -> None:
    """Read everything that is stored again, and say what is damaged and what mends it."""
    from influence_assets.cli.keeping import verify_store

    if not verify_store(Study.load(study), console):
        raise typer.Exit(1)


@app.command()
def gc(
    keep: Annotated[int, typer.Option(min=0, help="Superseded versions of each partition that stay.")] = 1,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    study: StudyOption = HERE,
) -> None:
    """Remove superseded versions, and what is left of withdrawn documents and vanished files."""
    from influence_assets.cli.keeping import collect_garbage

    collect_garbage(Study.load(study), keep, console, dry_run=dry_run)


@app.command()
def status(study: StudyOption = HERE) -> None:
    """Show shards, the generation, and what is missing or stale."""
    from influence_assets.cli.showing import show_status

    show_status(Study.load(study), console)


@app.command("plan")
def plan_study(study: StudyOption = HERE) -> None:
    """Estimate what each stage will take before it runs: operations, time, memory, bytes; beside it, what it took."""
    from influence_assets.cli.planning import show_plan

    show_plan(Study.load(study), console)


@app.command()
def ask(
    prompt: Annotated[str, typer.Option(help="What the model is given.")],
    completion: Annotated[str, typer.Option(help="What it said, or might say.")],
    top: Annotated[int, typer.Option(min=1, help="Passages to show.")] = 5,
    study: StudyOption = HERE,
) -> None:
    """Answer a new question from the stored sketches: which passages raise this completion's probability."""
    from influence_assets.cli.showing import show_answer

    show_answer(Study.load(study), prompt, completion, top, console)


@app.command()
def sql(
    statement: Annotated[
        str, typer.Argument(help="A query. What there is: select table_name, comment from duckdb_tables().")
    ],
    output_format: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
    output: Annotated[Path | None, typer.Option(help="A file to write instead; csv, json or parquet.")] = None,
    study: StudyOption = HERE,
) -> None:
    """Run a read-only SQL query over the influences."""
    from influence_assets.cli.showing import show_rows
    from influence_assets.pipeline.workspace import catalogue_path
    from influence_assets.storage.catalogue import query

    rows = query(catalogue_path(Study.load(study)), statement)
    show_rows(rows, output_format.value, output, console)


@app.command()
def cookbook(
    name: Annotated[str | None, typer.Argument(help="A question; without it, all of them are listed.")] = None,
    bind: Annotated[list[str] | None, typer.Option(help="A value of the question, as name=value.")] = None,
    study: StudyOption = HERE,
) -> None:
    """Ask one of the questions that come ready-made, such as `strongest_passages --bind query_id=… --bind count=5`."""
    from influence_assets.cli.showing import show_cookbook, show_rows
    from influence_assets.pipeline.workspace import catalogue_path
    from influence_assets.storage.catalogue import ask_cookbook

    if name is None:
        show_cookbook(console)
        return
    values = {parameter: value for parameter, _, value in (pair.partition("=") for pair in bind or [])}
    show_rows(ask_cookbook(catalogue_path(Study.load(study)), name, values), "table", None, console)


@app.command("rebuild-catalogue")
def rebuild_catalogue(study: StudyOption = HERE) -> None:
    """Build the DuckDB file anew from the stored arrays and tables."""
    from influence_assets.cli.running import rebuild

    rebuild(Study.load(study), console)


@app.command()
def ui(
    study: StudyOption = HERE,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where to listen.")] = 3000,
) -> None:
    """Start Dagster's UI on the study, with its sensors."""
    from influence_assets.orchestration.definitions import STUDIES
    from influence_assets.orchestration.instance import LOCATION, open_instance

    path = study.resolve()
    with open_instance(Study.load(path)) as instance:
        home = Path(instance.root_directory)
    console.print(f"Dagster's UI will be at [bold]http://{host}:{port}[/]; Ctrl+C ends it.")
    workspace = home / "workspace.yaml"
    workspace.write_text(
        "load_from:\n  - python_module:\n      module_name: influence_assets.orchestration.location\n"
        f"      location_name: {LOCATION}\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(workspace), "-h", host, "-p", str(port)]
    os.chdir(home)
    sys.stdout.flush()
    # In this process's place, so that a signal to the command reaches Dagster, which ends its own children.
    os.execve(sys.executable, command, os.environ | {STUDIES: str(path)})  # noqa: S606


@app.command()
def demo(folder: Annotated[Path, typer.Argument(help="Where to make it.")] = Path("demo")) -> None:
    """Train a small model on Python's manual and see which articles taught it its completions."""
    from influence_assets.cli.demonstrating import demonstrate

    if not demonstrate(folder, console):
        raise typer.Exit(1)
