"""Studies of models that were trained on one document at a time, or on packed documents that do not see each other."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from influence_assets.models.layers.selection import select_modules
from tests import studies
from tests.oracles import ekfac as oracle
from tests.oracles.gradients import Unfrozen, sequence_gradient

ROWS = [*studies.COAST_ROWS, *studies.TRADES_ROWS]
RELATIVE = 1e-6


def tokens_of(row):
    return [*studies.tokenizer().encode(row["text"]).ids, 0]


def packed_sequences(rows):
    """[(document's number, token)] of each packed sequence of one shard."""
    stream = [(number, token) for number, row in enumerate(rows) for token in tokens_of(row)]
    return [stream[start : start + studies.LENGTH] for start in range(0, len(stream), studies.LENGTH)]


def masked_gradients(model, modules, sequence):
    """The gradient of each document's own loss in a packed sequence, in one forward pass of the whole.

    Attention is a mask over pairs of positions of one document, positions start anew at each, and the losses of the
    others are left out.
    """
    of = torch.tensor([number for number, _ in sequence])
    tokens = torch.tensor([token for _, token in sequence])
    allowed = (of[:, None] == of[None, :]) & torch.ones(len(of), len(of)).tril().bool()
    mask = torch.zeros(len(of), len(of), dtype=torch.float64).masked_fill(~allowed, -torch.inf)
    positions = torch.cat([torch.arange(int((of == number).sum())) for number in dict.fromkeys(of.tolist())])
    found = {}
    with Unfrozen(modules):
        for number in dict.fromkeys(of.tolist()):
            places = [t for t in range(len(of) - 1) if int(of[t]) == number == int(of[t + 1])]
            if places:
                read = model(input_ids=tokens[None], attention_mask=mask[None, None], position_ids=positions[None])
                log_p = read.logits[0].log_softmax(-1)
                found[number] = sequence_gradient(modules, -sum(log_p[t, tokens[t + 1]] for t in places))
    return found


def run(folder, **sequences):
    study = studies.lay_out(
        folder, curvature={"fisher": "empirical"}, sequences={"length": studies.LENGTH, **sequences}
    )
    studies.compute(study)
    return study


def test_a_documents_score_is_that_of_its_own_loss_where_documents_do_not_see_each_other(tmp_path):
    study = run(tmp_path, documents_see_each_other=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float64).eval().requires_grad_(False)
    modules = select_modules(model, "mlp")
    gradients, titles, runs = [], [], []
    for rows in (studies.COAST_ROWS, studies.TRADES_ROWS):
        for sequence in packed_sequences(rows):
            for number, gradient in masked_gradients(model, modules, sequence).items():
                gradients.append(gradient)
                titles.append(rows[number]["title"])
                runs.append(oracle.Text(torch.tensor([token for of, token in sequence if of == number])))
    assert len(runs) > len(packed_sequences(ROWS)) + 2
    curvature = oracle.dense_curvature(model, modules, runs, [r.tokens[1:].tolist() for r in runs], scale=0.1)
    asked = studies.FIRST_ROWS[0]
    before = studies.tokenizer().encode(asked["prompt"]).ids
    whole = studies.tokenizer().encode(asked["prompt"] + asked["completion"]).ids
    query, _ = oracle.loss_gradients(model, modules, [oracle.Text(torch.tensor(whole), first=len(before))], sign=+1)
    scores = sum(oracle.scores(curvature, query, gradients).values())[0].numpy()
    expected = {title: scores[[t == title for t in titles]].sum() for title in set(titles)}
    found = dict(
        studies.ask_sql(
            study,
            "select title, sum(influence_nats) from current_scores_by_document inner join documents "
            "using (document_key) where query_id = 'lamp' group by title",
        ).iter_rows()
    )
    size = max(map(abs, expected.values()))
    assert found == {title: pytest.approx(score, abs=RELATIVE * size) for title, score in expected.items()}
    by_view = dict(
        studies.ask_sql(
            study, "select title, influence_nats from influence_by_document where query_id = 'lamp'"
        ).iter_rows()
    )
    assert by_view == {title: pytest.approx(score, abs=1e-9 * size) for title, score in found.items()}


@pytest.mark.slow
def test_with_one_document_each_every_document_begins_a_sequence(tmp_path):
    study = run(tmp_path, packing="one_document")
    counts = dict(
        studies.ask_sql(
            study,
            "select title, list(tokens order by sequence_index) from sequences "
            "inner join sequence_documents using (sequence_id) inner join documents using (document_key) "
            "group by title",
        ).iter_rows()
    )
    for row in ROWS:
        total = len(tokens_of(row))
        full, rest = divmod(total, studies.LENGTH)
        assert counts[row["title"]] == [studies.LENGTH] * full + ([rest] if rest > 1 else [])


@pytest.mark.slow
def test_a_change_of_packing_recomputes_what_depends_on_it_and_back_nothing(tmp_path):
    study = run(tmp_path)
    first = studies.scores(study)
    studies.write_study(
        tmp_path, curvature={"fisher": "empirical"}, sequences={"length": 16, "packing": "one_document"}
    )
    studies.compute(study)
    assert studies.scores(study).keys() != first.keys()
    studies.write_study(tmp_path, curvature={"fisher": "empirical"}, sequences={"length": 16, "packing": "packed"})
    computed = studies.compute(study)
    assert studies.scores(study) == first
    assert not [key for key in computed if key.startswith(("token_sequences", "influence_scores"))]


@pytest.mark.slow
def test_a_model_is_trained_on_what_its_documents_see(tmp_path):
    """A study's own model has other weights where documents do not see each other."""
    losses = set()
    for blind in (True, False):
        study = studies.lay_out(
            tmp_path / str(blind),
            model={"path": None, "train": {"layers": 1, "width": 16, "heads": 2, "vocabulary": 300, "epochs": 1}},
            sequences={"length": 32, "documents_see_each_other": blind},
        )
        studies.compute(study)
        losses.add(studies.artifact(study, "language_model").manifest.summary["final_loss_nats"])
    assert len(losses) == 2
