"""Which rows of a shard are left out because they cannot be used.

It follows from the shard's content and from settings, and for a slice of a large file also from the file's first row.
So it is measured and becomes part of the shard's version: when a limit is raised, a row that was too long is used.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import groupby

from influence_assets.corpus.bad_rows import BadRows
from influence_assets.corpus.measured_files import Digests
from influence_assets.corpus.readers import read_rows
from influence_assets.corpus.slices import Shard
from influence_assets.corpus.source_format import format_of
from influence_assets.errors import InputError
from influence_assets.study import Corpus

_RULE = 1
"""Raise it when other rows count as bad."""


def skipped_rows(shards: Iterable[Shard], corpus: Corpus, digests: Digests) -> dict[str, str]:
    """Return a hash of the rows that are left out, for each shard that has some.

    Args:
        shards: all shards of the corpus.
        corpus: the study's corpus. Unless its `on_bad_row` is `skip`, no row is left out.
        digests: remembered measurements; the caller saves them.
    """
    if corpus.on_bad_row != "skip":
        return {}
    settings = [corpus.text_column, corpus.id_column, corpus.max_document_bytes, corpus.shard_bytes]
    found: dict[str, str] = {}
    for file, slices in groupby(sorted(shards, key=lambda s: (s.file.url, s.index)), lambda shard: shard.file):
        of_file = list(slices)
        source_format = format_of(file.name)
        measure_id = f"bad rows {_RULE} {source_format.name} {source_format.version} {json.dumps(settings)}"
        with suppress(InputError):  # of a file that cannot be read; whoever reads its documents says why
            found |= digests.measured(file.url, measure_id, partial(_hashes, of_file, corpus))
    return found


def _hashes(shards: Iterable[Shard], corpus: Corpus, _raw: object) -> Mapping[str, str]:
    hashes = {}
    for shard in shards:
        bad_rows = BadRows()
        try:
            for _ in read_rows(shard, corpus, bad_rows):
                pass
        except InputError:
            continue  # computing the shard's documents says what is wrong
        if bad_rows.count:
            numbers = json.dumps([row.source_row for row in bad_rows.rows])  # another wording is no other version
            hashes[shard.shard_id] = hashlib.sha256(numbers.encode()).hexdigest()[:32]
    return hashes
