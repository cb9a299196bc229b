"""What a tokenizer's own template puts around a text."""

from tokenizers import Tokenizer, models


def template_surroundings(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the special ids that a tokenizer's template puts before every text, and those that it puts after it.

    The template is given a token of another tokenizer, so that the answer does not depend on which texts its own
    vocabulary can express.
    """
    template = tokenizer.post_processor
    if template is None:
        return (), ()
    marker = Tokenizer(models.WordLevel({"text": 0}, unk_token="text"))  # noqa: S106
    around = template.process(marker.encode("text", add_special_tokens=False))
    place = around.special_tokens_mask.index(0)
    return tuple(around.ids[:place]), tuple(around.ids[place + 1 :])
