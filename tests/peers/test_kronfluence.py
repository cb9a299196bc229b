"""Agreement with kronfluence 1.0.1 in float64, on the same tokens and weights, with the data's own labels."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers.pytorch_utils import Conv1D

from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import scores
from influence_assets.maths.ekfac import LayerCurvature, damping, eigenbasis
from influence_assets.methods.ekfac import precondition
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.tiers import slow_but

kronfluence = pytest.importorskip("kronfluence", reason="the peer is installed by `make test`")
pytestmark = pytest.mark.peer

IGNORED = -100


def with_linear_layers(model):
    """kronfluence knows no Conv1D: the same maps as nn.Linear."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            linear = nn.Linear(*module.weight.shape).double()
            linear.weight.data, linear.bias.data = module.weight.data.T.contiguous(), module.bias.data.clone()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, linear)
    return model.requires_grad_(True)


class Rows(torch.utils.data.Dataset):
    """Tokens with labels shifted by one: no loss at the last position, at padding, or in a query's prompt."""

    def __init__(self, sequences):
        batch = next(sequences.batches(len(sequences), "cpu"))
        self.tokens, self.labels = batch.tokens, batch.labels()

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        counted = (self.labels[index] != IGNORED).long()
        return {"tokens": self.tokens[index], "labels": self.labels[index], "counted": counted}


class Task(kronfluence.task.Task):
    def __init__(self, names):
        super().__init__()
        self._names = names

    def compute_train_loss(self, batch, model, sample=False):
        assert not sample
        logits = model(input_ids=batch["tokens"]).logits
        return cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum", ignore_index=IGNORED)

    def compute_measurement(self, batch, model):
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self):
        return self._names

    def get_attention_mask(self, batch):
        return batch["counted"]  # kronfluence would count the last, loss-free position otherwise


def kronfluence_scores(model, names, train, queries, folder):
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.utils.dataset import DataLoaderKwargs

    task = Task(names)
    model = kronfluence.prepare_model(with_linear_layers(model), task)
    analyzer = kronfluence.Analyzer(
        "agreement", model, task, cpu=True, disable_tqdm=True, output_dir=str(folder), disable_model_save=True
    )
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(num_workers=0))
    kinds = ("activation_covariance", "gradient_covariance", "eigendecomposition", "per_sample_gradient", "lambda")
    exact = {f"{kind}_dtype": torch.float64 for kind in kinds}
    factors = FactorArguments(strategy="ekfac", use_empirical_fisher=True, **exact)
    analyzer.fit_all_factors("f", Rows(train), per_device_batch_size=3, factor_args=factors, overwrite_output_dir=True)
    arguments = ScoreArguments(
        damping_factor=None,
        per_sample_gradient_dtype=torch.float64,
        precondition_dtype=torch.float64,
        score_dtype=torch.float64,
        query_gradient_svd_dtype=torch.float64,
    )
    analyzer.compute_pairwise_scores(
        "s", "f", Rows(queries), Rows(train), per_device_query_batch_size=2, per_device_train_batch_size=3,
        score_args=arguments, overwrite_output_dir=True,
    )  # fmt: skip
    return analyzer.load_pairwise_scores("s")["all_modules"].numpy()


def our_scores(model, train, queries):
    runner = Runner(model, select_modules(model, "mlp"), 4)
    factors = covariances(runner, train, None)
    bases = {name: eigenbasis(c.A, c.S) for name, c in factors.items()}
    corrected = eigenvalue_corrections(runner, train, bases, None)
    layers = {
        name: LayerCurvature(bases[name], corrected[name].mean(), damping(float(corrected[name].mean().mean()), 0.1))
        for name in bases
    }
    P = precondition(query_gradients(runner, queries, bases).layers, layers)
    return scores(runner, train, {"ekfac": P}, len(train), bases)["ekfac"]


@pytest.mark.parametrize(
    "ragged", slow_but(True, of=[False, True], slow=()), ids=["full sequences", "padded sequences"]
)
def test_scores_agree_with_kronfluence(tmp_path, ragged):
    model = cases.gpt2(width=16)
    train, queries = cases.sequences(60, seed=1, ragged=ragged), cases.queries(5)
    names = [linear.name for linear in select_modules(model, "mlp")]
    theirs = kronfluence_scores(model, names, train, queries, tmp_path)
    ours = our_scores(model, train, queries)
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.9999
    # Not only the order but the scale: theirs is not divided by the N training sequences.
    np.testing.assert_allclose(ours * len(train), theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())
