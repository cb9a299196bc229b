"""Reads what a study of Influence Assets found: its DuckDB file, and for the subsets its Parquet files.

Nothing here imports Influence Assets, so it runs in quanda's environment.
"""

from pathlib import Path

import duckdb
import torch

SCORES = {
    "ekfac": "select influence_nats as score from current_scores order by query_id, sequence_id",
    "gradient_dot": """
        select score from method_scores where method = 'gradient_dot' order by query_id, sequence_id
    """,
}

QUESTIONS = "select query_id, prompt, completion, metadata->>'fact' as fact from queries order by query_id"
SEQUENCES = """
    select sequence_id, text, metadata->>'fact' as fact
    from sequences
    inner join sequence_documents using (sequence_id)
    inner join documents using (document_id, shard_id)
    order by sequence_id
"""
OUTCOMES = """
    select query_id, subset, avg(log_probability_nats) as mean
    from outcomes
    group by query_id, subset
    order by query_id, subset
"""


class Results:
    """A study's questions, training sequences, scores, and the outcomes of its retrained models.

    Args:
        folder: the study's folder, with `store/`.

    Attributes:
        questions: `query_id`, `prompt`, `completion` and `fact` of each question.
        sequences: `sequence_id`, `text` and `fact` of each training sequence.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables = duckdb.connect(str(folder / "store" / "influence.duckdb"), read_only=True)
        self.questions = self.tables.sql(QUESTIONS).fetchall()
        self.sequences = self.tables.sql(SEQUENCES).fetchall()

    def scores(self, method: str) -> torch.Tensor:
        """Return a method's scores, float64 [question, sequence]; positive helps, as in quanda."""
        values = self.tables.sql(SCORES[method]).fetchnumpy()["score"]
        return torch.from_numpy(values).reshape(len(self.questions), len(self.sequences))

    def tells(self) -> torch.Tensor:
        """Return which sequences tell the fact that a question asks for, bool [question, sequence]."""
        asked, told = [row[-1] for row in self.questions], [row[-1] for row in self.sequences]
        return torch.tensor([[fact == other for other in told] for fact in asked])

    def repeats(self) -> torch.Tensor:
        """Return which sequences have a question and its completion word for word, bool [question, sequence]."""
        asked = [prompt + completion for _, prompt, completion, _ in self.questions]
        return torch.tensor([[words in text for _, text, _ in self.sequences] for words in asked])

    def model(self) -> Path:
        """Return the folder of the study's model, in the layout of transformers."""
        return self._artifacts("language_model")[0] / "model"

    def outcomes(self) -> torch.Tensor:
        """Return log p of each completion under the models of a subset, the mean over seeds, [question, subset]."""
        means = torch.from_numpy(self.tables.sql(OUTCOMES).fetchnumpy()["mean"])
        return means.reshape(len(self.questions), -1)

    def subsets(self) -> list[list[int]]:
        """Return the numbers of the sequences that each subset consists of."""
        left_out: dict[int, set[int]] = {}  # models of all seeds of a subset lack the same
        for model in self._artifacts("retrained_models"):
            (subset,) = self.tables.read_parquet(str(model / "outcomes.parquet")).limit(1).project("subset").fetchall()
            missing = self.tables.read_parquet(str(model / "left_out.parquet")).fetchall()
            left_out[subset[0]] = {int(unit) for (unit,) in missing}
        ids = [row[0] for row in self.sequences]
        return [[at for at, key in enumerate(ids) if key not in left_out[subset]] for subset in sorted(left_out)]

    def board(self, method: str) -> float:
        """Return the linear datamodeling score that the study itself found."""
        figure = "select value from evaluations where method = $1 and figure = 'lds' and query_set_id is null"
        return float(self.tables.execute(figure, [method]).fetchall()[0][0])

    def _artifacts(self, asset: str) -> list[Path]:
        """Return the folders of an asset's artifacts that the tables were loaded from."""
        found = "select asset, coalesce(partition, 'all'), data_version from materializations where asset = $1"
        rows = self.tables.execute(found, [asset]).fetchall()
        return [self.folder / "store" / Path(*row) for row in rows]
