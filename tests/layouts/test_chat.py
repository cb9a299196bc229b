"""Tokens of conversations and which of them carry a loss, against what each template writes, said by hand."""

import itertools
import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from influence_assets.corpus.forms import Conversation, PromptedText
from influence_assets.errors import InputError
from influence_assets.layouts.chat import Preparation
from tests.layouts import chat_kinds
from tests.layouts.chat_kinds import FORGETFUL, KINDS, SPECIAL, template, tokenization

TOKENIZERS = chat_kinds.tokenizers()
WITHOUT_TEMPLATE = Preparation(tokenization(TOKENIZERS["bytes"]), None, "answers", "model")
WORDS = st.text("the wh\n aé😀", min_size=1, max_size=12).filter(str.strip)
QUOTING = st.one_of(WORDS, st.sampled_from(["say <|im_end|> now", "[INST]", "<|eot_id|>user", "a<end_of_turn>"]))


def turns(contents):
    roles = itertools.cycle(["user", "assistant"])
    return tuple({"role": role, "content": content} for role, content in zip(roles, contents, strict=False))


@cache
def preparation_for(kind, which, special_tokens, loss_on):
    of = tokenization(TOKENIZERS[which], special_tokens)
    return Preparation(of, template(KINDS[kind][0]), loss_on, "model")


@cache
def parsing(which):
    copy = Tokenizer.from_str(TOKENIZERS[which].to_str())
    copy.post_processor = None
    return copy


def prepared(kind, messages, which, *, special_tokens="text", loss_on="answers", first_answer=0):
    preparation = preparation_for(kind, which, special_tokens, loss_on)
    conversation = Conversation(messages, {}, first_answer)
    return preparation(conversation.as_json(), conversation.text, "a.jsonl, row 1"), conversation


@pytest.mark.parametrize("kind", KINDS)
@given(contents=st.lists(WORDS, min_size=1, max_size=5), which=st.sampled_from(sorted(TOKENIZERS)))
def test_tokens_are_those_of_the_whole_text_and_the_answers_carry_the_loss(kind, contents, which):
    messages = turns(contents)
    found, _ = prepared(kind, messages, which)
    pieces = list(KINDS[kind][1](messages))
    encoding = parsing(which).encode("".join(text for text, _ in pieces), add_special_tokens=False)
    assert found.tokens.tokens.tolist() == encoding.ids
    carries = [is_loss for text, is_loss in pieces for _ in text]
    assert found.loss.tolist() == [int(any(carries[start:end])) for start, end in encoding.offsets]
    assert found.is_complete


@given(contents=st.lists(WORDS, min_size=1, max_size=5), which=st.sampled_from(sorted(TOKENIZERS)))
def test_marked_templates_give_the_mask_of_transformers(contents, which):
    messages = turns(contents)
    fast = PreTrainedTokenizerFast(tokenizer_object=parsing(which), chat_template=KINDS["chatml"][0])
    theirs = fast.apply_chat_template([dict(m) for m in messages], return_dict=True, return_assistant_tokens_mask=True)
    found, _ = prepared("chatml", messages, which)
    assert found.tokens.tokens.tolist() == theirs["input_ids"]
    assert found.loss.tolist() == theirs["assistant_masks"]


@pytest.mark.parametrize("kind", KINDS)
@given(contents=st.lists(QUOTING, min_size=1, max_size=4), which=st.sampled_from(sorted(TOKENIZERS)))
def test_names_of_special_tokens_that_people_wrote_stay_text(kind, contents, which):
    messages = turns(contents)
    tokenizer = TOKENIZERS[which]
    found, _ = prepared(kind, messages, which)
    harmless = [c.replace("<", "(").replace("[", "(").replace("]", ")") for c in contents]
    template_only, _ = prepared(kind, turns(harmless), which)
    special = {tokenizer.token_to_id(name) for name in [*SPECIAL, chat_kinds.END]}

    def of_template(tokens):
        return [token for token in tokens.tokens.tokens.tolist() if token in special]

    assert of_template(found) == of_template(template_only)
    text = "".join(text for text, _ in KINDS[kind][1](messages))
    decoded = parsing(which).decode(found.tokens.tokens.tolist(), skip_special_tokens=False)
    if which == "bytes":
        assert decoded == text
    parsed, _ = prepared(kind, messages, which, special_tokens="parse")
    assert parsed.tokens.tokens.tolist() == parsing(which).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
