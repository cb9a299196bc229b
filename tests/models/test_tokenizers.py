"""The tokens of a study are those that the folder's tokenizer.json gives, whatever class transformers loads."""

import builtins
import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_kinds import KINDS, dna, dna_bpe, end_of, saved
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

from influence_assets.corpus.tokenization import Tokenization
from influence_assets.errors import InputError
from influence_assets.models.tokenizer_comparison import PROBES, difference
from influence_assets.models.tokenizers import ExportedTokenizer, export_tokenizer
from influence_assets.tokenizer_template import template_surroundings
from tests.tiers import slow_but

CLASSES = (
    "PreTrainedTokenizerFast", "GPT2Tokenizer", "Qwen2Tokenizer", "LlamaTokenizer", "GemmaTokenizer", "T5Tokenizer",
    "GPTNeoXTokenizer", "BertTokenizer", "CodeLlamaTokenizer", "XLMRobertaTokenizer", "NoSuchTokenizer",
)  # fmt: skip
TEXTS = st.text(max_size=40) | st.lists(
    st.sampled_from(["the", " while", "12345", "  ", "\n", "é", "日本", "ACGT", "_x", "</s>", "<|im_end|>", ".", "1"])
).map("".join)


def ids_of(tokenizer, text):
    """The tokens by the tokenizers library alone; None where it has none for the text."""
    tokenizer.encode_special_tokens = True
    try:
        return tokenizer.encode(text, add_special_tokens=False).ids
    except Exception:  # noqa: BLE001  # tokenizers raises bare Exceptions
        return None


def ids_in_study(tokenization, text):
    try:
        return tokenization.encode(text, "here").tokens.tolist()
    except InputError:
        return None


@pytest.mark.parametrize("tokenizer_class", slow_but("Qwen2Tokenizer", "LlamaTokenizer", "T5Tokenizer", of=CLASSES))
@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_are_those_of_tokenizer_json(tmp_path_factory, kind, tokenizer_class):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = KINDS[kind]()
    saved(folder, tokenizer, tokenizer_class)
    export_tokenizer(folder, folder / "out", embedding_rows=tokenizer.get_vocab_size())
    studied, file = Tokenization.load(folder / "out"), Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert studied.prefix_ids == template_surroundings(file)[0]
    assert studied.separator_id == file.token_to_id(end_of(tokenizer))

    @given(TEXTS)
    @settings(max_examples=15)
    def agree(text):
        assert ids_in_study(studied, text) == ids_of(file, text)

    agree()
    for text in PROBES:
        assert ids_in_study(studied, text) == ids_of(file, text)


@pytest.mark.parametrize(
    ("tokenizer_class", "kind", "text", "tokens"),
    [
        ("Qwen2Tokenizer", "numbers_in_threes", "1234567", ["123", "45", "6", "7"]),
        ("LlamaTokenizer", "sentencepiece_bpe", " lead", ["▁▁", "l", "e", "a", "d"]),
        ("GPT2Tokenizer", "single_digits", "2024", ["2", "0", "2", "4"]),
    ],
)
def test_a_class_does_not_replace_the_file(tmp_path, tokenizer_class, kind, text, tokens):
    folder = saved(tmp_path / "model", KINDS[kind](), tokenizer_class)
    notes = export_tokenizer(folder, tmp_path / "out", embedding_rows=1000).notes
    exported = Tokenization.load(tmp_path / "out")
    ids = exported.encode(text, "here").tokens.tolist()
    assert [exported.tokenizer.id_to_token(number) for number in ids] == tokens
    (note,) = notes
    assert "splits text otherwise" in note
    assert "instead of" in note


def test_a_tokenizer_that_agrees_is_exported_as_transformers_has_it(tmp_path):
    """So that the hash of a tokenizer that was right stays, and with it all that was computed with it."""
    saved(tmp_path, KINDS["gpt2"](), "GPT2Tokenizer")
    assert export_tokenizer(tmp_path, tmp_path / "out", embedding_rows=1000) == ExportedTokenizer((), None)
    loaded = GPT2Tokenizer.from_pretrained(tmp_path).backend_tokenizer
    assert (tmp_path / "out" / "tokenizer.json").read_text() == loaded.to_str(pretty=True)
    assert json.loads((tmp_path / "out" / "origin.json").read_text()) == {"source": "transformers"}


