"""What is measured: the sizes, the stages, and one job, which is one stage of one subject in a process of its own."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

STAGES = (
    "covariances",
    "eigendecomposition",
    "corrected_eigenvalues",
    "scores_32",
    "scores_512",
    "sketches",
    "second_scores_32",
    "total",
)
"""In the order in which they need each other; `sketches` is ours alone."""

QUERIES = 32
"""Of the stages that have queries, but for scores_512."""

EARLIER = "earlier"
"""The subject that is another commit of this project."""


@dataclass(frozen=True)
class Size:
    """A model, its corpus, and how often each stage is measured.

    Args:
        name: as it stands in the rows.
        layers, width, heads, vocabulary: of the GPT-2.
        tokens: of a training sequence.
        query_tokens: of a query; the second half is its completion.
        sequences: that most stages run over.
        many_query_sequences: that `scores_512` runs over: with so many queries their own part dominates.
        second_sequences: that are sketched, and that `second_scores_32` runs over; 0 leaves both stages out.
        batch: sequences in a pass; on a processor ours finds its own.
        matched_batch: what that is, for kronfluence's variant `matched_batch`.
        repetitions: of most stages.
        repetitions_of_long: of eigendecomposition and total; scores_512, sketches and second_scores_32 run once.
        training_steps: before anything is measured, so that the model is not random.
        query_chunk: queries whose gradients ours holds at once.
        peer_query_batch: as many for kronfluence, beside the 32 of its examples.
        many_queries: of `scores_512`; 0 leaves it out.
        queries_of_total: of the whole job.
        variants: whether what the table is to be judged by is measured too, see `Job`.
    """

    name: str
    layers: int
    width: int
    heads: int
    vocabulary: int
    tokens: int
    query_tokens: int
    sequences: int
    many_query_sequences: int
    second_sequences: int
    batch: int = 8
    matched_batch: int = 8
    repetitions: int = 3
    repetitions_of_long: int = 1
    training_steps: int = 12
    query_chunk: int = 128
    peer_query_batch: int = 512
    many_queries: int = 512
    queries_of_total: int = QUERIES
    variants: bool = False

    def sequences_of(self, stage: str) -> int:
        """Training sequences that a stage runs over."""
        special = {
            "scores_512": self.many_query_sequences,
            "sketches": self.second_sequences,
            "second_scores_32": self.second_sequences,
        }
        return special.get(stage, self.sequences)

    def queries_of(self, stage: str) -> int:
        """Queries of a stage; 0 where it has none."""
        special = {"scores_512": self.many_queries, "total": self.queries_of_total}
        return special.get(stage, QUERIES if "scores" in stage else 0)

    @property
    def most_queries(self) -> int:
        """Of any stage."""
        return max(self.queries_of(stage) for stage in STAGES)

    def repetitions_of(self, stage: str) -> int:
        """How often a stage is measured."""
        if stage in {"scores_512", "sketches", "second_scores_32"}:
            return 1
        return self.repetitions_of_long if stage in {"eigendecomposition", "total"} else self.repetitions

    def stages(self) -> tuple[str, ...]:
        """The stages that this size has."""
        return tuple(stage for stage in STAGES if self.sequences_of(stage) and self.has_queries(stage))

    def has_queries(self, stage: str) -> bool:
        """Whether a stage that needs queries has some."""
        return stage != "scores_512" or self.many_queries > 0


SIZES = {
    "tiny": Size(
        "tiny", 2, 16, 2, 64, 16, 8, 12, 4, 24,
        batch=4, repetitions=2, training_steps=4, many_queries=40, variants=True,
    ),
    "small": Size(
        "small", 4, 256, 4, 8192, 128, 64, 96, 16, 1000, matched_batch=16, repetitions_of_long=2, variants=True
    ),
    "medium": Size(
        "medium", 6, 512, 8, 8192, 512, 64, 16, 0, 0,
        matched_batch=2, repetitions=2, training_steps=6, many_queries=0, variants=True,
    ),
    # The published case of kronfluence: 481 queries of whole sequences against WikiText's 4,656.
    "gpt2": Size(
        "gpt2", 12, 768, 12, 50_257, 512, 512, 4656, 0, 0,
        batch=32, repetitions=1, training_steps=50, query_chunk=48, peer_query_batch=96,
        many_queries=0, queries_of_total=481,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One stage of one subject, as a process of its own is told to run it.

    Args:
        folder: of the size: inputs, and what earlier stages stored.
        size: of SIZES, perhaps with other numbers of sequences.
        subject: ours, kronfluence, bergson, training_step or earlier.
        stage: of STAGES, or training_step.
        device, dtype, threads: where and how.
        variant: what is done otherwise than in the row that is compared: labels are `sampled`, kronfluence has ours'
            `kept_memory` settings or its `matched_batch`, or ours has `queries_rotated` rather than sequences.
        query_batch: queries whose gradients are held at once.
        tf32: whether matrix products of float32 on a GPU may round their inputs.
    """

    folder: str
    size: Size
    subject: str
    stage: str
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 2
    variant: str = ""
    query_batch: int = 0
    tf32: bool = False

    @property
    def inputs(self) -> Path:
        """Model and tokens, made once for all subjects."""
        return Path(self.folder) / "inputs"

    @property
    def store(self) -> Path:
        """What this subject's stages leave for its later ones."""
        place = Path(self.folder) / self.subject
        place.mkdir(parents=True, exist_ok=True)
        return place

    @property
    def scores(self) -> Path:
        """Where the stage's scores [query, sequence] are left for comparison."""
        suffix = f".{self.query_batch}" if self.query_batch else ""
        return self.store / f"{self.stage}{suffix}.npy"

    def of_earlier(self) -> Self:
        """As another commit is told to run it: it is `ours` there, in a folder of its own with the same inputs."""
        folder = Path(self.folder) / EARLIER
        folder.mkdir(exist_ok=True)
        inputs = folder / self.inputs.name
        if not inputs.is_symlink():
            inputs.symlink_to(Path("..") / self.inputs.name)
        return replace(self, folder=str(folder), subject="ours")

    def to_json(self) -> str:
        """For the process's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        fields = json.loads(text)
        return cls(**fields | {"size": Size(**fields["size"])})
