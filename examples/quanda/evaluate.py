"""Judges the study's scores with quanda's metrics: `python evaluate.py INFLUENCE`, in quanda's environment.

INFLUENCE is the command of Influence Assets, which runs the study of the model with random weights.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from explainer import OtherWeights, StudyExplainer, runs_with
from quanda.explainers import Explainer, RandomExplainer
from quanda.metrics.base import Metric
from quanda.metrics.downstream_eval import MRRMetric, RecallAtKMetric, TailPatchMetric
from quanda.metrics.ground_truth import LinearDatamodelingMetric
from quanda.metrics.heuristics import ModelRandomizationMetric, TopKCardinalityMetric
from results import Results
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

METHODS = ("ekfac", "gradient_dot")
TOP = 2
"""How many documents tell a fact."""

AGREEMENT = 1e-5
"""The two linear datamodeling scores may differ by the rounding of float32 and by what quanda adds to a divisor."""


class Sequences(Dataset[dict[str, torch.Tensor]]):
    """The training sequences as quanda's metrics for language models take them.

    Args:
        texts: their texts.
        tokenizer: the model's.
    """

    def __init__(self, texts: list[str], tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokens = [torch.tensor(tokenizer(text)["input_ids"]) for text in texts]

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        """Return the sequence with a number."""
        tokens = self.tokens[row]
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}


def padded(
    questions: list[tuple[str, ...]], tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the questions' tokens, padded on the right, and the completions' alone, with -100 everywhere else."""
    prompts = [tokenizer(prompt)["input_ids"] for _, prompt, _, _ in questions]
    wholes = [tokenizer(prompt + completion)["input_ids"] for _, prompt, completion, _ in questions]
    tokens = torch.zeros(len(questions), max(map(len, wholes)), dtype=torch.long)
    mask, targets = torch.zeros_like(tokens), torch.full_like(tokens, -100)
    for row, (prompt, whole) in enumerate(zip(prompts, wholes, strict=True)):
        tokens[row, : len(whole)], mask[row, : len(whole)] = torch.tensor(whole), 1
        targets[row, len(prompt) : len(whole)] = torch.tensor(whole[len(prompt) :])
    return {"input_ids": tokens, "attention_mask": mask}, targets


class Judge:
    """Computes quanda's metrics of explanations.

    Args:
        results: what the study found.
        model: the study's model.
        run: runs the study in a folder.
    """

    def __init__(self, results: Results, model: torch.nn.Module, run: Callable[[Path], None]) -> None:
        self.results, self.model, self.run = results, model, run
        self.tokenizer = AutoTokenizer.from_pretrained(results.model())
        self.sequences = Sequences([text for _, text, _ in results.sequences], self.tokenizer)
        self.numbers = torch.arange(len(results.questions))

    def explainer(self, method: str) -> Explainer:
        """Return the explainer of a method, or quanda's random one."""
        if method == "random":
            return RandomExplainer(self.model, self.sequences)
        return StudyExplainer(self.model, self.sequences, self.results, method)

    def metrics(self, method: str) -> dict[str, Metric]:
        """Return quanda's metrics by their names, each with the explanations of a method."""
        scores = self.explainer(method).explain(self.numbers)
        return {
            "LDS": self.fidelity(scores),
            "MRR": self.retrieval(MRRMetric(self.model, self.sequences), scores),
            "MRR, reworded": self.reworded(MRRMetric(self.model, self.sequences), scores),
            "recall@5, reworded": self.reworded(RecallAtKMetric(self.model, self.sequences, k=5), scores),
            "tail patch": self.tail_patch(scores),
            "randomisation": self.randomisation(method, scores),
            "top-2 cardinality": self.cardinality(scores),
        }

    def fidelity(self, scores: torch.Tensor) -> Metric:
        """Return the linear datamodeling score by the study's retrained models.

        quanda takes classifiers' logits or one number for each question and model: here it is log p of the completion.
        """
        subsets, outcomes = self.results.subsets(), self.results.outcomes()
        metric = LinearDatamodelingMetric(
            self.model, self.sequences, m=len(subsets), subset_ids=subsets,
            subset_ckpt_filenames=[""] * len(subsets),  # their outcomes are known, so their weights are not read
        )  # fmt: skip
        known = {subset: outcomes[:, subset] for subset in range(len(subsets))}
        metric.update(scores.double(), self.numbers, self.numbers, subset_logits=known)
        return metric

    def retrieval(self, metric: Metric, scores: torch.Tensor) -> Metric:
        """Return how high the documents that tell the fact stand."""
        metric.update(scores, self.results.tells())
        return metric

    def reworded(self, metric: Metric, scores: torch.Tensor) -> Metric:
        """Return how high the document stands that tells the fact in other words, among all that do not repeat it."""
        repeats = self.results.repeats()
        metric.update(scores.masked_fill(repeats, -torch.inf), self.results.tells() & ~repeats)
        return metric

    def tail_patch(self, scores: torch.Tensor) -> Metric:
        """Return how much more probable a completion is after one step on a sequence that scores highest."""
        inputs, targets = padded(self.results.questions, self.tokenizer)
        metric = TailPatchMetric(self.model, self.sequences, k=TOP, tokenizer_name=str(self.results.model()))
        metric.update(scores, inputs, targets)
        return metric

    def randomisation(self, method: str, scores: torch.Tensor) -> Metric:
        """Return the rank correlation with the scores of a model whose weights are random."""
        given = {} if method == "random" else {"results": self.results, "method": method, "run": self.run}
        metric = ModelRandomizationMetric(
            self.model, model_id="study", cache_dir=str(self.results.folder / "cache"), train_dataset=self.sequences,
            checkpoints=[str(self.results.model())],
            checkpoints_load_func=lambda _model, _checkpoint: None,  # the model has its weights already
            explainer_cls=RandomExplainer if method == "random" else OtherWeights, expl_kwargs=given,
        )  # fmt: skip
        metric.update(scores, self.numbers)
        return metric

    def cardinality(self, scores: torch.Tensor) -> Metric:
        """Return the share of different sequences among those that score highest for any question."""
        metric = TopKCardinalityMetric(self.model, self.sequences, top_k=TOP)
        metric.update(scores)
        return metric


def shown(metric: Metric) -> str:
    """Return a metric's figure, with its 95 % bootstrap interval over questions where quanda knows one."""
    try:
        found = metric.compute_bootstrapped(seed=0)
    except NotImplementedError:
        return f"{metric.compute()['score']:.3f}"
    return "{score:.3f} [{ci_low:.2f}, {ci_high:.2f}]".format(**found)


def main(influence: str) -> None:
    """Print the figures of each method, and compare quanda's linear datamodeling score with the study's own."""
    results = Results(Path(__file__).parent)
    model = AutoModelForCausalLM.from_pretrained(results.model()).eval()
    judge = Judge(results, model, runs_with(influence))
    columns = {method: judge.metrics(method) for method in (*METHODS, "random")}
    print(f"\n{'':20}" + "".join(f"{name:24}" for name in columns).rstrip())
    for name in columns["random"]:
        print(f"{name:20}" + "".join(f"{shown(metrics[name]):24}" for metrics in columns.values()).rstrip())
    for method in METHODS:
        quandas, own = columns[method]["LDS"].compute()["score"], results.board(method)
        print(f"LDS of {method}: {quandas:.8f} by quanda, {own:.8f} by `influence evaluate`")
        if abs(quandas - own) > AGREEMENT:
            sys.exit("They should agree: both are of the same scores and the same retrained models.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
