"""`influence sql`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.study import Study


class Format(StrEnum):
    """The format in which rows are printed or written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


def sql(
    statement: Annotated[
        str, typer.Argument(help="A query. What there is: select table_name, comment from duckdb_tables().")
    ],
    output_format: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
    output: Annotated[Path | None, typer.Option(help="A file to write instead; csv, json or parquet.")] = None,
    study: StudyOption = HERE,
) -> None:
    """Run a read-only SQL query over the influences."""
    from influence_assets.cli.tables import show_rows
    from influence_assets.engine.workspace import catalogue_path
    from influence_assets.storage.catalogue import query

    rows = query(catalogue_path(Study.load(study)), statement)
    show_rows(rows, output_format.value, output, console)


COMMAND = Command(name="sql", function=sql, rank=90)
