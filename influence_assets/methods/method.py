"""The contract of attribution methods: how to make, of query gradients, the vectors that training gradients multiply.

Every method here scores a training sequence z for a query f by −⟨P, ∇L(z)⟩ / N, layer by layer, and differs from the
others in P alone, which it prepares from V = ∇f. How scores are computed, and their lineage, are the same for all. The
scores of EK-FAC are the table `influence_scores`, and sketches and details are made for it alone; the scores of the
others that a study lists are the table `method_scores`. A method that is not of this form, such as representer points,
is an asset of its own, in `influence_assets.assets`, and says so by a `ScoredMethod`.

V is stored for every query, as the outer products that it is the sum of; those of long queries are truncated to a
lower rank (`maths/outer_products.py`). Methods that are `layer_by_layer` make P of what is stored whenever scores are
computed. Others make P once, of the same, and it is stored in full.

V and P are in the layers' eigenbases, Q_Sᵀ V Q_A, where curvature is diagonal, and with curvature of low rank in the
model's own coordinates (`maths/curvature.py`). Rotating both sides leaves inner products as they are, so the scorer may
rotate whichever takes less.

A method is a module's attribute METHOD, found by `influence_assets.extensions`. Studies are checked against the names
of the methods before anything else, so modules of methods import what is slow to import, such as torch, only where they
compute.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from influence_assets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from influence_assets.capture.batches import Sequences
    from influence_assets.capture.runner import Runner
    from influence_assets.maths.curvature import Basis, Curvature
    from influence_assets.study import Study


@dataclass(frozen=True)
class TrainingSequences:
    """The training sequences of all shards, read one shard at a time.

    Args:
        shards: reads the sequences of each shard, in the order of the shards' names.
    """

    shards: Sequence[Callable[[], "Sequences"]] = ()

    def all(self) -> "Iterator[Sequences]":
        """Yield the sequences of one shard after another."""
        for read in self.shards:
            yield read()

    def sample(self, share: float, seed: int) -> "Iterator[Sequences]":
        """Yield a random share of the sequences of one shard after another.

        Whether a sequence is drawn depends on the seed and its id alone, not on its shard.

        Args:
            share: of the sequences, 0 to 1.
            seed: of the draw.
        """
        import numpy as np

        for sequences in self.all():
            keys = (np.array([seed % 2**64, key], np.uint64) for key in sequences.keys.tolist())
            drawn = [np.random.Generator(np.random.Philox(key=key)).random() < share for key in keys]
            if any(drawn):
                yield sequences.take(np.flatnonzero(drawn))

    def batches(self, size: int, count: int, *, most: int, seed: int) -> "list[Sequences]":
        """Return batches of sequences that carry a loss, drawn from a random part of the corpus that fits in memory.

        Args:
            size: sequences in a batch; all that there are, if these are fewer.
            count: the number of batches.
            most: of about how many sequences they are drawn.
            seed: of the draws.

        Raises:
            InputError: no sequence that was drawn carries a loss.
        """
        import numpy as np

        from influence_assets.capture.batches import Sequences

        total = sum(len(sequences) for sequences in self.all())
        held = [sequences.with_loss() for sequences in self.sample(min(1.0, most / max(1, total)), seed)]
        held = [sequences for sequences in held if len(sequences)]
        if not held:
            problem = f"drawing about {most:,} of {total:,} sequences, found none that carries a loss"
            raise InputError("method_options", problem, "Raise `sequences` of the method, or choose another `seed`.")
        everything, generator = Sequences.joined(held), np.random.default_rng(seed)
        of_each = min(size, len(everything))
        draws = (generator.choice(len(everything), of_each, replace=False) for _ in range(count))
        return [everything.take(np.sort(rows)) for rows in draws]


class MethodOptions(BaseModel):
    """The options of a method. Unknown ones are refused, so that a misspelt one does not silently leave a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Options = TypeVar("Options", bound=MethodOptions)


@dataclass(frozen=True)
class Passes:
    """The passes that preparing P takes: one sequence forward and backward once, along one vector.

    Args:
        of_query: passes for each query.
        of_call: passes for all queries that are prepared together.
    """

    of_query: float
    of_call: float = 0.0


@dataclass(frozen=True)
class SolverStep:
    """How far P of each query is from the solution of (G + λI) P = V after an iteration.

    Args:
        iteration: how many iterations P has behind it.
        passes: the passes of the query's vector that these took, over all the sequences that were drawn.
        sequences: how many sequences G is the mean over.
        is_measured: bool [query]: the queries that the figures are of.
        relative_residual: ‖(G + λI) P − V‖ / ‖V‖ [query].
        objective: ½ Pᵀ(G + λI)P − VᵀP [query].
    """

    iteration: int
    passes: float
    sequences: int
    is_measured: "Tensor"
    relative_residual: "Tensor"
    objective: "Tensor"


