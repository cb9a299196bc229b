"""How text becomes ids: nothing added, nothing lost, nothing taken for a special token."""

import copy
import pickle

import pytest
from small_tokenizers import END, byte_fallback, byte_level, gpt2_like, llama_like
from tokenizers import AddedToken, processors

from influence_assets.corpus.tokenization import Tokenization
from influence_assets.errors import InputError
from influence_assets.tokenizer_template import template_surroundings


def test_what_the_template_puts_around_a_text():
    assert template_surroundings(byte_level()) == ((), ())
    assert template_surroundings(byte_fallback()) == ((1,), ())
    both = byte_fallback()
    both.post_processor = processors.TemplateProcessing(
        single="<s> <s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    both.enable_truncation(1)
    assert template_surroundings(both) == ((1, 1), (2,))
    byte_level_too = byte_level()  # Llama 3's kind
    byte_level_too.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)]),
        ]
    )
    assert template_surroundings(byte_level_too) == ((0,), ())


@pytest.mark.parametrize("make", [gpt2_like, llama_like])
def test_text_that_looks_like_a_special_token_is_text(make):
    tokenization = make()
    text = f"a {END} b</s><s>{END}"
    ids = tokenization.encode(text, "here").tokens.tolist()
    special = {tokenization.separator_id, *tokenization.prefix_ids}
    assert not special & set(ids)
    assert tokenization.tokenizer.decode(ids, skip_special_tokens=False) in (text, f" {text}")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda kept: pickle.loads(pickle.dumps(kept))])
def test_copies_and_saved_ones_encode_alike(tmp_path, copied):
    tokenization = llama_like()
    tokenization.save(tmp_path)
    expected = tokenization.encode(f"a</s> while {END}", "here")
    for other in (copied(tokenization), Tokenization.load(tmp_path)):
        assert other.encode(f"a</s> while {END}", "here").tokens.tolist() == expected.tokens.tolist()
        kept = (other.separator_id, other.prefix_ids, other.vocabulary)
        assert kept == (tokenization.separator_id, (1,), tokenization.vocabulary)


def test_the_model_s_own_tokenizer_is_left_as_it_is():
    tokenizer = byte_fallback()
    tokenizer.enable_truncation(5)
    before = tokenizer.to_str()
    Tokenization.of(tokenizer, 2, 1000)
    assert tokenizer.to_str() == before


def test_truncation_and_padding_are_off():
    tokenizer = byte_level()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenization = Tokenization.of(tokenizer, 0, 1000)
    plain = byte_level().encode("the while statement is used", add_special_tokens=False).ids
    assert tokenization.encode("the while statement is used", "here").tokens.tolist() == plain
    assert len(plain) > 3


def test_ranges_cover_white_space_and_are_shared_by_the_bytes_of_a_character():
    tokenization = gpt2_like()
    text = " the  Жx"  # the training lines do not have Ж, so it is two tokens
    encoded = tokenization.encode(text, "here")
    ranges = list(zip(encoded.character_start.tolist(), encoded.character_end.tolist(), strict=True))
    assert ranges[0] == (0, 4)
    assert ranges.count((6, 7)) == 2
    assert ranges[-1] == (7, 8)
    covered = {place for start, end in ranges for place in range(start, end)}
    assert covered == set(range(len(text)))


def test_ids_beyond_the_vocabulary():
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("while_loop")])
    tokenization = Tokenization.of(tokenizer, 0, tokenizer.get_vocab_size() - 1)
    assert len(tokenization.encode("while loop", "a.txt, row 1")) > 0
    with pytest.raises(InputError, match="does not belong to the model") as refused:
        tokenization.encode("a while_loop", "a.txt, row 1")
    assert refused.value.where == "a.txt, row 1"
    with pytest.raises(InputError, match="special ids"):
        Tokenization.of(byte_level(), 400, 400)
    with pytest.raises(InputError, match="special ids"):
        Tokenization.of(byte_fallback(), None, 1)


def test_encode_batch_is_encode():
    tokenization = gpt2_like()
    texts = ["the while", "😀 naïve", "x"]
    for text, batched in zip(texts, tokenization.encode_batch(texts, ["here"] * 3), strict=True):
        alone = tokenization.encode(text, "here")
        assert batched.tokens.tolist() == alone.tokens.tolist()
        assert batched.character_end.tolist() == alone.character_end.tolist()