@given(contents=st.lists(QUOTING, min_size=1, max_size=5))
def test_characters_are_those_of_the_text_that_people_see(kind, contents):
    messages = turns(contents)
    found, conversation = prepared(kind, messages, "bytes")
    start, end = found.tokens.character_start, found.tokens.character_end
    assert (start <= end).all()
    assert (np.diff(start) >= 0).all()
    assert end.max() <= len(conversation.text)
    covered = {place for s, e in zip(start, end, strict=True) for place in range(s, e)}
    for message, place in zip(messages, conversation.content_starts(), strict=True):
        stripped = message["content"].strip()
        first = place + message["content"].index(stripped)
        assert conversation.text[first : first + len(stripped)] == stripped
        assert covered >= set(range(first, first + len(stripped)))


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_answers_of_a_completion_carry_a_loss(kind):
    messages = turns(["one", "two", "three", "four"])
    every, _ = prepared(kind, messages, "bytes")
    last, _ = prepared(kind, messages, "bytes", first_answer=3)
    only = turns(["one", "two", "three"])
    earlier, _ = prepared(kind, only, "bytes")
    assert (last.tokens.tokens == every.tokens.tokens).all()
    carried_before = int(earlier.loss.sum())
    assert carried_before
    assert int(every.loss.sum()) - int(last.loss.sum()) == carried_before
    assert set(np.flatnonzero(last.loss)) == set(np.flatnonzero(every.loss)[carried_before:])


@pytest.mark.parametrize("kind", KINDS)
def test_all_tokens_carry_a_loss_if_the_study_says_so(kind):
    found, _ = prepared(kind, turns(["one", "two"]), "bytes", loss_on="all")
    assert found.loss.all()


@given(prompt=WORDS, completion=WORDS)
def test_a_completions_tokens_are_those_that_reach_past_the_prompt(prompt, completion):
    found = WITHOUT_TEMPLATE(PromptedText(len(prompt)).as_json(), prompt + completion, "a.jsonl, row 1")
    encoding = parsing("bytes").encode(prompt + completion, add_special_tokens=False)
    assert found.tokens.tokens.tolist() == encoding.ids
    assert found.loss.tolist() == [int(end > len(prompt)) for _, end in encoding.offsets]
    assert not found.is_complete


def refused(source, messages, special_tokens="text", **changed):
    preparation = Preparation(
        tokenization(TOKENIZERS["bytes"], special_tokens), source and template(source), "answers", "model"
    )
    conversation = Conversation(messages, changed)
    with pytest.raises(InputError) as caught:
        preparation(conversation.as_json(), conversation.text, "a.jsonl, row 1")
    assert str(caught.value).startswith("a.jsonl, row 1")
    return str(caught.value)


def test_what_cannot_be_told_is_refused_with_a_remedy():
    assert "model has no chat template" in refused(None, turns(["one", "two"]))
    error = refused(FORGETFUL, turns(["one", "two", "three", "four"]))
    assert "{% generation %}" in error
    assert "corpus.loss_on" in error
    system = ({"role": "system", "content": "be kind"}, *turns(["one", "two"]))
    assert "only user and assistant" in refused(KINDS["mistral"][0], system)
    upper = KINDS["chatml"][0].replace("message['content']", "message['content'] | upper")
    assert "special_tokens" in refused(upper, turns(["a <|im_end|> b", "two"]))
    in_store = Preparation(
        tokenization(chat_kinds.byte_level()), chat_kinds.ChatTemplate("x", {}, "o", ("<|im_start|>",)), "answers", None
    )
    conversation = Conversation(turns(["one", "two"]), {})
    with pytest.raises(InputError, match="trained when the corpus had none"):
        in_store(conversation.as_json(), conversation.text, "a.jsonl, row 1")


def test_tools_reach_the_template_and_a_called_tool_is_an_answer():
    source = (
        "{% for t in tools or [] %}{{ t['name'] + '\n' }}{% endfor %}{% for m in messages %}"
        "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m.tool_calls %}{{ m.tool_calls[0]['name'] }}"
        "{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    messages = ({"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [{"name": "look"}]})
    conversation = Conversation(messages, {"tools": [{"name": "look"}]})
    tokenizer = TOKENIZERS["bytes"]
    preparation = Preparation(tokenization(tokenizer), template(source), "answers", "model")
    found = preparation(conversation.as_json(), conversation.text, "a.jsonl, row 1")
    carried = parsing("bytes").decode(found.tokens.tokens[found.loss == 1].tolist(), skip_special_tokens=False)
    whole = parsing("bytes").decode(found.tokens.tokens.tolist(), skip_special_tokens=False)
    assert carried == "look<|im_end|>"
    assert whole.startswith("look\n<|im_start|>user")
    assert json.dumps([{"name": "look"}]) in conversation.text
