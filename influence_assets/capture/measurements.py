"""What is measured of training sequences: factor statistics, sketches and scores, each in one pass a batch."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.hooks import Consumer
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.modules import LinearModule
from influence_assets.capture.runner import Runner, refuse_not_finite
from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature, sequence_gradients
from influence_assets.maths.influence import layer_scores, token_scores
from influence_assets.maths.moments import FactorMoment, GramAccumulator, SecondMoment, SquareAccumulator
from influence_assets.maths.sketches import Coordinates, layer_sketch, whitened_squared_norms


class Sides(NamedTuple):
    """Which sides of a gradient are in the eigenbasis: that of the outputs, that of the inputs."""

    S: bool
    A: bool


class Places:
    """Memory for the gradients of a layer, used again for the next one: what was just written is in the cache."""

    def __init__(self) -> None:
        self._places: dict[tuple[Sides, int, int], Tensor] = {}

    def of(self, sides: Sides, a: Tensor, Ds: Tensor) -> Tensor | None:
        """Room for G [sequence, d_out, d_in] with these sides in the eigenbasis; what was there is overwritten.

        None on a device, whose allocator keeps memory by itself.
        """
        if a.device.type != "cpu":
            return None
        kind = sides, Ds.shape[2], a.shape[2]
        if kind not in self._places or len(self._places[kind]) < len(a):
            self._places[kind] = a.new_empty(len(a), *kind[1:])
        return self._places[kind][: len(a)]


class LayerGradient:
    """One layer of a batch in a backward pass. What several measurements need of it is computed once.

    Args:
        name: of the layer.
        a: its input [sequence, token, d_in].
        Ds: the gradient at its output [sequence, token, d_out].
        basis: of the layer, where rotated gradients will be asked for.
        places: where gradients are put; they are overwritten by those of the next layer.
    """

    def __init__(
        self, name: str, a: Tensor, Ds: Tensor, basis: Eigenbasis | None = None, places: Places | None = None
    ) -> None:
        self.name = name
        self.a = a
        self.Ds = Ds
        self._basis = basis
        self._places = places or Places()
        self._found: dict[Sides, Tensor] = {}

    @property
    def rotated(self) -> Tensor:
        """Q_Sᵀ G Q_A, [sequence, d_out, d_in]."""
        return self.with_sides(Sides(S=True, A=True))

    def with_sides(self, sides: Sides) -> Tensor:
        """G with these of its sides in the eigenbasis, [sequence, d_out, d_in]."""
        if sides not in self._found:
            out = self._places.of(sides, self.a, self.Ds)
            if not any(sides):
                self._found[sides] = sequence_gradients(self.Ds, self.a, out=out)
            else:
                assert self._basis is not None  # noqa: S101  # whoever asks has given it
                self._found[sides] = self._basis.rotated_sequence_gradients(self.Ds, self.a, **sides._asdict(), out=out)
        return self._found[sides]


@dataclass(frozen=True)
class Covariances:
    """A and S of one layer, as totals over tokens."""

    A: FactorMoment
    S: FactorMoment


class CovarianceTotals:
    """Sums a aᵀ and Ds Dsᵀ of every layer over the tokens that carry a loss.

    The totals of all layers are in memory at once, each on its layer's device: a pass goes through all of them.

    Args:
        blocks: on the diagonal of each factor; nothing else of it is made.
    """

    def __init__(self, blocks: int = 1) -> None:
        self._A: dict[str, GramAccumulator] = defaultdict(lambda: GramAccumulator(blocks))
        self._S: dict[str, GramAccumulator] = defaultdict(lambda: GramAccumulator(blocks))

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add a layer of a batch."""
        # Positions without a loss are left out: in A they would weigh with whatever the model makes of padding.
        positions = batch.positions.to(layer.a.device)
        self._A[layer.name].add(layer.a.flatten(0, 1)[positions])
        self._S[layer.name].add(layer.Ds.flatten(0, 1)[positions])

    def totals(self, runner: Runner) -> dict[str, Covariances]:
        """Of each layer, in the model's order."""
        return {m.name: Covariances(self._A[m.name].moment(), self._S[m.name].moment()) for m in runner.modules}


