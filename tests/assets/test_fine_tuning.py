"""Fine-tuning corpora, from files to scores, against dense pieces with the loss masked by hand, in float64."""

import json

import numpy as np
import pytest
import torch
import yaml
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from influence_assets.cli.example import CONVERSATIONS, write_example
from influence_assets.corpus.forms import read_form
from influence_assets.corpus.queries import read_query_set
from influence_assets.corpus.readers import read_rows
from influence_assets.corpus.sources import SourceFile
from influence_assets.engine.notes import notes_of
from influence_assets.errors import InputError
from influence_assets.layouts.sequences import LOSS
from influence_assets.models.chat_templates import CHATML, CHATML_TOKENS
from influence_assets.models.layers.selection import select_modules
from influence_assets.study import Study
from tests import studies
from tests.corpus.small_corpora import shards_of
from tests.oracles import ekfac as oracle
from tests.oracles.gradients import Unfrozen, sequence_gradient

LENGTH = 32
ROLES = ("user", "assistant")
CHATS = [
    {"messages": [{"role": r, "content": c} for r, c in zip(ROLES * 2, said, strict=False)], "page": page}
    for page, said in enumerate(
        [
            ("Who climbs the tower?", "The keeper."),
            ("What does it hold, and who lit it so very early in the evening?", "A lamp.", "And <|im_end|>?", "Text."),
            ("Where is the fog?", [{"type": "text", "text": "On the "}, {"type": "text", "text": "water."}]),
        ]
    )
]
PAIRS = [
    {"prompt": "The baker rises at", "completion": " three."},
    {"prompt": "The smith heats the iron until it", "completion": " glows, then strikes."},
]
QUESTIONS = [
    {"query_id": "chat", "prompt": CHATS[0]["messages"][:1], "completion": CHATS[0]["messages"][1:]},
    {"query_id": "open", "prompt": CHATS[2]["messages"][:1], "completion": "On the"},
    {"query_id": "text", "prompt": "The baker rises at", "completion": " three"},
]
END = 0


def tokenizer():
    made = studies.tokenizer()
    made.add_special_tokens(list(CHATML_TOKENS))
    return made


def fast():
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer(), eos_token=studies.END, chat_template=CHATML)


def lay_out(folder, **sections):
    study = studies.lay_out(
        folder, **{"sequences": {"length": LENGTH}, "curvature": {"fisher": "empirical"}, **sections}
    )
    studies.write_jsonl(folder / "corpus" / studies.COAST, CHATS)
    studies.write_parquet(folder / "corpus" / studies.TRADES, PAIRS)
    studies.write_jsonl(folder / "queries" / studies.FIRST, QUESTIONS)
    (folder / "queries" / studies.SECOND).unlink()
    fast().save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=tokenizer().get_vocab_size(), n_positions=64, n_embd=8, n_layer=2, n_head=2, initializer_range=0.3
    )
    GPT2LMHeadModel(config).save_pretrained(folder / "model")
    return study


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    study = lay_out(tmp_path_factory.mktemp("chat"))
    studies.compute(study)
    return study


def text_tokens(text):
    made = tokenizer()
    made.encode_special_tokens = True
    return made.encode(text, add_special_tokens=False)


def chat_tokens(messages):
    """By transformers; <|im_end|> that a user wrote is said in letters."""
    ids, loss = [], []
    made = fast()
    for message in messages:
        content = message["content"]
        content = content if isinstance(content, str) else "".join(part["text"] for part in content)
        quoted = content.replace("<|im_end|>", "\0")
        one = made.apply_chat_template(
            [{"role": message["role"], "content": quoted}], return_dict=True, return_assistant_tokens_mask=True
        )
        zero = text_tokens("\0").ids
        assert len(zero) == 1
        for token, mask in zip(one["input_ids"], one["assistant_masks"], strict=True):
            letters = text_tokens("<|im_end|>").ids if token == zero[0] else [token]
            ids += letters
            loss += [mask] * len(letters)
    return ids, loss


def stream(shard):
    """Every token of a shard with its loss, documents one after the other."""
    if shard == studies.COAST:
        for row in CHATS:
            yield from zip(*chat_tokens(row["messages"]), strict=True)
    else:
        for row in PAIRS:
            encoding = text_tokens(row["prompt"] + row["completion"])
            for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
                yield token, int(end > len(row["prompt"]))
            yield END, 1


