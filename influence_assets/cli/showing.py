"""What the command prints: tables, passages and states. Corpus text is escaped wherever it is shown."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from influence_assets.errors import InputError
from influence_assets.pipeline.bring_up import drift
from influence_assets.pipeline.graph import BY_NAME
from influence_assets.pipeline.plan import StepState, plan, state_rows
from influence_assets.pipeline.steps import Partition
from influence_assets.pipeline.versions import Versions
from influence_assets.pipeline.workspace import Workspace
from influence_assets.storage.catalogue import cookbook, record_states
from influence_assets.study import Study

CELL_CHARACTERS = 120
READABLE = 40
"""Columns of text that is folded over several lines and still reads well."""

SHOWN = 4
"""Partitions that are named where there may be many."""

SHARDS_SHOWN = 50

FORMATS = ("csv", "json", "parquet")


def show_rows(rows: pl.DataFrame, kind: str, output: Path | None, console: Console) -> None:
    """Print rows as a table, CSV or JSON, or write them to a file.

    Raises:
        InputError: Parquet has nowhere to go, or the file's format is not known.
    """
    if output is not None and kind == "table":
        kind = output.suffix.removeprefix(".")
    if kind not in (*FORMATS, "table") or (kind == "parquet" and output is None):
        raise InputError("--output", f"{kind!r} cannot be written there", "Name a .csv, .json or .parquet file.")
    if kind == "table":
        show_table(rows, console)
        console.print(f"{rows.height:,} {'row' if rows.height == 1 else 'rows'}")
    elif output is None:
        console.file.write(rows.write_json() + "\n" if kind == "json" else flat(rows).write_csv())
    else:
        _write(rows, kind, output)
        console.print(f"Wrote {rows.height:,} rows to {output}", markup=False)


def _write(rows: pl.DataFrame, kind: str, output: Path) -> None:
    try:
        if kind == "parquet":
            rows.write_parquet(output)
        elif kind == "json":
            rows.write_json(output)
        else:
            flat(rows).write_csv(output)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError("--output", f"{output} cannot be written ({error})", "Name another file.") from error


def flat(rows: pl.DataFrame) -> pl.DataFrame:
    """Lists and structs as JSON text, because CSV has none."""
    nested = [name for name, dtype in rows.schema.items() if dtype.is_nested()]
    texts = [
        pl.Series(name, [None if value is None else _json(value) for value in rows[name].to_list()], pl.String)
        for name in nested
    ]
    return rows.with_columns(texts)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def show_table(rows: pl.DataFrame, console: Console) -> None:
    """Rows as a table; where they are too wide for it, each as a list of its values."""
    if _fits(rows, console.width):
        console.print(as_table(rows))
        return
    for number, row in enumerate(rows.iter_rows(), start=1):
        console.rule(f"row {number}", align="left")
        values = Table(box=None, pad_edge=False, show_header=False)
        for name, value in zip(rows.columns, row, strict=True):
            values.add_row(f"[bold]{escape(visible(name))}[/]", escape(_cell(value)))
        console.print(values)


def _fits(rows: pl.DataFrame, width: int) -> bool:
    """Whether every name, number and id fits on one line once long text is folded to a readable width."""
    needed = 2 * len(rows.columns)
    for name in rows.columns:
        cells = [_cell(value) for value in rows[name]]
        needed += max(len(name), *(min(len(cell), READABLE) if " " in cell else len(cell) for cell in cells), 0)
    return needed <= width


def as_table(rows: pl.DataFrame) -> Table:
    """Rows for reading: numbers rounded and to the right, long text cut, control characters made visible."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, dtype in rows.schema.items():
        table.add_column(escape(visible(name)), justify="right" if dtype.is_numeric() else "left", overflow="fold")
    for row in rows.iter_rows():
        table.add_row(*(escape(_cell(value)) for value in row))
    return table


def show_cookbook(console: Console) -> None:
    """The ready-made questions and what each must be told."""
    table = Table("question", "what it answers", "needs", box=None, pad_edge=False)
    for name, question in cookbook().items():
        needs = ", ".join(f"{parameter}: {what}" for parameter, what in question.parameters.items())
        table.add_row(name, escape(question.purpose), escape(needs))
    console.print(table)


def show_status(study: Study, console: Console) -> None:
    """Every step with what stands, is missing, stale or waits, the shards, and the generations."""
    workspace = Workspace(study)
    versions = Versions(workspace)
    states = list(plan(versions))
    heads = ("asset", "up to date", "missing", "stale", "waiting", "outstanding partitions")
    table = Table(*heads, box=None, pad_edge=False)
    for step in states:
        keys = [state.partition.key or "all" for state in step.outstanding]
        shown = ", ".join(keys[:SHOWN]) + (" …" if len(keys) > SHOWN else "")
        counts = (str(len(step.of(state))) for state in ("standing", "missing", "stale", "waiting"))
        table.add_row(step.step.name, *counts, escape(shown))
    console.print(f"Study [bold]{study.name}[/], store {escape(study.storage.root)}")
    console.print(_shards(versions))
    console.print(table)
    if any(step.of("stale", "missing") for step in states):
        console.print(_causes(states))
    console.print(_generations(versions))
    if (found := drift(versions)) is not None:
        console.print(drift_proposal(found), soft_wrap=True)
    if listed := len(workspace.withdrawn.entries):
        console.print(f"{listed} {'document is' if listed == 1 else 'documents are'} listed as withdrawn.")
    if any(step.outstanding for step in states):
        record_states(workspace.catalogue, state_rows(states))
        console.print("Bring it up to date with `influence run`.")
    else:
        console.print("[green]Everything is up to date.[/]")


