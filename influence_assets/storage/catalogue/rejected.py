"""Errors of DuckDB that are the fault of an SQL file, such as one that an extension brings beside its asset."""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from influence_assets.errors import InputError
from influence_assets.storage.catalogue.statements import Statement


@contextmanager
def naming_file(statement: Statement, *, reads_files: bool = False) -> Iterator[None]:
    """Raise what DuckDB rejects within the block as an error that names the statement's file.

    Args:
        statement: the statement that the block runs.
        reads_files: whether it reads Parquet files: a column that does not exist is then the fault of one of those.

    Raises:
        InputError: the statement cannot be parsed, or names a table, column or function that does not exist.
    """
    try:
        yield
    except duckdb.ProgrammingError as error:
        if reads_files and not isinstance(error, duckdb.ParserException | duckdb.CatalogException):
            raise
        problem = f"DuckDB rejects the statement ({str(error).strip()})"
        raise InputError(str(statement.path), problem, "Correct it, then run again.") from error