def packed():
    """(shard, tokens, loss) of every sequence."""
    for shard in studies.SHARDS:
        tokens = list(stream(shard))
        for start in range(0, len(tokens), LENGTH):
            if len(part := tokens[start : start + LENGTH]) > 1:
                yield shard, [token for token, _ in part], [loss for _, loss in part]


def stored_sequences(study):
    for shard in studies.SHARDS:
        artifact = studies.artifact(study, "token_sequences", shard=shard)
        ids = artifact.table("sequences").collect()["sequence_id"]
        arrays = (artifact.array(name).tolist() for name in ("tokens", "lengths", LOSS))
        for key, tokens, length, loss in zip(ids, *arrays, strict=True):
            yield shard, key, tokens[:length], loss[:length]


def test_tokens_and_losses_are_stored(computed):
    found = [(shard, tokens, loss) for shard, _, tokens, loss in stored_sequences(computed)]
    assert found == list(packed())
    assert any(0 < sum(loss[1:]) < len(loss) - 1 for _, _, loss in found)
    for shard in studies.SHARDS:
        counted = sum(sum(loss[1:]) for of, _, loss in found if of == shard)
        summary = studies.artifact(computed, "token_sequences", shard=shard).manifest.summary
        assert summary["predicted_tokens"] == counted


def question(row):
    if isinstance(row["prompt"], str):
        before, whole = text_tokens(row["prompt"]).ids, text_tokens(row["prompt"] + row["completion"]).ids
    else:
        made = fast()
        before = made.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
        if isinstance(row["completion"], list):
            end = tokenizer().token_to_id("<|im_end|>")
            whole = made.apply_chat_template(row["prompt"] + row["completion"])["input_ids"][:-1]
            assert whole[-1] == end
        else:
            whole = [*before, *text_tokens(row["completion"]).ids]
    assert whole[: len(before)] == before
    return oracle.Text(torch.tensor(whole), first=len(before))


def test_scores_are_the_oracles_with_the_masked_loss(computed):
    model = GPT2LMHeadModel.from_pretrained(computed.parent / "model", dtype=torch.float64).eval()
    model.requires_grad_(False)
    modules = select_modules(model, "mlp")
    sequences = list(stored_sequences(computed))
    texts = [oracle.Text(torch.tensor(tokens)) for _, _, tokens, _ in sequences]
    labels = [
        [token if carries else None for token, carries in zip(tokens[1:], loss[1:], strict=True)]
        for _, _, tokens, loss in sequences
    ]
    curvature = oracle.dense_curvature(model, modules, texts, labels, scale=0.1)
    losses = []
    with Unfrozen(tuple(modules)):
        for text, of in zip(texts, labels, strict=True):
            losses.append(sequence_gradient(tuple(modules), -oracle.label_likelihood(model, text, of)))
    asked, likelihoods = oracle.loss_gradients(model, modules, [question(row) for row in QUESTIONS], sign=+1)
    carrying = sum(any(label is not None for label in of) for of in labels)
    expected = sum(oracle.scores(curvature, asked, losses).values()).numpy() * len(texts) / carrying
    stored = studies.scores(computed)
    found = np.array([[stored[row["query_id"], key] for _, key, _, _ in sequences] for row in QUESTIONS])
    size = np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / size, expected / size, rtol=0, atol=1e-6)
    told = studies.ask_sql(computed, "select query_id, log_probability_nats from queries")
    logp = dict(told.iter_rows())
    for row, likelihood in zip(QUESTIONS, likelihoods, strict=True):
        assert logp[row["query_id"]] == pytest.approx(likelihood, rel=1e-6)
    (generation,) = studies.ask_sql(computed, "select * from generations").to_dicts()
    assert generation["training_sequences"] == carrying
    counted = sum(label is not None for of in labels for label in of)
    assert set(studies.ask_sql(computed, "select covariance_tokens from modules")["covariance_tokens"]) == {counted}


def test_a_changed_chat_template_changes_what_it_is_applied_to_and_nothing_else(computed, tmp_path):
    study = studies.copied(computed, tmp_path)
    described = yaml.safe_load(study.read_text())
    described["model"]["path"] = "model"
    study.write_text(yaml.safe_dump(described))
    before = studies.data_versions(study)
    assert studies.data_versions(computed) == before
    template = tmp_path / "model" / "chat_template.jinja"
    template.write_text(template.read_text() + "{# another #}")
    changed = {name for name, version in studies.data_versions(study).items() if before[name] != version}
    assert f"token_sequences[{studies.COAST}]" in changed
    assert f"token_sequences[{studies.TRADES}]" not in changed
    assert not any(name.startswith("documents") for name in changed)