@pytest.mark.parametrize("made", [GPT2Tokenizer, Qwen2Tokenizer, LlamaTokenizer])
def test_a_folder_that_transformers_saved_needs_no_other_file(tmp_path, made):
    """Some classes name other files, but all are saved as tokenizer.json alone."""
    saved(tmp_path / "first", KINDS["gpt2"]() if made is not LlamaTokenizer else KINDS["sentencepiece_bpe"]())
    made.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    export_tokenizer(tmp_path / "model", tmp_path / "out", embedding_rows=1000)
    file = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    assert ids_in_study(Tokenization.load(tmp_path / "out"), PROBES[0]) == ids_of(file, PROBES[0])


def test_a_difference_on_documents_alone_counts_and_quotes_none():
    """Two tokenizers that differ in a word that no probe has."""
    words = {word: number for number, word in enumerate(["[UNK]", "secret", "s"])}
    plain = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    other = Tokenizer.from_str(plain.to_str())
    other.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Split("zq", "isolated")])
    assert difference(plain, other) is None
    found = difference(plain, other, ["nothing", "a secretzqsecret"])
    assert found is not None
    assert found.of_file_count - found.used_count == 2
    assert "secret" not in str(found)


def test_side_by_side():
    single, threes = KINDS["single_digits"](), KINDS["numbers_in_threes"]()
    found = difference(single, threes)
    assert found is not None
    assert found.text
    assert found.used != found.of_file
    assert str(found) == f"{found.text!r} as {' | '.join(found.used)} instead of {' | '.join(found.of_file)}"


@pytest.mark.parametrize("made", [lambda: dna(unknown=True), lambda: dna(unknown=False), dna_bpe])
def test_the_prefix_does_not_depend_on_any_letter(tmp_path, made):
    tokenizer = made()
    saved(tmp_path, tokenizer)
    export_tokenizer(tmp_path, tmp_path / "out", embedding_rows=tokenizer.get_vocab_size())
    exported = Tokenization.load(tmp_path / "out")
    assert exported.prefix_ids == (0,)
    assert exported.separator_id == 1
    assert len(exported.encode("ACGT", "here")) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_earlier_releases_had_otherwise_is_reported_as_corrected(tmp_path, kind):
    """They encoded the letter a, whose tokens they took to be those that are not special."""
    tokenizer = KINDS[kind]()
    saved(tmp_path, tokenizer)
    exported = export_tokenizer(tmp_path, tmp_path / "out", embedding_rows=1000)
    assert exported.corrected == ([1, [0]] if kind in ("dna_bpe", "dna_without_unknown") else None)


