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
    around = study.sequences.model_dump(mode="json", include={"separator", "prefix"})
    chosen = {name: value for name, value in around.items() if value is not None}
    if isinstance(of, Corpus) and of.loss_on != "answers":
        chosen["loss_on"] = of.loss_on
    return chosen if of.special_tokens == "text" else {**chosen, "special_tokens": of.special_tokens}


def packing_settings(study: Study) -> Mapping[str, Any]:
    """Return the settings of packing that differ from the defaults, which are in no version."""
    of = study.sequences
    blind = {} if of.documents_see_each_other else {"documents_see_each_other": False}
    return blind if of.packing == "packed" else {**blind, "packing": of.packing}
