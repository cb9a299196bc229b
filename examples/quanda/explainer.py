"""quanda's `Explainer` with the scores of a study of Influence Assets."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import vision  # noqa: F401  # before quanda, which imports torchvision
from quanda.explainers import Explainer
from results import Results
from torch.utils.data import Dataset

STUDY = """\
# The study beside this one, with other weights.
name: {name}
corpus:
  path: {corpus}
model:
  path: model
queries:
  path: {queries}
sequences:
  length: 64
  packing: one_document
methods: [ekfac, gradient_dot]
scores:
  details_per_query: 0
"""


class StudyExplainer(Explainer):
    """Explains the questions of a study by its scores.

    A study has the scores of its own questions, so what is explained is a question's number, and no text. Another
    question needs another row in the study's query file, and `influence run`.

    Args:
        model: the study's model.
        train_dataset: the training sequences, in the order of `Results.sequences`.
        results: what the study found.
        method: `ekfac` or `gradient_dot`.
        kwargs: what quanda gives to every explainer.
    """

    accepted_tasks = ("causal_lm",)

    def __init__(
        self, model: torch.nn.Module, train_dataset: Dataset[Any], results: Results, method: str, **kwargs: Any
    ) -> None:
        super().__init__(model, train_dataset, task="causal_lm", **kwargs)
        self.scores = results.scores(method)

    def explain(self, test_data: torch.Tensor, targets: Any = None) -> torch.Tensor:  # noqa: ARG002  # quanda's own form
        """Return the scores of some questions, [question, sequence].

        Args:
            test_data: the numbers of the questions in `Results.questions`, int64 [question].
            targets: not used; a completion is part of its question.
        """
        return self.scores[test_data]


class OtherWeights(StudyExplainer):
    """Explains a model with other weights than the study's: runs a study of it on the same corpus and questions.

    This is what quanda's model randomisation asks for. The same weights are found again, and nothing is computed twice.

    Args:
        model: the model with the other weights, which are saved.
        train_dataset: the training sequences.
        results: what the study found.
        method: `ekfac` or `gradient_dot`.
        run: runs the study in a folder.
        kwargs: what quanda gives to every explainer.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        train_dataset: Dataset[Any],
        results: Results,
        method: str,
        run: Callable[[Path], None],
        **kwargs: Any,
    ) -> None:
        folder = results.folder / "randomised"
        folder.mkdir(exist_ok=True)
        model.save_pretrained(folder / "model")
        for file in results.model().glob("*token*"):
            shutil.copy(file, folder / "model")
        places = {name: results.folder / name for name in ("corpus", "queries")}
        (folder / "study.yaml").write_text(STUDY.format(name="randomised", **places), encoding="utf-8")
        run(folder)
        super().__init__(model, train_dataset, Results(folder), method, **kwargs)


def runs_with(influence: str) -> Callable[[Path], None]:
    """Return a function that runs the study in a folder.

    Args:
        influence: the command of Influence Assets, which has an environment of its own.
    """

    def run(folder: Path) -> None:
        subprocess.run([influence, "run", "--study", str(folder / "study.yaml")], check=True)  # noqa: S603

    return run
