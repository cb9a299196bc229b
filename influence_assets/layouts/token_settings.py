"""The settings of a study by which text becomes tokens, as they enter data versions."""

from collections.abc import Mapping
from typing import Any

from influence_assets.study import Corpus, Queries, Study


def token_settings(study: Study, of: Corpus | Queries) -> Mapping[str, Any]:
    """Return the settings that differ from the defaults, which are in no version.

    Args:
        study: the study.
        of: its corpus or its queries.
    """
    settings: dict[str, Any] = {"separator": study.sequences.separator, "prefix": study.sequences.prefix}
    chosen = {name: value for name, value in settings.items() if value is not None}
    return chosen if of.special_tokens == "text" else {**chosen, "special_tokens": of.special_tokens}
