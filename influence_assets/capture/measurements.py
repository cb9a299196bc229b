"""What is measured of training sequences: factor statistics, sketches and scores, each in one pass a batch."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.hooks import Consumer, LayerTap
from influence_assets.capture.modules import LinearModule
from influence_assets.capture.passes import LabelSampler, run_pass
from influence_assets.maths.ekfac import (
    Eigenbasis,
    LayerCurvature,
    corrected_eigenvalues,
    second_moment,
    sequence_gradients,
)
from influence_assets.maths.influence import layer_scores, token_scores
from influence_assets.maths.moments import Accumulator, SecondMoment
from influence_assets.maths.sketches import Coordinates, layer_sketch

Progress = Callable[[int], None]
"""Called with the number of sequences that a batch has finished."""


@dataclass(frozen=True)
class Runner:
    """A loaded model with the layers that are attributed, and how its passes are run.

    Args:
        model: frozen, in evaluation mode.
        modules: the attributed layers.
        batch_sequences: sequences in one pass.
        progress: told after every batch.
    """

    model: PreTrainedModel
    modules: Sequence[LinearModule]
    batch_sequences: int = 16
    progress: Progress = lambda _count: None

    @property
    def device(self) -> str:
        """Where the model is."""
        return str(self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the model's weights and passes."""
        return self.model.dtype

    def run(
        self,
        sequences: Sequences,
        consumer: Callable[[Batch], Consumer],
        *,
        sampler: LabelSampler | None = None,
        sign: float = -1.0,
    ) -> np.ndarray:
        """One pass over all the sequences; `consumer(batch)` says what is done with each layer of a batch.

        Returns:
            float64 [sequence]: the log-likelihoods under the labels used.

        Raises:
            FloatingPointError: a log-likelihood is not finite.
        """
        found = []
        for batch in sequences.batches(self.batch_sequences, self.device):
            with LayerTap(self.model, self.modules, consumer(batch)) as tap:
                likelihoods = run_pass(self.model, tap, batch, sampler=sampler, sign=sign).double().cpu().numpy()
            if not np.isfinite(likelihoods).all():
                raise FloatingPointError("the model's log-likelihood of a sequence is not finite")
            found.append(likelihoods)
            self.progress(len(batch))
        return np.concatenate(found) if found else np.zeros(0)


@dataclass(frozen=True)
class Covariances:
    """A and S of one layer, as totals over tokens."""

    A: SecondMoment
    S: SecondMoment

    def __add__(self, other: "Covariances") -> "Covariances":
        """The statistics of both together."""
        return Covariances(self.A + other.A, self.S + other.S)


def covariances(runner: Runner, sequences: Sequences, sampler: LabelSampler | None) -> dict[str, Covariances]:
    """Totals of a aᵀ and Ds Dsᵀ over the tokens of the sequences that carry a loss; `sampler` None: empirical."""
    A: dict[str, Accumulator] = defaultdict(Accumulator)
    S: dict[str, Accumulator] = defaultdict(Accumulator)

    def consumer(batch: Batch) -> Consumer:
        counted = batch.counted()

        def consume(linear: LinearModule, a: Tensor, Ds: Tensor) -> None:
            A[linear.name].add(second_moment(a, counted))
            S[linear.name].add(second_moment(Ds, counted))

        return consume

    runner.run(sequences, consumer, sampler=sampler)
    return {linear.name: Covariances(A[linear.name].moment(), S[linear.name].moment()) for linear in runner.modules}


def eigenvalue_corrections(
    runner: Runner, sequences: Sequences, bases: Mapping[str, Eigenbasis], sampler: LabelSampler | None
) -> dict[str, SecondMoment]:
    """Totals of Λ over the sequences, in the frozen bases; labels as in `covariances`."""
    Λ: dict[str, Accumulator] = defaultdict(Accumulator)

    def consumer(_batch: Batch) -> Consumer:
        def consume(linear: LinearModule, a: Tensor, Ds: Tensor) -> None:
            rotated = bases[linear.name].rotated_sequence_gradients(Ds, a)
            Λ[linear.name].add(corrected_eigenvalues(rotated))

        return consume

    runner.run(sequences, consumer, sampler=sampler)
    return {linear.name: Λ[linear.name].moment() for linear in runner.modules}


@dataclass(frozen=True)
class QueryGradients:
    """∇f of every query, layer by layer, and f itself.

    Args:
        layers: [query, d_out, d_in] for each layer.
        log_probabilities: float64 [query]: f = log p(completion given prompt), in nats.
    """

    layers: dict[str, Tensor]
    log_probabilities: np.ndarray


def query_gradients(runner: Runner, queries: Sequences) -> QueryGradients:
    """Gradients of each query's log-probability of its completion; the prompt conditions and is not scored."""
    layers: dict[str, list[Tensor]] = defaultdict(list)

    def consumer(_batch: Batch) -> Consumer:
        def consume(linear: LinearModule, a: Tensor, Ds: Tensor) -> None:
            layers[linear.name].append(sequence_gradients(Ds, a))

        return consume

    likelihoods = runner.run(queries, consumer, sign=+1.0)
    return QueryGradients({name: torch.cat(parts) for name, parts in layers.items()}, likelihoods)


