"""What a reader of the scores should know, from the catalogue's view `cautions`."""

from pathlib import Path

from influence_assets.errors import InputError, StorageError
from influence_assets.storage.catalogue import query


def cautions(catalogue: Path) -> list[str]:
    """Return the cautions about all scores of a study, as sentences; none if there is no catalogue yet.

    Args:
        catalogue: the DuckDB file.
    """
    return [caution for query_id, caution in _rows(catalogue) if query_id is None]


def all_cautions(catalogue: Path) -> list[str]:
    """Return the cautions about all scores, and one sentence for all queries with scores that cannot be."""
    rows = _rows(catalogue)
    of_queries = [query_id for query_id, _ in rows if query_id is not None]
    if not of_queries:
        return [caution for _, caution in rows]
    having = "1 query has" if len(of_queries) == 1 else f"{len(of_queries):,} queries have"
    beyond = (
        f"{having} scores larger than what the completion can gain ({', '.join(of_queries[:3])}"
        f"{', …' if len(of_queries) > 3 else ''}). They rank passages and say nothing of sizes: "
        "`influence sql 'from cautions'`."
    )
    return [beyond, *(caution for query_id, caution in rows if query_id is None)]


def _rows(catalogue: Path) -> list[tuple[str | None, str]]:
    sql = "select query_id, caution from cautions order by query_id nulls last, caution"
    try:
        return query(catalogue, sql).rows()
    except (StorageError, InputError):  # the catalogue is missing, damaged or of an earlier release
        return []
