"""What a study says of the tokens around and in its texts, from the study file to the stored tokens."""

import json

import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from influence_assets.engine.partitions import Partition
from influence_assets.errors import InputError
from influence_assets.storage.artifacts import Artifact
from tests import studies
from tests.commanding import influence

CHAT = [
    {"text": f"<|im_start|>user\n{row['text']}<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>"}
    for row in studies.COAST_ROWS
]


def set_keys(study, **sections):
    described = yaml.safe_load(study.read_text())
    for section, keys in sections.items():
        described[section] = {**described.get(section, {}), **keys}
    study.write_text(yaml.safe_dump(described))


def tokenizer_of(study):
    return Tokenizer.from_file(str(study.parent / "model" / "tokenizer.json"))


def stored_tokens(study, shard):
    """The tokens of a shard, one sequence after the other."""
    artifact = studies.artifact(study, "token_sequences", shard=shard)
    rows = zip(artifact.array("tokens").tolist(), artifact.array("lengths").tolist(), strict=True)
    return [token for row, length in rows for token in row[:length]]


def expected_tokens(study, texts, prefix, separator, *, parse=False):
    """The tokens by the model's own file alone; a last sequence of one token is dropped."""
    tokenizer = tokenizer_of(study)
    tokenizer.encode_special_tokens = not parse
    stream = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        stream += [*prefix, *ids, *([] if parse and ids[-1:] == separator else separator)]
    return stream[:-1] if len(stream) % studies.LENGTH == 1 else stream


@pytest.fixture
def chat_study(tmp_path):
    """A study of chats, with a model that has the tokens of a chat."""
    study = studies.lay_out(tmp_path)
    studies.write_jsonl(tmp_path / "corpus" / studies.COAST, CHAT)
    tokenizer = studies.tokenizer()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.save_pretrained(tmp_path / "model")
    studies.network("gpt2", vocabulary=tokenizer.get_vocab_size()).save_pretrained(tmp_path / "model")
    return study


@pytest.mark.parametrize(
    ("keys", "prefix", "separator"),
    [
        ({}, [], [0]),
        ({"separator": ""}, [], []),
        ({"prefix": [studies.END], "separator": "t"}, [0], None),
        ({"prefix": []}, [], [0]),
    ],
)
def test_separator_and_prefix(tmp_path, keys, prefix, separator):
    study = studies.lay_out(tmp_path, sequences=keys)
    studies.compute(study, until="token_sequences")
    if separator is None:
        separator = [tokenizer_of(study).token_to_id("t")]
    texts = [row["text"] for row in studies.COAST_ROWS]
    assert stored_tokens(study, studies.COAST) == expected_tokens(study, texts, prefix, separator)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, f"Before each document comes nothing, after it {studies.END}."),
        (
            {"prefix": [studies.END, "t"], "separator": ""},
            f"Before each document comes {studies.END} t, after it nothing.",
        ),
    ],
)
def test_plan_and_status_say_what_surrounds_a_document(tmp_path, keys, words):
    study = studies.lay_out(tmp_path, sequences=keys)
    studies.compute(study, until="language_model")
    for command in ("plan", "status"):
        shown = influence(command, "--study", study)
        assert words in shown.out, shown.error


def test_only_keys_that_differ_from_the_defaults_change_versions(study):
    before = studies.data_versions(study)
    set_keys(study, sequences={"separator": None, "prefix": None}, corpus={"special_tokens": "text"})
    set_keys(study, queries={"special_tokens": "text"})
    assert studies.data_versions(study) == before
    set_keys(study, queries={"special_tokens": "parse"})
    after = studies.data_versions(study)
    changed = {name.partition("[")[0] for name in before if before[name] != after.get(name)}
    assert "query_gradients" in changed
    assert not {"documents", "language_model", "token_sequences", "eigenbases"} & changed
    set_keys(study, sequences={"prefix": [studies.END]})
    after = studies.data_versions(study)
    assert before["language_model"] == after["language_model"]
    shards = [name for name in before if name.startswith("token_sequences")]
    assert all(before[name] != after[name] for name in shards)


@pytest.mark.parametrize("key", ["separator", "prefix"])
def test_a_token_that_the_model_does_not_have_is_an_error_that_names_the_key(study, key):
    set_keys(study, sequences={key: "<|endoftxt|>" if key == "separator" else ["<|endoftxt|>"]})
    with pytest.raises(InputError, match=r"is not a token of the model.* such as <\|endoftext\|>") as refused:
        studies.compute(study)
    assert refused.value.where == f"sequences.{key}"


