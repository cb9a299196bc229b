"""Reading of a shard's rows as frames of about 8 MiB of text.

A shard is never in memory as a whole. Text is kept exactly as it is, because the model was trained on it; only a
byte-order mark at the start of a file is dropped.
"""

from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from functools import lru_cache
from typing import Any

import polars as pl

from influence_assets.corpus import columns
from influence_assets.corpus.bad_rows import BadRows
from influence_assets.corpus.forms import Kind, kind_of, take_form
from influence_assets.corpus.slices import Shard, read_slice
from influence_assets.corpus.source_format import format_of
from influence_assets.corpus.stored_rows import Place, StoredRow, too_long
from influence_assets.corpus.streams import open_raw
from influence_assets.durable.identity import identity_at
from influence_assets.errors import InputError
from influence_assets.study import Corpus

ROW_SCHEMA = pl.Schema(
    {
        "source_row": pl.Int64(),
        "external_id": pl.String(),
        **dict.fromkeys(columns.PROMOTED, pl.String()),
        "metadata": pl.String(),
        "text": pl.String(),
        "form": pl.String(),
    }
)

_BATCH_CHARACTERS = 8 * 2**20
_BATCH_ROWS = 2**14


def read_rows(shard: Shard, corpus: Corpus, bad_rows: BadRows | None = None) -> Iterator[pl.DataFrame]:
    """Yield the rows of a shard in order, as frames of `ROW_SCHEMA`.

    `source_row` counts from the first row of the file. Rows without content, such as empty lines, are counted but left
    out. `form` is null for plain text; otherwise see `corpus.forms`. A row is bad if it cannot be parsed, has no text
    column, has a text that is not a string, is empty or is too long, or has another form than the file's first row.

    Args:
        shard: the shard to read.
        corpus: the study's corpus. Its `on_bad_row` decides whether bad rows are left out.
        bad_rows: where the bad rows are noted.

    Raises:
        InputError: the file is cut short, damaged or no longer has the content that the shard's hash was
            computed from; or it has bad rows that are not left out, or several rows and all of them bad. The error
            names the file and the rows.
    """
    if shard.file.bytes == 0:
        return  # whatever its format is
    batch: list[dict[str, Any]] = []
    characters = 0
    for described in _described_rows(shard, corpus, BadRows() if bad_rows is None else bad_rows):
        batch.append(described)
        characters += len(described["text"]) + len(described["metadata"] or "")
        if characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_ROWS:
            yield pl.DataFrame(batch, schema=ROW_SCHEMA)
            batch, characters = [], 0
    if batch:
        yield pl.DataFrame(batch, schema=ROW_SCHEMA)


def _described_rows(shard: Shard, corpus: Corpus, bad_rows: BadRows) -> Iterator[dict[str, Any]]:
    """Yield the shard's good rows with the columns of `ROW_SCHEMA`."""
    stored = read_slice(shard, corpus)
    kind = file_kind(shard, corpus) if shard.index else None
    is_any_good = False
    # To the end even after a bad row: only there can it turn out that the file is being written, which explains it.
    for row in stored:
        where = f"{shard.file.url}, row {row.number}"
        try:
            columns_of_row = _columns_of(row, shard.file.name, where, corpus)
            if columns_of_row is None:
                continue
            of_row = kind_of(columns_of_row, corpus)
            if kind is not None and of_row != kind:
                problem = f"has {of_row}, but the file's first row has {kind}"
                raise InputError(where, problem, "Put rows of different forms into files of their own.")
            described = _described(row.number, columns_of_row, of_row, corpus, where)
        except InputError as error:
            bad_rows.note(row.number, error)
        else:
            kind, is_any_good = of_row, True
            yield described
    if not bad_rows.count:
        return
    # Of a file of several rows none of which is good, a setting is wrong rather than the rows.
    is_setting = bad_rows.count > 1 and not is_any_good and file_kind(shard, corpus) is None
    if is_setting or corpus.on_bad_row == "refuse":
        raise bad_rows.as_error(shard.file.url, may_be_left_out=not is_setting, are_all=is_setting)


def _columns_of(row: StoredRow, name: str, where: str, corpus: Corpus) -> dict[str, Any] | None:
    """Return the columns of a row of the file with this name; None if the row has no content."""
    return format_of(name).columns(row, where, corpus) if row.columns is None else row.columns


def file_kind(shard: Shard, corpus: Corpus) -> Kind | None:
    """Return the form of the first good row of a shard's file; None if it has none that can be read."""
    url = shard.file.url
    return _file_kind(shard, corpus, None if "://" in url else tuple(identity_at(url) or ()))


@lru_cache(maxsize=2**16)
def _file_kind(shard: Shard, corpus: Corpus, _identity: tuple[int, ...] | None) -> Kind | None:
    """Return the form; the identity is that of the whole file, of which the shard's hash covers a slice."""
    whole = format_of(shard.file.name)
    if not whole.has_columns:
        return "text"
    try:
        with open_raw(shard.file.url) as raw, closing(whole.rows(raw, shard.file.url, corpus, Place())) as rows:
            for row in rows:
                where = f"{shard.file.url}, row {row.number}"
                with suppress(InputError):
                    columns_of_row = _columns_of(row, shard.file.name, where, corpus)
                    if columns_of_row is not None:
                        kind = kind_of(columns_of_row, corpus)
                        _described(row.number, columns_of_row, kind, corpus, where)
                        return kind
    except (InputError, OSError):
        return None  # whoever reads the rows says what is wrong
    return None


def _described(source_row: int, row: dict[str, Any], kind: Kind, corpus: Corpus, where: str) -> dict[str, Any]:
    """Return a file's row with the columns of `ROW_SCHEMA`."""
    _check_columns(row, kind, corpus, where)
    external_id = None if corpus.id_column is None else columns.as_string(row[corpus.id_column])
    form = None
    if kind == "text":
        text = row.pop(corpus.text_column)
        _check_text(text, corpus, where)
    else:
        text, form = take_form(row, kind, corpus, where)
        _check_length(text, corpus, where)
    if corpus.id_column is not None and corpus.id_column not in columns.PROMOTED:
        row.pop(corpus.id_column, None)
    own_columns = columns.promoted(row)
    return {
        "source_row": source_row,
        "external_id": external_id,
        **own_columns,
        "metadata": columns.metadata(row),
        "text": text,
        "form": None if form is None else form.as_json(),
    }


def _check_columns(names: Collection[str], kind: Kind, corpus: Corpus, where: str) -> None:
    text_column = corpus.text_column if kind == "text" else None
    for key, column in (("text_column", text_column), ("id_column", corpus.id_column)):
        if column is not None and column not in names:
            present = ", ".join(names) or "none"
            remedy = f"Set corpus.{key} to one of its columns: {present}."
            raise InputError(where, f"has no column `{column}`", remedy)


def _check_text(text: Any, corpus: Corpus, where: str) -> None:
    key = f"`{corpus.text_column}`"
    if not isinstance(text, str):
        raise InputError(
            where, f"{key} is {columns.kind_of_value(text)}, not a string", "Remove the row, or give it text."
        )
    if not text.strip():
        raise InputError(where, f"{key} is empty or only white space", "Remove the row, or give it text.")
    _check_length(text, corpus, where)


def _check_length(text: str, corpus: Corpus, where: str) -> None:
    if len(text.encode("utf-8")) > corpus.max_document_bytes:
        raise too_long(where, corpus)