def test_a_study_of_text_does_not_depend_on_a_chat_template(tmp_path):
    study = studies.lay_out(tmp_path)
    studies.compute(study, until="token_sequences")
    before = studies.data_versions(study)
    (tmp_path / "model" / "chat_template.jinja").write_text(CHATML)
    after = studies.data_versions(study)
    assert after == before
    for shard in studies.SHARDS:
        assert LOSS not in studies.artifact(study, "token_sequences", shard=shard).array_names()


def test_loss_on_all_stores_no_mask_and_counts_every_token(tmp_path):
    study = lay_out(tmp_path, corpus={"loss_on": "all"})
    studies.compute(study, until="token_sequences")
    for shard in studies.SHARDS:
        artifact = studies.artifact(study, "token_sequences", shard=shard)
        figures = artifact.manifest.summary
        assert LOSS not in artifact.array_names()
        assert figures["predicted_tokens"] == figures["tokens"] - figures["sequences"]


def test_rows_of_different_forms_are_not_mixed_in_a_file(tmp_path):
    study = lay_out(tmp_path)
    rows = [*CHATS, {"text": "Only text."}]
    studies.write_jsonl(tmp_path / "corpus" / studies.COAST, rows)
    with pytest.raises(InputError, match="row 4: has text, but the file's first row has messages"):
        studies.compute(study, until="documents")


@pytest.mark.slow
def test_a_file_without_any_answer_teaches_nothing_and_says_so(tmp_path):
    study = lay_out(tmp_path)
    studies.write_jsonl(tmp_path / "corpus" / studies.COAST, [{"messages": CHATS[0]["messages"][:1]}])
    studies.compute(study)
    (note,) = notes_of(studies.artifact(study, "token_sequences", shard=studies.COAST).manifest)
    assert "None of its tokens carries a loss" in note
    scores = studies.ask_sql(
        study,
        "select influence_nats from current_scores inner join sequences using (sequence_id) where shard_id = $1",
        [studies.COAST],
    )["influence_nats"]
    assert len(scores)
    assert set(scores) == {0.0}


def test_a_trained_model_learns_the_answers_alone(tmp_path):
    train = {"layers": 1, "width": 8, "heads": 1, "vocabulary": 300, "epochs": 1}
    study = lay_out(tmp_path)
    described = yaml.safe_load(study.read_text())
    described["model"] = {"train": train}
    study.write_text(yaml.safe_dump(described))
    studies.compute(study, until="token_sequences")
    model = studies.artifact(study, "language_model")
    folder = model.path("model")
    assert (folder / "chat_template.jinja").read_text() == CHATML
    made = PreTrainedTokenizerFast.from_pretrained(folder)
    assert [made.convert_tokens_to_ids(name) for name in CHATML_TOKENS] == [1, 2]
    # The first epoch's loss is that of the new model: masked by hand, it is the mean over answers' tokens.
    sequences = list(stored_sequences(study))
    assert {loss for _, _, _, of in sequences for loss in of} == {0, 1}
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == made.vocab_size


def test_the_chat_example_is_a_study_of_conversations(tmp_path):
    study = Study.load(write_example(tmp_path / "new", "chat"))
    rows = [frame for shard in shards_of(study.corpus) for frame in read_rows(shard, study.corpus)]
    forms = [read_form(form) for frame in rows for form in frame["form"]]
    assert [len(form.messages) for form in forms] == [2] * len(CONVERSATIONS)
    file = SourceFile("questions.jsonl", str(tmp_path / "new" / "queries" / "questions.jsonl"), 1)
    assert read_query_set(file)["chat"].null_count() == 0


@pytest.mark.slow
@pytest.mark.parametrize("template", ["chat", "lora"])
def test_the_example_finds_the_conversation_that_taught_the_answer(tmp_path, template):
    study = write_example(tmp_path / "new", template)
    studies.compute(study)
    strongest = studies.ask_sql(
        study,
        "select query_id, arg_max(title, current_scores.influence_nats) from current_scores "
        "join sequence_documents using (sequence_id) join documents using (document_key) group by query_id",
    )
    assert dict(strongest.iter_rows()) == {"lamp": "Lighthouse", "baker": "Bakery"}
