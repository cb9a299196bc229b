"""kronfluence 1.0.1, driven so that its scores are ours: see tests/peers/test_kronfluence.py for why each setting."""

import copy
import logging
from pathlib import Path
from typing import Any

import kronfluence
import numpy as np
import torch
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.score import pairwise
from kronfluence.utils.common.factor_arguments import all_low_precision_factor_arguments
from kronfluence.utils.common.score_arguments import all_low_precision_score_arguments
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.pytorch_utils import Conv1D

from benchmarks import inputs
from benchmarks.cases import Job
from benchmarks.measuring import Clock, bytes_of
from influence_assets.capture.batches import IGNORED, Sequences
from influence_assets.models.freed_memory import keep_freed_memory
from influence_assets.models.layers.selection import select_modules
from influence_assets.models.loading import load_model


class Kronfluence:
    """Its stages; every stage writes into one folder, from which the next reads."""

    def __init__(self, job: Job) -> None:
        if job.variant == "kept_memory":
            keep_freed_memory()
        logging.disable(logging.WARNING)
        self.job = job
        self.batch = job.size.matched_batch if job.variant == "matched_batch" else job.size.batch
        loaded = load_model(job.inputs / "model", dtype="float32", device="cpu")
        names = [linear.name for linear in select_modules(loaded, "mlp")]
        self.task = LanguageModelTask(names)
        self.model = kronfluence.prepare_model(with_linear_layers(loaded), self.task)
        del loaded
        low = torch.bfloat16 if job.dtype == "bfloat16" else None
        self.factors, self.scoring = FactorArguments(strategy="ekfac"), ScoreArguments(damping_factor=None)
        if low is not None:
            self.factors = all_low_precision_factor_arguments("ekfac", low)
            self.scoring = all_low_precision_score_arguments(damping_factor=None, dtype=low)
        self.factors.use_empirical_fisher = job.variant != "sampled"

    def analyzer(self, store: Path) -> Any:
        """kronfluence's own entry, with a folder."""
        made = kronfluence.Analyzer(
            "bench", self.model, self.task, cpu=self.job.device == "cpu", disable_tqdm=True,
            output_dir=str(store), disable_model_save=True,
        )  # fmt: skip
        made.set_dataloader_kwargs(DataLoaderKwargs(num_workers=0))
        return made

    def run(self, clock: Clock, store: Path, sequences: Sequences, queries: Sequences | None) -> int:
        """Run the job's stage; returns the bytes that it left."""
        analyzer, stage = self.analyzer(store), self.job.stage
        if stage == "total":
            for name in ("covariances", "eigendecomposition", "corrected_eigenvalues"):
                with clock.part(name):
                    self.fit(analyzer, name, sequences)
        elif queries is None:
            self.fit(analyzer, stage, sequences)
            kinds = {"covariances": "covariance", "eigendecomposition": "eigen", "corrected_eigenvalues": "lambda"}
            return bytes_of(*[p for p in analyzer.factors_output_dir("f").iterdir() if kinds[stage] in p.name])
        assert queries is not None
        with TimedPass(clock):
            self.score(analyzer, stage, sequences, queries)
        found = analyzer.load_pairwise_scores(stage)["all_modules"].float().numpy()
        np.save(store / "scores.npy" if self.job.variant else self.job.scores, found)
        return bytes_of(store) if stage == "total" else bytes_of(analyzer.scores_output_dir(stage))

    def warm(self, store: Path) -> None:
        """One batch, into a folder that nothing is read from."""
        few = inputs.read(self.job.inputs, inputs.TRAIN, self.job.size.batch)
        self.fit(self.analyzer(store / "warm"), "covariances", few)
        torch.linalg.eigh(torch.eye(64, dtype=torch.float64, device=self.job.device))

    def fit(self, analyzer: Any, stage: str, sequences: Sequences) -> None:
        """One of the three stages that fit the factors."""
        common = {"factors_name": "f", "factor_args": self.factors, "overwrite_output_dir": True}
        if stage == "eigendecomposition":
            analyzer.perform_eigendecomposition(**common)
            return
        fit = {"covariances": analyzer.fit_covariance_matrices, "corrected_eigenvalues": analyzer.fit_lambda_matrices}
        fit[stage](dataset=Rows(sequences), per_device_batch_size=self.batch, **common)

    def score(self, analyzer: Any, stage: str, sequences: Sequences, queries: Sequences) -> None:
        """Pairwise scores: its pass over the training sequences is repeated for each batch of queries."""
        analyzer.compute_pairwise_scores(
            stage, "f", Rows(queries), Rows(sequences), score_args=self.scoring, overwrite_output_dir=True,
            per_device_query_batch_size=self.job.query_batch or len(queries),
            per_device_train_batch_size=self.batch,
        )  # fmt: skip


class TimedPass:
    """While entered, kronfluence's pass over the training sequences is a part of the clock's."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.original = pairwise.compute_dot_products_with_loader

    def __enter__(self) -> None:
        def timed(**arguments: Any) -> Any:
            with self.clock.part("pass"):
                return self.original(**arguments)

        pairwise.compute_dot_products_with_loader = timed

    def __exit__(self, *_error: object) -> None:
        pairwise.compute_dot_products_with_loader = self.original


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Tokens with labels shifted by one: no loss at the last position, or in a query's prompt."""

    def __init__(self, sequences: Sequences) -> None:
        batch = next(sequences.batches(len(sequences), "cpu"))
        self.tokens, self.labels = batch.tokens, batch.labels()

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        counted = (self.labels[index] != IGNORED).long()
        return {"tokens": self.tokens[index], "labels": self.labels[index], "counted": counted}


class LanguageModelTask(kronfluence.task.Task):  # type: ignore[misc]
    """The language model's loss, summed over tokens."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self._names = names

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:  # noqa: FBT001, FBT002
        logits = model(input_ids=batch["tokens"]).logits.float().flatten(0, 1)
        labels = batch["labels"].flatten()
        if sample:
            with torch.no_grad():
                drawn = torch.multinomial(logits.detach().softmax(-1), 1).flatten()
                labels = drawn.masked_fill(labels == IGNORED, IGNORED)
        return cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)

    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str]:
        return self._names

    def get_attention_mask(self, batch: Any) -> Tensor:
        counted: Tensor = batch["counted"]  # it would count the last, loss-free position otherwise
        return counted


def with_linear_layers(model: nn.Module) -> nn.Module:
    """kronfluence knows no Conv1D: the same maps as nn.Linear."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            linear = nn.Linear(*module.weight.shape)
            linear.weight.data, linear.bias.data = module.weight.data.T.contiguous(), module.bias.data.clone()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, linear)
    return model.requires_grad_(True)  # noqa: FBT003