def scores(
    runner: Runner, sequences: Sequences, methods: Mapping[str, Mapping[str, Tensor]], N: int
) -> dict[str, np.ndarray]:
    """Scores of every sequence for every query, by several methods in one pass.

    Args:
        runner: the model.
        sequences: the training sequences.
        methods: for each method, each layer's preconditioned query gradients P [query, d_out, d_in].
        N: training sequences of the generation.

    Returns:
        For each method float64 [query, sequence]; for a curvature method in nats per added copy.
    """
    joined = {linear.name: torch.cat([P[linear.name] for P in methods.values()]) for linear in runner.modules}
    parts: list[Tensor] = []

    def consumer(batch: Batch) -> Consumer:
        total = torch.zeros(_count(joined), len(batch), dtype=torch.float64, device=runner.device)
        parts.append(total)

        def consume(linear: LinearModule, a: Tensor, Ds: Tensor) -> None:
            total.add_(layer_scores(joined[linear.name], sequence_gradients(Ds, a), N))

        return consume

    runner.run(sequences, consumer)
    together = torch.cat(parts, dim=1).cpu().numpy()
    sizes = [_count(P) for P in methods.values()]
    split = np.split(together, np.cumsum(sizes)[:-1])
    return dict(zip(methods, split, strict=True))


def _count(P: Mapping[str, Tensor]) -> int:
    return len(next(iter(P.values())))


@dataclass(frozen=True)
class Details:
    """How scores split: over layers and over input tokens.

    Args:
        by_layer: float64 [query, sequence, layer], layers in the order of the runner's modules.
        by_token: float64 [query, sequence, token], summed over layers; 0 at padding.
    """

    by_layer: np.ndarray
    by_token: np.ndarray


def score_details(runner: Runner, sequences: Sequences, P: Mapping[str, Tensor], N: int) -> Details:
    """The split of each score over layers and tokens; both sums are the score."""
    order = {linear.name: index for index, linear in enumerate(runner.modules)}
    queries = _count(P)
    by_layer = np.zeros((queries, len(sequences), len(order)))
    by_token = np.zeros((queries, *sequences.tokens.shape))
    start = 0

    def consumer(batch: Batch) -> Consumer:
        nonlocal start
        rows = slice(start, start + len(batch))
        start += len(batch)

        def consume(linear: LinearModule, a: Tensor, Ds: Tensor) -> None:
            parts = token_scores(P[linear.name], Ds, a, N).double().cpu().numpy()
            by_layer[:, rows, order[linear.name]] = parts.sum(-1)
            by_token[:, rows, : parts.shape[-1]] += parts

        return consume

    runner.run(sequences, consumer)
    return Details(by_layer, by_token)


@dataclass(frozen=True)
class WhitenedBatch:
    """Whitened gradients of a few training sequences.

    Args:
        rows: float32 [sequence, width], at the kept coordinates.
        squared_norms: float64 [sequence], ‖w‖² over all coordinates.
        exact: float64 [probe, sequence]: −⟨P, G⟩, not divided by N.
    """

    rows: np.ndarray
    squared_norms: np.ndarray
    exact: np.ndarray


def sketches(
    runner: Runner,
    sequences: Sequences,
    curvature: Mapping[str, LayerCurvature],
    coordinates: Coordinates,
    probes: Mapping[str, Tensor],
) -> Iterator[WhitenedBatch]:
    """Whitened training gradients at the kept coordinates, and the exact scores that they are to estimate.

    Args:
        runner: the model.
        sequences: the training sequences.
        curvature: of every layer.
        coordinates: which to keep.
        probes: each layer's preconditioned gradients P [probe, d_out, d_in] of a few questions.

    Yields:
        Batch after batch of the sequences, in order.
    """
    order = {linear.name: index for index, linear in enumerate(runner.modules)}
    rotated_probes = {name: layer.basis.rotate(probes[name]) for name, layer in curvature.items()}
    parts: dict[int, Tensor] = {}
    squared_norms: list[Tensor] = []
    exact: list[Tensor] = []

    def consumer(_batch: Batch) -> Consumer:
        def consume(linear: LinearModule, a: Tensor, Ds: Tensor) -> None:
            layer = curvature[linear.name]
            rotated = layer.basis.rotated_sequence_gradients(Ds, a)
            squared_norms.append(layer.whiten(rotated).square().flatten(1).sum(1).double())
            parts[order[linear.name]] = layer_sketch(layer, rotated, coordinates.kept[linear.name])
            exact.append(layer_scores(rotated_probes[linear.name], rotated, 1).double())

        return consume

    for rows in sequences.rows(runner.batch_sequences):
        runner.run(rows, consumer)
        whole = torch.cat([parts[index] for index in sorted(parts)], dim=1)
        norms, scored = (torch.stack(layers).sum(0).cpu().numpy() for layers in (squared_norms, exact))
        yield WhitenedBatch(whole.float().cpu().numpy(), norms, scored)
        parts.clear()
        squared_norms.clear()
        exact.clear()


def query_sketches(
    V: Mapping[str, Tensor], curvature: Mapping[str, LayerCurvature], coordinates: Coordinates, N: int
) -> np.ndarray:
    """What training sketches are multiplied with to estimate scores in nats: float32 [query, width], −1/N included."""
    parts = [
        layer_sketch(layer, layer.basis.rotate(V[name]), coordinates.kept[name]) for name, layer in curvature.items()
    ]
    return (-torch.cat(parts, dim=1) / N).float().cpu().numpy()
