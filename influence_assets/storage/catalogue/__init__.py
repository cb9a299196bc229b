"""The catalogue: a DuckDB file that is built from artifacts, published as a whole and queried read-only.

DuckDB allows either one writer or many readers. So the loader changes a copy in one transaction and renames it over the
published file: readers never wait and never see half a load.
"""

from influence_assets.storage.catalogue.comparison import Difference, differences
from influence_assets.storage.catalogue.content import CatalogueChange, CatalogueContent
from influence_assets.storage.catalogue.loading import load_catalogue, record_states, unload_artifacts
from influence_assets.storage.catalogue.publication import (
    doubt_publication,
    is_as_published,
    published_identity,
    was_built_anew,
)
from influence_assets.storage.catalogue.publishing import loader_lock, remove_abandoned_load
from influence_assets.storage.catalogue.reading import (
    ask_cookbook,
    check_names,
    cookbook,
    damaged_tables,
    has_holes,
    loaded_keys,
    query,
    refuse_unknown,
    run_checks,
    standing_content_version,
)

__all__ = [
    "CatalogueChange",
    "CatalogueContent",
    "Difference",
    "ask_cookbook",
    "check_names",
    "cookbook",
    "damaged_tables",
    "differences",
    "doubt_publication",
    "has_holes",
    "is_as_published",
    "load_catalogue",
    "loaded_keys",
    "loader_lock",
    "published_identity",
    "query",
    "record_states",
    "refuse_unknown",
    "remove_abandoned_load",
    "run_checks",
    "standing_content_version",
    "unload_artifacts",
    "was_built_anew",
]