@dataclass(frozen=True)
class MethodContext:
    """What a method may use to prepare P.

    Args:
        runner: the model with its attributed layers.
        bases: the basis of every layer, in whose coordinates V and P are given.
        curvature: of every layer; empty unless the method `needs_curvature`.
        training: the training sequences; none unless the method `reads_training`.
        options: the study's settings of the method, an instance of its `options`; None if it has none.
        record: called by a method that solves for P step by step, in the order of the steps.
        learning_rates: ηK, the sum of the learning rates of the model's training, divided by the mean number of tokens
            of a sequence that carry a loss, over which its batches average: the length of the training in the unit of
            1/Λ. None if the study does not train the model.
    """

    runner: "Runner"
    bases: "Mapping[str, Basis]"
    curvature: "Mapping[str, Curvature]" = field(default_factory=dict)
    training: TrainingSequences = TrainingSequences()
    options: Any = None
    learning_rates: float | None = None
    record: Callable[[SolverStep], None] = lambda _step: None

    def options_as(self, kind: type[Options]) -> Options:
        """Return the method's options, which are of this kind; their defaults if there are none."""
        if self.options is None:
            return kind()
        if not isinstance(self.options, kind):
            raise TypeError(f"the options are {type(self.options).__name__}, not {kind.__name__}")
        return self.options

    def gauss_newton(self, V: "Mapping[str, Tensor]", shards: "Iterable[Sequences]") -> "dict[str, Tensor]":
        """Return G V of every layer, [vector, d_out, d_in], in the bases' coordinates like V; V is not modified.

        G is the exact Gauss-Newton Hessian of all layers together, the mean over sequences, which EK-FAC approximates.
        Each vector costs one forward and one backward pass of every sequence. A method that declares its `passes` has
        them counted by `influence plan`.

        Args:
            V: the vectors, of every layer.
            shards: the sequences that G is the mean over: `training.all()`, or a `training.sample(…)`.

        Raises:
            ValueError: there are no sequences.
        """
        from influence_assets.capture.gauss_newton import gauss_newton_products

        return gauss_newton_products(self.runner, shards, V, self.bases)

    def damped(self, V: "Mapping[str, Tensor]", shards: "Iterable[Sequences]") -> "dict[str, Tensor]":
        """Return (G + λI) V of every layer, with G as in `gauss_newton` and λ each layer's own damping."""
        product = self.gauss_newton(V, shards)
        return {name: product[name] + layer.λ * V[name] for name, layer in self.curvature.items()}

    def damped_by(self, batches: "Iterable[Sequences]") -> "list[Callable[[dict[str, Tensor]], dict[str, Tensor]]]":
        """Return for each batch the multiplication with its G + λI, as in `damped`."""
        return [lambda V, batch=batch: self.damped(V, [batch]) for batch in batches]  # type: ignore[misc]

    def preconditioned(self, V: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """Return EK-FAC's (G + λI)⁻¹ V of every layer; V stays as it is."""
        return {name: layer.precondition(V[name].clone()) for name, layer in self.curvature.items()}


Prepare = Callable[["Mapping[str, Tensor]", MethodContext], "dict[str, Tensor]"]
"""Makes P of every layer from V of every layer, both [query, d_out, d_in] in the coordinates of the bases."""


def _allowed(_study: "Study") -> None:
    """Allow a method in every study."""


@dataclass(frozen=True, kw_only=True)
class AttributionMethod:
    """An attribution method.

    Args:
        name: its name in the study and in tables.
        unit: `nats` if a score is the change of a query's log-probability by one more copy of the training sequence;
            None if scores compare only with one another.
        prepare: makes P. It may be called with some of the queries at a time, and may overwrite V.
        needs_curvature: whether `prepare` uses Λ and the damping.
        layer_by_layer: whether P of a layer follows from V and the curvature of that layer alone. `prepare` is then
            called for one layer at a time whenever scores are computed, and may use nothing else of its context.
        reads_training: whether `prepare` reads training sequences. P then depends on all of them, and is made
            again whenever a shard is added, changed or removed.
        options: the settings that a study can give it in `method_options`, all of which have defaults; None: it has
            none.
        passes: returns the passes that preparing P takes, given the options and the number of training sequences; None
            where that is not known, so that `influence plan` does not count them.
        check: raises an InputError if a study cannot have the method, such as one of a training that it does not do.
        code_version: raised whenever the same inputs would give another P.
    """

    name: str
    unit: Literal["nats"] | None
    prepare: Prepare
    options: type[MethodOptions] | None = None
    needs_curvature: bool = False
    layer_by_layer: bool = False
    reads_training: bool = False
    passes: Callable[[Any, int], Passes] | None = None
    check: "Callable[[Study], object]" = _allowed
    code_version: str = "1"

    def __post_init__(self) -> None:
        if self.layer_by_layer and self.reads_training:
            raise ValueError(f"the method {self.name!r} cannot be layer_by_layer, because it reads training sequences")


@dataclass(frozen=True, kw_only=True)
class ScoredMethod:
    """A method that is an asset of its own, because its scores are no inner products with training gradients.

    Args:
        name: its name in the study and in tables.
        unit: `nats` if a score is the change of a query's log-probability by one more copy of what is scored; the name
            of another unit; or None if scores compare only with one another.
        options: as in `AttributionMethod`.
        check: as in `AttributionMethod`.
    """

    name: str
    unit: str | None
    options: type[MethodOptions] | None = None
    check: "Callable[[Study], object]" = _allowed