def covariances(
    runner: Runner, sequences: Sequences, sampler: LabelSampler | None, *, blocks: int = 1
) -> dict[str, Covariances]:
    """Totals of a aᵀ and Ds Dsᵀ over the tokens of the sequences that carry a loss.

    Args:
        runner: the model.
        sequences: what is measured.
        sampler: draws the labels; None: the data's own, the empirical Fisher.
        blocks: on the diagonal of each factor.
    """
    found = CovarianceTotals(blocks)

    def consumer(batch: Batch) -> Consumer:
        return lambda linear, a, Ds: found.add(batch, LayerGradient(linear.name, a, Ds))

    runner.run(sequences, consumer, sampler=sampler)
    return found.totals(runner)


class CorrectionTotals:
    """Sums the squared rotated gradients of every layer over sequences."""

    def __init__(self) -> None:
        self._Λ: dict[str, SquareAccumulator] = defaultdict(SquareAccumulator)

    def add(self, layer: LayerGradient) -> None:
        """Add a layer of a batch."""
        self._Λ[layer.name].add(layer.rotated)

    def totals(self, runner: Runner) -> dict[str, SecondMoment[Tensor]]:
        """Of each layer, in the model's order."""
        return {linear.name: self._Λ[linear.name].moment() for linear in runner.modules}


def eigenvalue_corrections(
    runner: Runner, sequences: Sequences, bases: Mapping[str, Eigenbasis], sampler: LabelSampler | None
) -> dict[str, SecondMoment[Tensor]]:
    """Totals of Λ over the sequences, in the frozen bases; labels as in `covariances`."""
    found, places = CorrectionTotals(), Places()
    bases = runner.placed(bases)

    def consumer(_batch: Batch) -> Consumer:
        return lambda linear, a, Ds: found.add(LayerGradient(linear.name, a, Ds, bases[linear.name], places))

    runner.run(sequences, consumer, sampler=sampler)
    return found.totals(runner)


@dataclass(frozen=True)
class QueryGradients:
    """∇f of every query, layer by layer, and f itself.

    Args:
        layers: [query, d_out, d_in] for each layer; Q_Sᵀ ∇f Q_A where bases were given.
        log_probabilities: float64 [query]: f = log p(completion given prompt), in nats.
    """

    layers: dict[str, Tensor]
    log_probabilities: np.ndarray


def query_gradients(
    runner: Runner, queries: Sequences, bases: Mapping[str, Eigenbasis] | None = None
) -> QueryGradients:
    """Gradients of each query's log-probability of its completion; the prompt conditions and is not scored.

    Args:
        runner: the model.
        queries: with the completions' starts.
        bases: of every layer, for gradients in the eigenbases: rotating a query's tokens takes fewer operations than
            rotating its gradient.
    """
    layers: dict[str, Tensor] = {}
    if bases is not None:
        bases = runner.placed(bases)

    def consumer(batch: Batch) -> Consumer:
        rows = torch.from_numpy(batch.rows).to(runner.device, non_blocking=True)
        first, last = int(batch.rows[0]), int(batch.rows[-1])
        follow_each_other = bool((np.diff(batch.rows) == 1).all())

        def consume(linear: LinearModule, a: Tensor, Ds: Tensor) -> None:
            if linear.name not in layers:
                shape = len(queries), linear.output_width, linear.input_width
                layers[linear.name] = a.new_empty(shape, device=runner.device)
            whole = layers[linear.name]
            out = whole[first : last + 1] if follow_each_other and whole.device == a.device else None
            if bases is None:
                gradients = sequence_gradients(Ds, a, out=out)
            else:
                gradients = bases[linear.name].rotated_sequence_gradients(Ds, a, out=out)
            if out is None:
                whole.index_copy_(0, rows, gradients.to(runner.device))

        return consume

    likelihoods = runner.run(queries, consumer, sign=+1.0)
    return QueryGradients(layers, likelihoods)