def drift_proposal(drift: Mapping[str, object]) -> str:
    """What to do about a corpus that has moved from its generation."""
    return (
        f"[yellow]The corpus has moved from the generation's curvature[/]: {drift['largest_drift_measure']} of "
        f"{escape(str(drift['largest_drift_layer']))} by {drift['largest_drift']:.2f}, past the threshold of "
        f"{drift['threshold']:g}. Fit another with `influence run --new-generation`, or set curvature.new_generation "
        "to automatic."
    )


def show_answer(study: Study, prompt: str, completion: str, top: int, console: Console) -> None:
    """The passages behind a completion, each with its source."""
    from influence_assets.pipeline.asking import ask  # here, because it imports torch

    answer = ask(Versions(Workspace(study), "published"), prompt, completion, top)
    console.print(f"[dim]{escape(visible(prompt))}[/][bold]{escape(visible(completion))}[/]", soft_wrap=True)
    console.print(
        f"log-probability {answer.log_probability_nats:.2f} nats over {answer.completion_tokens} tokens; "
        f"{answer.sequences:,} training sequences compared by their sketches: the scores are estimates"
        + ("" if answer.agreement is None else f" (correlation with exact ones {answer.agreement:.2f})")
    )
    for rank, passage in enumerate(answer.passages, start=1):
        documents = ", ".join(_named(document) for document in passage.documents)
        title = f"{rank}. ≈ {passage.influence_nats:+.3g} nats · {documents}"
        place = f"{passage.shard_id} · sequence {passage.sequence_index}"
        console.print(Panel(Text(visible(passage.text)), title=Text(title), subtitle=Text(place), title_align="left"))
    if answer.unsketched_shards:
        console.print(f"[yellow]Not asked, for want of sketches:[/] {escape(', '.join(answer.unsketched_shards))}")


def visible(text: str) -> str:
    """Text of unknown origin made safe for a terminal: control characters other than line ends are spelt out."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def _named(document: dict[str, str | None]) -> str:
    name = document["title"] or document["external_id"] or str(document["document_id"])[:12]
    return " ".join(visible(f"{name} ({document['source']})" if document["source"] else name).split())


def _cell(value: object) -> str:
    text = f"{value:.5g}" if isinstance(value, float) else visible("" if value is None else str(value))
    text = " ".join(text.split())
    return text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 1] + "…"


def _shards(versions: Versions) -> Table:
    table = Table("shard", "documents", "sequences", "tokens", box=None, pad_edge=False)
    shards = list(versions.workspace.shards)
    for shard in shards[:SHARDS_SHOWN]:
        figures: list[str] = []
        for asset, names in (("documents", ["documents"]), ("token_sequences", ["sequences", "tokens"])):
            key = versions.key(BY_NAME[asset], Partition(shard=shard))
            held = key is not None and versions.holds(key)
            summary = versions.workspace.store.open(key).manifest.summary if key is not None and held else {}
            figures += [f"{summary[name]:,}" if name in summary else "–" for name in names]
        table.add_row(escape(shard), *figures)
    if len(shards) > SHARDS_SHOWN:
        table.add_row(f"… and {len(shards) - SHARDS_SHOWN:,} more")
    return table


def _causes(states: Sequence[StepState]) -> Table:
    """Why the first of them are outstanding; what waits for them is not repeated."""
    table = Table(box=None, pad_edge=False, show_header=False)
    shown = [partition for step in states for partition in step.of("stale", "missing")]
    for partition in shown[:SHOWN]:
        place = f"{partition.step.name}[{partition.partition.key}]" if partition.partition.key else partition.step.name
        table.add_row(escape(place), escape(partition.cause or ""))
    return table


def _generations(versions: Versions) -> str:
    newest, published = versions.generation, Versions(versions.workspace, "published").generation
    if newest is None or published is None:
        return "No generation of curvature yet."
    said = _generation(Versions(versions.workspace, "published"))
    if newest.generation_id != published.generation_id:
        said += f" Generation {newest.generation_id} is being filled beside it."
    return said


def _generation(versions: Versions) -> str:
    key = versions.key(BY_NAME["curvature"], Partition())
    if key is None or not versions.holds(key):
        return "No generation of curvature yet."
    summary = versions.workspace.store.open(key).manifest.summary
    share = float(summary["attributed_share"])
    return (
        f"Generation {summary['generation_id']}: {summary['training_sequences']:,} training sequences, "
        f"{share:.1%} of the parameters attributed."
    )
