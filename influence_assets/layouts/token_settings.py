"""The settings of a study by which text becomes tokens, as they enter data versions."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from influence_assets.corpus.queries import read_query_set
from influence_assets.corpus.sources import SourceFile
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError
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


def chat_template_content(workspace: Workspace, has_chats: Callable[[], bool]) -> Mapping[str, Any]:
    """Return the model's chat template if rows are rendered by it; nothing otherwise.

    That of a model that the study trains never changes.

    Args:
        workspace: the study and its model.
        has_chats: tells whether any row is a conversation; it is asked only if there is a template.
    """
    if workspace.study.model.train is not None:
        return {}
    from influence_assets.layouts.chat import chat_template_of

    try:
        template = chat_template_of(workspace)
    except InputError:  # computing the partition says what is wrong
        return {}
    return {"chat_template": template.content} if template is not None and has_chats() else {}


def query_set_content(workspace: Workspace, query_set: str) -> Mapping[str, Any]:
    """Return what enters the versions of a query set's tokens: its file's hash, and the template of conversations."""
    file = workspace.query_file(query_set)
    content = workspace.query_hash(file)
    return {"content": content, **chat_template_content(workspace, lambda: _has_chats(file, content))}


@lru_cache(maxsize=1024)
def _has_chats(file: SourceFile, _content: str) -> bool:
    try:
        return bool(read_query_set(file)["chat"].is_not_null().any())
    except InputError:  # computing the partition says what is wrong
        return False