def test_chats_that_are_read_as_text_are_told(chat_study):
    studies.compute(chat_study, until="token_sequences")
    texts = [row["text"] for row in CHAT]
    end = tokenizer_of(chat_study).token_to_id("<|im_end|>")
    assert stored_tokens(chat_study, studies.COAST) == expected_tokens(chat_study, texts, [], [end])
    shown = influence("status", "--study", chat_study)
    assert "4 of 4 documents have special tokens of the model (<|im_start|> 8 times, <|im_end|> 8 times)" in shown.out
    assert "set corpus.special_tokens to parse" in shown.out


@pytest.mark.slow
def test_chats_that_are_parsed(chat_study):
    set_keys(chat_study, corpus={"special_tokens": "parse"}, queries={"special_tokens": "parse"})
    chat = {"query_id": "chat", "prompt": "<|im_start|>user\nShips?<|im_end|>\n", "completion": "Yes.<|im_end|>"}
    studies.write_jsonl(chat_study.parent / "queries" / studies.FIRST, [chat])
    assert set(studies.compute(chat_study)) == studies.everything()
    texts, tokenizer = [row["text"] for row in CHAT], tokenizer_of(chat_study)
    end = tokenizer.token_to_id("<|im_end|>")
    assert stored_tokens(chat_study, studies.COAST) == expected_tokens(chat_study, texts, [], [end], parse=True)
    counted = studies.ask_sql(
        chat_study, "select prompt_tokens, completion_tokens from queries where query_id = 'chat'"
    )
    prompt, whole = (len(tokenizer.encode(t).ids) for t in (chat["prompt"], chat["prompt"] + chat["completion"]))
    assert counted.row(0) == (prompt, whole - prompt)
    assert "special tokens of the model" not in influence("status", "--study", chat_study).out


def as_earlier_releases_left_it(study, tokenizer):
    """Replace the stored tokenizer, which earlier releases did not compare with the file."""
    good = studies.artifact(study, "language_model")
    around = json.loads((good.path("tokenizer") / "tokens.json").read_text())
    summary, inputs = dict(good.manifest.summary), good.manifest.inputs
    store = studies.versions_of(study).workspace.store
    store.mark_damaged(good.folder, [], "is replaced")
    with store.write(good.key, inputs=inputs, code_version=good.manifest.code_version) as draft:
        folder = draft.folder("tokenizer")
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokens.json").write_text(json.dumps(around))
        draft.summarise(**summary)


def language_model_state(study):
    versions = studies.versions_of(study)
    return versions.stands(versions.workspace.graph["language_model"], Partition())


@pytest.mark.parametrize("is_right", [True, False])
def test_a_tokenizer_that_an_earlier_release_stored_stays_if_it_was_right(tmp_path, is_right):
    study = studies.lay_out(tmp_path)
    studies.compute(study, until="token_sequences")
    right = studies.artifact(study, "language_model")
    assert isinstance(right, Artifact)
    kept = Tokenizer.from_file(str(right.path("tokenizer") / "tokenizer.json"))
    hash_before = right.manifest.summary["tokenizer_hash"]
    if not is_right:
        kept.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("h", "isolated"), kept.pre_tokenizer])
    as_earlier_releases_left_it(study, kept)
    assert language_model_state(study) == is_right
    computed = studies.compute(study, until="token_sequences")
    assert ("language_model" in computed) != is_right
    assert studies.artifact(study, "language_model").manifest.summary["tokenizer_hash"] == hash_before


@pytest.mark.slow
def test_a_run_says_that_the_file_was_used_and_quotes_no_document(tmp_path):
    """GPT-2's class drops that the file splits digits; the model's ids are those of the file."""
    study = studies.lay_out(tmp_path)
    texts = [f"In 2024 the secret is {number}." for number in (20242024, 12)]
    studies.write_jsonl(tmp_path / "corpus" / studies.COAST, [{"text": text} for text in texts])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[studies.END], initial_alphabet=alphabet, show_progress=False
    )
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.train_from_iterator(["In 2024 2024 2025 the lamp"] * 9, trainer)
    digits = pre_tokenizers.Digits(individual_digits=True)
    learnt.pre_tokenizer = pre_tokenizers.Sequence([digits, learnt.pre_tokenizer])
    fast = PreTrainedTokenizerFast(tokenizer_object=learnt, eos_token=studies.END)
    fast.save_pretrained(tmp_path / "model")
    settings = tmp_path / "model" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"tokenizer_class": "GPT2Tokenizer"}))
    studies.network("gpt2", vocabulary=learnt.get_vocab_size()).save_pretrained(tmp_path / "model")
    ran = influence("run", "--study", study)
    assert ran.code == 0, ran.out + ran.err
    assert "language_model: The tokenizer is that of tokenizer.json; GPT2Tokenizer of transformers" in ran.out
    assert "splits text otherwise" in influence("status", "--study", study).out
    assert "secret" not in ran.out
    assert stored_tokens(study, studies.COAST) == expected_tokens(study, texts, [], [0])