class ScoreTotals:
    """Sums −⟨P, G⟩ / N over layers, for every query of several methods and every sequence.

    Args:
        methods: for each method, each layer's preconditioned query gradients P [query, d_out, d_in]. They are given
            up: what is rotated back is so in place, since two of each would not fit. No two share a tensor.
        sequences: how many will be scored.
        N: training sequences of the generation.
        device: where the passes run.
    """

    def __init__(self, methods: Mapping[str, dict[str, Tensor]], sequences: int, N: int, device: str) -> None:
        self._methods = methods
        self._N = N
        self._totals = {
            name: torch.zeros(_count(P), sequences, dtype=torch.float64, device=device) for name, P in methods.items()
        }
        self._sides: dict[str, Sides] = {}

    def place(self, runner: Runner) -> None:
        """Move P of each layer to that layer's device."""
        for P in self._methods.values():
            P.update(runner.placed(P))

    def in_eigenbases(
        self, bases: Mapping[str, Eigenbasis], tokens: int, *, rotated_anyway: bool
    ) -> Mapping[str, Sides]:
        """Say that P is given in the eigenbases; each side is scored there or rotated back, whichever costs less.

        Inner products are the same in both. In the eigenbasis each sequence's tokens have to be rotated, in the model's
        coordinates each query's gradient.

        Args:
            bases: of every layer.
            tokens: in a sequence.
            rotated_anyway: whether something else needs the rotated gradients too.

        Returns:
            Of each layer the sides that are scored in the eigenbasis.
        """
        queries, sequences = sum(map(_count, self._methods.values())), next(iter(self._totals.values())).shape[1]
        for layer, basis in bases.items():
            d_out, d_in = len(basis.Q_S), len(basis.Q_A)
            # Of one side both cost d² times what follows.
            S = sequences * min(tokens, d_in) < queries * d_in
            A = sequences * min(tokens, d_out) < queries * d_out
            sides = Sides(S=True, A=True) if rotated_anyway else Sides(S, A)
            self._sides[layer] = sides
            if not all(sides):
                for P in self._methods.values():
                    basis.rotate_back(P[layer], S=not S, A=not A)
        return self._sides

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add a layer of a batch."""
        G = layer.with_sides(self._sides.get(layer.name, Sides(S=False, A=False)))
        rows = torch.from_numpy(batch.rows).to(batch.tokens.device, non_blocking=True)
        for name, P in self._methods.items():
            scored = layer_scores(P[layer.name], G, self._N).double()
            self._totals[name].index_add_(1, rows, scored.to(rows.device))

    def contractions(self) -> dict[str, str]:
        """What is rotated in each layer, as people read it."""
        said = {
            Sides(S=False, A=False): "queries",
            Sides(S=True, A=True): "sequences",
            Sides(S=True, A=False): "output gradients of sequences, inputs of queries",
            Sides(S=False, A=True): "inputs of sequences, output gradients of queries",
        }
        return {layer: said[sides] for layer, sides in self._sides.items()}

    def totals(self) -> dict[str, np.ndarray]:
        """For each method float64 [query, sequence]."""
        return {name: total.cpu().numpy() for name, total in self._totals.items()}


def scores(
    runner: Runner,
    sequences: Sequences,
    methods: Mapping[str, dict[str, Tensor]],
    N: int,
    bases: Mapping[str, Eigenbasis] | None = None,
) -> dict[str, np.ndarray]:
    """Scores of every sequence for every query, by several methods in one pass.

    Args:
        runner: the model.
        sequences: the training sequences.
        methods: for each method, each layer's preconditioned query gradients P [query, d_out, d_in]; see `ScoreTotals`.
        N: training sequences of the generation.
        bases: of every layer, where P is given in the eigenbases.

    Returns:
        For each method float64 [query, sequence]; for a curvature method in nats per added copy.
    """
    return scored(runner, sequences, methods, N, bases).totals()


def scored(
    runner: Runner,
    sequences: Sequences,
    methods: Mapping[str, dict[str, Tensor]],
    N: int,
    bases: Mapping[str, Eigenbasis] | None,
) -> ScoreTotals:
    """As `scores`, with the contractions that were chosen."""
    found = ScoreTotals(methods, len(sequences), N, runner.device)
    found.place(runner)
    if bases is not None:
        bases = runner.placed(bases)
        found.in_eigenbases(bases, sequences.tokens.shape[1], rotated_anyway=False)
    score_pass(runner, sequences, found, bases)
    return found


def score_pass(
    runner: Runner, sequences: Sequences, found: ScoreTotals, bases: Mapping[str, Eigenbasis] | None
) -> None:
    """Add up the scores of every sequence in one pass; arguments as in `scores`."""
    places = Places()

    def consumer(batch: Batch) -> Consumer:
        return lambda linear, a, Ds: found.add(
            batch, LayerGradient(linear.name, a, Ds, None if bases is None else bases[linear.name], places)
        )

    runner.run(sequences, consumer)


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
    P = runner.placed(P)
    by_layer = np.zeros((queries, len(sequences), len(order)))
    by_token = np.zeros((queries, *sequences.tokens.shape))

    def consumer(batch: Batch) -> Consumer:
        def consume(linear: LinearModule, a: Tensor, Ds: Tensor) -> None:
            parts = token_scores(P[linear.name], Ds, a, N).double().cpu().numpy()
            by_layer[:, batch.rows, order[linear.name]] = parts.sum(-1)
            by_token[:, batch.rows, : parts.shape[-1]] += parts

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


class SketchRows:
    """Whitened gradients of one batch after another, at the kept coordinates.

    Args:
        runner: the model.
        curvature: of every layer.
        coordinates: which to keep.
        probes: each layer's preconditioned gradients P [probe, d_out, d_in] of a few questions, in the eigenbases,
            whose exact scores the sketches are to estimate.
    """

    def __init__(
        self,
        runner: Runner,
        curvature: Mapping[str, LayerCurvature],
        coordinates: Coordinates,
        probes: Mapping[str, Tensor],
    ) -> None:
        self._order = [linear.name for linear in runner.modules]
        self._device = runner.device
        self._curvature = runner.placed(curvature)
        self._kept = runner.placed(coordinates.kept)
        self._probes = runner.placed(probes)
        self._weights = {name: (layer.Λ + layer.λ).reciprocal() for name, layer in self._curvature.items()}
        self._parts: dict[str, Tensor] = {}
        self._squared_norms: list[Tensor] = []
        self._exact: list[Tensor] = []

    def add(self, layer: LayerGradient) -> None:
        """Add a layer of the batch."""
        curvature = self._curvature[layer.name]
        norms = whitened_squared_norms(layer.rotated, self._weights[layer.name])
        self._squared_norms.append(norms.double().to(self._device))
        self._parts[layer.name] = layer_sketch(curvature, layer.rotated, self._kept[layer.name]).to(self._device)
        exact = layer_scores(self._probes[layer.name], layer.rotated, 1)
        self._exact.append(exact.double().to(self._device))

    def batch(self) -> WhitenedBatch:
        """What was added since the last one, which must be all layers."""
        whole = torch.cat([self._parts[name] for name in self._order], dim=1)
        norms, scored = (torch.stack(layers).sum(0).cpu().numpy() for layers in (self._squared_norms, self._exact))
        for added in (self._parts, self._squared_norms, self._exact):
            added.clear()
        return WhitenedBatch(whole.float().cpu().numpy(), norms, scored)


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
        probes: see `SketchRows`.

    Yields:
        Batch after batch of the sequences, in order.
    """
    curvature = runner.placed(curvature)
    found, places = SketchRows(runner, curvature, coordinates, probes), Places()

    def consume(linear: LinearModule, a: Tensor, Ds: Tensor) -> None:
        found.add(LayerGradient(linear.name, a, Ds, curvature[linear.name].basis, places))

    for _, forward in runner.passes(sequences, by_length=False):
        refuse_not_finite(forward.backward(consume).double().cpu().numpy())
        yield found.batch()


def query_sketches(
    V: Mapping[str, Tensor], curvature: Mapping[str, LayerCurvature], coordinates: Coordinates, N: int
) -> np.ndarray:
    """What training sketches are multiplied with to estimate scores in nats: float32 [query, width], −1/N included.

    Args:
        V: each layer's query gradients in the eigenbases.
        curvature: of every layer.
        coordinates: that are kept.
        N: training sequences of the generation.
    """
    parts = [layer_sketch(layer, V[name], coordinates.kept[name]) for name, layer in curvature.items()]
    return (-torch.cat(parts, dim=1) / N).float().cpu().numpy()
