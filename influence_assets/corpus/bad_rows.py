"""Rows of a source file that cannot be used."""

from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl

from influence_assets.errors import InputError

BAD_ROW_SCHEMA = pl.Schema({"shard_id": pl.String(), "source_row": pl.Int64(), "problem": pl.String()})

ROWS_NAMED = 20
"""How many rows an error names."""


class BadRow(NamedTuple):
    """A row that cannot be used.

    Attributes:
        source_row: its number in the file, from 1.
        problem: what is wrong with it, without its text.
    """

    source_row: int
    problem: str


@dataclass
class BadRows:
    """The bad rows that were found while a file, or a slice of one, was read.

    Attributes:
        rows: all of them, in order.
    """

    rows: list[BadRow] = field(default_factory=list)
    _first: InputError | None = None

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.rows)

    def note(self, source_row: int, error: InputError) -> None:
        """Note a row, and the error that it cannot be used for."""
        self.rows.append(BadRow(source_row, error.problem))
        self._first = self._first or error

    def as_error(self, url: str, *, may_be_left_out: bool, are_all: bool = False) -> InputError:
        """Return the error that names them.

        Args:
            url: the file.
            may_be_left_out: whether `corpus.on_bad_row` is a remedy.
            are_all: whether the file has no other rows.
        """
        first = self._first
        assert first is not None  # noqa: S101  # only called when there are some
        remedy = first.remedy
        if may_be_left_out:
            remedy = f"{remedy} To leave such rows out, set corpus.on_bad_row to skip."
        if self.count == 1:
            return InputError(first.where, first.problem, remedy)
        named = "; ".join(f"row {row.source_row}: {row.problem}" for row in self.rows[:ROWS_NAMED])
        more = f"; and {self.count - ROWS_NAMED:,} more" if self.count > ROWS_NAMED else ""
        number = f"none of its {self.count:,} rows can be used" if are_all else f"{self.count:,} rows cannot be used"
        return InputError(url, f"{number} ({named}{more})", remedy)

    def table(self, shard_id: str) -> pl.DataFrame:
        """Return them as rows of `BAD_ROW_SCHEMA`."""
        return pl.DataFrame([(shard_id, *row) for row in self.rows], schema=BAD_ROW_SCHEMA, orient="row")
