"""Printing of rows, and writing of them to files. Corpus text is escaped wherever it is printed."""

import json
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from influence_assets.errors import InputError
from influence_assets.escaping import visible

CELL_CHARACTERS = 120
READABLE = 40
"""The narrowest column, in characters, in which text that is folded over several lines is still readable."""

FORMATS = ("csv", "json", "parquet")


def show_rows(rows: pl.DataFrame, kind: str, output: Path | None, console: Console) -> None:
    """Print rows as a table, CSV or JSON, or write them to a file.

    Args:
        rows: the result of a query.
        kind: `table` or one of `FORMATS`; with an output file, `table` means the format of the file's suffix.
        output: the file to write, or None to print the rows.
        console: where rows are printed.

    Raises:
        InputError: Parquet is asked for without a file, or the file's format is not known.
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
    """Return the rows with lists and structs as JSON text, because CSV has no such types."""
    nested = [name for name, dtype in rows.schema.items() if dtype.is_nested()]
    texts = [
        pl.Series(name, [None if value is None else _json(value) for value in rows[name].to_list()], pl.String)
        for name in nested
    ]
    return rows.with_columns(texts)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def show_table(rows: pl.DataFrame, console: Console) -> None:
    """Print rows as a table or, if they are too wide, each as a list of its values."""
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
    """Return whether every name, number and id fits on one line if long text is folded to a readable width."""
    needed = 2 * len(rows.columns)
    for name in rows.columns:
        cells = [_cell(value) for value in rows[name]]
        needed += max(len(name), *(min(len(cell), READABLE) if " " in cell else len(cell) for cell in cells), 0)
    return needed <= width


def as_table(rows: pl.DataFrame) -> Table:
    """Return a table for people: numbers rounded and right-aligned, long text cut, control characters made visible."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, dtype in rows.schema.items():
        table.add_column(escape(visible(name)), justify="right" if dtype.is_numeric() else "left", overflow="fold")
    for row in rows.iter_rows():
        table.add_row(*(escape(_cell(value)) for value in row))
    return table


def _cell(value: object) -> str:
    """Return a value as one line of at most `CELL_CHARACTERS` characters."""
    text = f"{value:.5g}" if isinstance(value, float) else visible("" if value is None else str(value))
    text = " ".join(text.split())
    return text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 1] + "…"
