"""What commands say of the tokens around a text."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from influence_assets.engine.versions import Versions


def surroundings(versions: "Versions") -> str | None:
    """Return what comes before and after each document, as a sentence; None while the tokenizer is not known."""
    from influence_assets.engine.partitions import Partition
    from influence_assets.layouts.tokens import in_words, tokenization_of

    key = versions.key(versions.workspace.graph["language_model"], Partition())
    if key is None or not versions.holds(key):
        return None
    study = versions.workspace.study
    model = versions.workspace.store.open(key)
    words = in_words(tokenization_of(model, study, study.corpus.special_tokens))
    parsed = [
        name for name, of in (("documents", study.corpus), ("queries", study.queries)) if of.special_tokens == "parse"
    ]
    return words + (f" Special tokens are parsed in {' and '.join(parsed)}." if parsed else "")
