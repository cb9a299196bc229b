"""How a study's texts become tokens: the model's tokenizer, with what the study says of special tokens."""

from difflib import get_close_matches

from influence_assets.corpus.tokenization import Tokenization
from influence_assets.errors import InputError
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import SpecialTokens, Study


def tokenization_of(language_model: Artifact, study: Study, special_tokens: SpecialTokens) -> Tokenization:
    """Return how the texts of the corpus or of the queries become tokens.

    Args:
        language_model: the artifact with the tokenizer.
        study: the study, whose `sequences.separator` and `sequences.prefix` replace the tokenizer's own.
        special_tokens: what becomes of special tokens in these texts.

    Raises:
        InputError: the study names a token that the tokenizer does not have.
    """
    return as_studied(Tokenization.load(language_model.path("tokenizer")), study, special_tokens)


def as_studied(tokenization: Tokenization, study: Study, special_tokens: SpecialTokens) -> Tokenization:
    """Return a model's tokenization with what a study says; see `tokenization_of`."""
    separator, prefix = tokenization.separator_id, tokenization.prefix_ids
    if (name := study.sequences.separator) is not None:
        separator = _token(tokenization, name, "sequences.separator") if name else None
    if (names := study.sequences.prefix) is not None:
        prefix = tuple(_token(tokenization, name, "sequences.prefix") for name in names)
    return Tokenization(tokenization.tokenizer, separator, prefix, tokenization.vocabulary, special_tokens)


def in_words(tokenization: Tokenization) -> str:
    """Return what surrounds a document, as a sentence."""
    prefix = " ".join(_name(tokenization, number) for number in tokenization.prefix_ids) or "nothing"
    separator = "nothing" if tokenization.separator_id is None else _name(tokenization, tokenization.separator_id)
    return f"Before each document comes {prefix}, after it {separator}."


def _name(tokenization: Tokenization, number: int) -> str:
    return tokenization.tokenizer.id_to_token(number) or str(number)


def _token(tokenization: Tokenization, name: str, key: str) -> int:
    number = tokenization.tokenizer.token_to_id(name)
    if number is None:
        near = get_close_matches(name, tokenization.special_names, n=3) or tokenization.special_names[:3]
        remedy = "Name a token as tokenizer.json writes it" + (f", such as {', '.join(near)}." if near else ".")
        raise InputError(key, f"{name!r} is not a token of the model", remedy)
    return int(number)