@pytest.mark.parametrize("letter", ["a", "text", "x"])
def test_a_template_around_a_tokenizer_whose_letters_are_special(letter):
    tokenizer = Tokenizer(models.WordLevel({letter: 0, "<s>": 1, "</s>": 2}, unk_token=letter))
    tokenizer.add_special_tokens([letter, "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> <s> $A </s>", pair="<s> $A $B", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert template_surroundings(tokenizer) == ((1, 1), (2,))


def test_a_text_without_tokens_is_an_error_that_names_it():
    tokenizer = Tokenization.of(dna(unknown=False), 1, 6)
    assert tokenizer.encode("ACGT", "a.txt, row 1").tokens.tolist() == [2, 3, 4, 5]
    with pytest.raises(InputError, match="no token for some of its text") as refused:
        tokenizer.encode_batch(["ACGT", "ACGN"], ["a.txt, row 1", "a.txt, row 2"])
    assert refused.value.where == "a.txt, row 2"


@pytest.mark.parametrize("kind", ["gpt2", "sentencepiece_bpe", "word_piece", "unigram"])
def test_special_tokens_beyond_the_embedding_are_no_reason_to_refuse(tmp_path, kind):
    tokenizer = KINDS[kind]()
    rows = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens(["[PAD_]", "<|reserved|>"])
    saved(tmp_path, tokenizer, pad_token="[PAD_]")
    export_tokenizer(tmp_path, tmp_path / "out", embedding_rows=rows)
    studied = Tokenization.load(tmp_path / "out")
    assert max(studied.encode("a [PAD_] b<|reserved|>", "here").tokens) < rows


@pytest.mark.parametrize("place", ["word", "separator", "prefix"])
def test_tokens_beyond_the_embedding_that_are_used_are_refused(tmp_path, place):
    tokenizer = KINDS["gpt2"]()
    rows = tokenizer.get_vocab_size()
    if place == "word":
        tokenizer.add_tokens(["lighthouse"])
    else:
        tokenizer.add_special_tokens(["</s>"])
    if place == "prefix":
        tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", rows)])
    saved(tmp_path, tokenizer, **({"eos_token": "</s>"} if place == "separator" else {}))
    with pytest.raises(InputError, match=f"does not belong to the model: .*{rows}.* {rows} rows"):
        export_tokenizer(tmp_path, tmp_path / "out", embedding_rows=rows)


def test_an_end_of_text_that_transformers_makes_up_is_none(tmp_path):
    tokenizer = KINDS["word_piece"]()
    saved(tmp_path, tokenizer, "GPT2Tokenizer", eos_token="<|endoftext|>")
    notes = export_tokenizer(tmp_path, tmp_path / "out", embedding_rows=tokenizer.get_vocab_size()).notes
    assert Tokenization.load(tmp_path / "out").separator_id is None
    assert any("No token ends a document" in note for note in notes)
    assert any("sequences.separator" in note and "[SEP]" in note for note in notes)


def test_a_file_that_does_not_fit_the_model_is_refused_with_both_tokenizations(tmp_path):
    saved(tmp_path, KINDS["numbers_in_threes"](), "Qwen2Tokenizer")
    with pytest.raises(InputError, match=r"does not belong to the model.* as .* instead of "):
        export_tokenizer(tmp_path, tmp_path / "out", embedding_rows=100)


OWN_CODE = """
import pathlib
from transformers import PreTrainedTokenizerFast
pathlib.Path({ran!r}).touch()
class Own(PreTrainedTokenizerFast):
    pass
"""


def with_own_code(folder, ran):
    saved(folder, KINDS["gpt2"](), "Own", auto_map={"AutoTokenizer": [None, "own.Own"]})
    (folder / "own.py").write_text(OWN_CODE.format(ran=str(ran)))


@pytest.fixture
def nobody_is_asked(monkeypatch):
    def ask(*_):
        raise AssertionError("somebody was asked on standard input")

    monkeypatch.setattr(builtins, "input", ask)
    monkeypatch.setattr(sys, "stdin", None)


@pytest.mark.usefixtures("nobody_is_asked")
@pytest.mark.parametrize("trusted", [True, False])
def test_code_beside_the_tokenizer_runs_only_if_it_is_trusted(tmp_path, monkeypatch, trusted):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with_own_code(tmp_path / "model", tmp_path / "ran")
    notes = export_tokenizer(tmp_path / "model", tmp_path / "out", embedding_rows=1000, trust_remote_code=trusted).notes
    assert (tmp_path / "ran").exists() == trusted
    assert any("model.trust_remote_code" in note for note in notes) != trusted
    file = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    assert ids_in_study(Tokenization.load(tmp_path / "out"), PROBES[0]) == ids_of(file, PROBES[0])


@pytest.mark.usefixtures("nobody_is_asked")
def test_a_tokenizer_of_code_alone_is_refused_by_the_name_of_the_key(tmp_path):
    with_own_code(tmp_path / "model", tmp_path / "ran")
    (tmp_path / "model" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"set model\.trust_remote_code to true"):
        export_tokenizer(tmp_path / "model", tmp_path / "out", embedding_rows=1000)
    assert not (tmp_path / "ran").exists()


def test_names_in_the_settings_are_kept_when_the_file_is_used(tmp_path):
    tokenizer = KINDS["numbers_in_threes"]()
    tokenizer.add_special_tokens(["<|stop|>"])
    saved(tmp_path, tokenizer, "Qwen2Tokenizer", eos_token="<|stop|>")
    export_tokenizer(tmp_path, tmp_path / "out", embedding_rows=1000)
    assert json.loads((tmp_path / "out" / "origin.json").read_text()) == {"source": "tokenizers"}
    assert Tokenization.load(tmp_path / "out").separator_id == tokenizer.token_to_id("<|stop|>")
    assert isinstance(PreTrainedTokenizerFast.from_pretrained(tmp_path).eos_token, str)
