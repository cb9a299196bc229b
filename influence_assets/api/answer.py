"""The form of an answer, and what has to be said beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influence_assets.analysis.noise import Noise


@dataclass(frozen=True, eq=False)
class TokenSplit:
    """A passage's score split over its tokens.

    Args:
        starts: int [token], the first character of the passage's text that the token covers.
        ends: int [token], one past the last; equal to the start for a token without text, such as a separator.
        influence_nats: float64 [token]; they sum to the score.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    influence_nats: NDArray[np.float64]


@dataclass(frozen=True)
class OverMembers:
    """A passage's score over the members of the study's ensemble.

    Args:
        members: the number of models, the study's own among them.
        influence_nats: the mean of their scores.
        low_nats: the lower end of its 95 % interval over seeds.
        high_nats: the upper end of that interval.
    """

    members: int
    influence_nats: float
    low_nats: float
    high_nats: float


@dataclass(frozen=True, eq=False)
class Passage:
    """A training sequence in an answer.

    Args:
        influence_nats: its score, a first-order estimate.
        calibrated_nats: the score with its noise shrunk; None if the noise of exact scores is not known.
        shard_id: the shard that it is in.
        sequence_index: its number in the shard, from 0.
        sequence_id: its id in SQL.
        text: the passage.
        before: the beginning of its first word, where that word was cut and the beginning is in the sequence before.
        after: the end of its last word, where that is in the next sequence.
        documents: `document_id`, `title`, `source`, `licence`, `external_id`, `trained_on` and `influence_nats` (its
            part of the score, or None if it is not known) of each document in it; the one with the largest part first.
        trained_on: whether the study's own model was trained on all of them; None if it is not known.
        tokens: the score's split, if it is known.
        over_members: its score over the members of the ensemble, if there is one and all of them have scored it.
    """

    influence_nats: float
    calibrated_nats: float | None
    shard_id: str
    sequence_index: int
    sequence_id: int
    text: str
    before: str
    after: str
    documents: list[dict[str, Any]]
    trained_on: bool | None
    tokens: TokenSplit | None
    over_members: OverMembers | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """The passages behind a completion.

    Args:
        prompt: what the model was given.
        completion: what it said.
        log_probability_nats: the log-probability of the completion given the prompt.
        completion_tokens: the number of tokens in the completion.
        passages: the passages, the strongest first.
        sequences: the number of training sequences that were compared.
        left_out: the number of documents whose passages are left out because the study's own model was not trained on
            them.
        unsketched_shards: shards that were not compared because their sketches are missing or out of date.
        agreement: the mean Pearson correlation of sketches with exact scores, measured when they were computed, if
            known.
        cautions: sentences about the study that a reader of the scores should know.
        noise: the noise, in nats, of the scores of all training sequences, also of those that are left out; of their
            estimates if the answer is estimated; None if the catalogue is of an earlier release.
        is_estimated: whether the scores of other passages than those that are returned are only estimated.
    """

    prompt: str
    completion: str
    log_probability_nats: float
    completion_tokens: int
    passages: list[Passage]
    sequences: int
    left_out: int = 0
    unsketched_shards: list[str] = field(default_factory=list)
    agreement: float | None = None
    cautions: list[str] = field(default_factory=list)
    noise: Noise | None = None
    is_estimated: bool = False

    @property
    def remaining_nats(self) -> float:
        """What the completion's log-probability can still gain: it cannot exceed 0."""
        return -self.log_probability_nats

    def is_beyond(self, passage: Passage) -> bool:
        """Return whether a score is more than can be gained, so that it only ranks passages."""
        return passage.influence_nats > self.remaining_nats

    def is_above_noise(self, passage: Passage) -> bool | None:
        """Return whether a score stands above the noise; None if the noise is not known."""
        if self.noise is None or self.noise.threshold is None:
            return None
        return passage.influence_nats > self.noise.threshold


def document_name(document: Mapping[str, Any]) -> str:
    """Return a document's title, or failing that an id, and its source."""
    name = document["title"] or document["external_id"] or str(document["document_id"])[:12]
    return f"{name} ({document['source']})" if document["source"] else str(name)
