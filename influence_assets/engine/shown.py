"""What a person is shown of an artifact, in types that do not depend on a user interface."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl


@dataclass(frozen=True)
class Table:
    """Rows to read; text in them may come from a corpus and is never interpreted as markup."""

    rows: pl.DataFrame


@dataclass(frozen=True)
class Picture:
    """A plot.

    Args:
        png: the image.
        title: a text alternative that says what it shows.
    """

    png: bytes
    title: str


@dataclass(frozen=True)
class Location:
    """A file or folder on this machine."""

    path: Path


Shown = Table | Picture | Location | str | int | float | bool
