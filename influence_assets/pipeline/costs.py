"""Operations, bytes and memory of the stages of a study, by its sizes."""

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from influence_assets.pipeline.attribution import PROBES
from influence_assets.pipeline.steps import Partition, Step
from influence_assets.pipeline.study_sizes import StudySizes
from influence_assets.pipeline.together import STEPS_OF_ONE_PASS

BYTES_A_SCORE = 20
"""A row of Parquet: the score and the sequence's id do not compress, the query's name does."""


@dataclass(frozen=True)
class Cost:
    """Of some partitions.

    Args:
        operations: counted.
        bytes: that they write; None where nobody can say.
        amount: what their time grows with where nothing is counted: bytes of text, or sequences.
    """

    operations: float = 0.0
    bytes: float | None = 0.0
    amount: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """Of both together."""
        unknown = self.bytes is None or other.bytes is None
        written = None if unknown else (self.bytes or 0) + (other.bytes or 0)
        return Cost(self.operations + other.operations, written, self.amount + other.amount)


Places = list[tuple[Step, Partition]]
Groups = Mapping[str, list[Places]]
"""For each shard the groups of partitions that one pass computes together."""


class StudyCosts:
    """What partitions take, by the sizes of a study.

    Args:
        sizes: of the study.
    """

    def __init__(self, sizes: StudySizes) -> None:
        self._sizes = sizes
        self._study = sizes.versions.workspace.study

    def of(self, step: Step, partitions: Sequence[Partition], groups: Groups) -> Cost:
        """Of some partitions of a step.

        Args:
            step: the step.
            partitions: of it.
            groups: of each shard, which steps one pass of the model computes.
        """
        if step.name in STEPS_OF_ONE_PASS:
            return sum((self._of_shard(step, partition, groups) for partition in partitions), Cost())
        if step.partitioning == "query_set":
            return sum((self._of_queries(step, str(partition.query_set)) for partition in partitions), Cost())
        if step.partitioning == "shard":
            return sum((self._of_text(step, str(partition.shard)) for partition in partitions), Cost())
        return sum((self._of_all(step) for _ in partitions), Cost())

    def _of_shard(self, step: Step, partition: Partition, groups: Groups) -> Cost:
        shard = str(partition.shard)
        together = next(group for group in groups[shard] if step.name in (s.name for s, _ in group))
        operations = self._of_pass(shard, together) / len(together)
        return Cost(operations, self._written(step, partition))

    def _of_pass(self, shard: str, together: Sequence[tuple[Step, Partition]]) -> float:
        """Operations of one pass over a shard, which computes these partitions."""
        sizes, shape = self._sizes, self._sizes.shape
        steps = {step.name for step, _ in together}
        asked = [self._query_count(p) for step, p in together if step.name == "influence_scores"]
        corrects, sketches = "corrected_eigenvalues" in steps, "gradient_sketches" in steps
        fits, attributes = corrects or "covariances" in steps, sketches or bool(asked)
        sequences = sizes.sequences(shard) if attributes else self._fitted(shard)
        is_shared = fits and attributes and self._study.curvature.fisher == "empirical"
        total = sequences * shape.passes(1 if is_shared else fits + attributes)
        if "covariances" in steps:
            total += sequences * shape.covariances()
        if corrects:
            total += sequences * shape.rotated_gradients() + sum(layer.drift() for layer in shape.layers)
        if sketches:
            probes = min(PROBES, sequences)
            total += probes * (shape.passes() + shape.rotated_gradients()) + sequences * shape.contractions(probes)
            total += 0 if is_shared and corrects else sequences * shape.rotated_gradients()
            return total + sequences * shape.contractions(sum(asked))
        return total + sum(shape.scores(queries, sequences) for queries in asked)

    def _of_queries(self, step: Step, query_set: str) -> Cost:
        sizes, study = self._sizes, self._study
        count = sizes.queries(query_set)
        if step.name == "query_gradients":
            shape = sizes.query_shape
            stored = count * sizes.methods * shape.gradient_numbers * shape.sums_itemsize
            return Cost(count * (shape.passes() + shape.rotated_gradients()), stored)
        shape, details = sizes.shape, study.scores.details_per_query
        pairs = count * min(2 * details, sizes.all_sequences())
        rows = pairs * (shape.tokens + len(shape.layers))
        return Cost(pairs * (shape.passes() + shape.gradients()) + count * shape.rotations(), rows * BYTES_A_SCORE)

    def _of_text(self, step: Step, shard: str) -> Cost:
        stored = self._sizes.versions.workspace.shard(shard).bytes
        if step.name == "documents":
            return Cost(bytes=None, amount=stored)
        return Cost(bytes=None, amount=self._sizes.sequences(shard))

    def _of_all(self, step: Step) -> Cost:
        sizes, training = self._sizes, self._study.model.train
        shape, sequences = sizes.shape, sizes.all_sequences()
        if step.name == "language_model":
            if training is None:
                return Cost(bytes=None, amount=1)
            return Cost(training.epochs * sequences * shape.training_step(), 4 * shape.parameters)
        if step.name == "eigenbases":
            vectors = sum(layer.d_out + layer.d_in for layer in shape.layers)
            return Cost(sum(layer.decomposition() for layer in shape.layers), 8 * (shape.factor_numbers + vectors))
        if step.name == "curvature":
            return Cost(0, 8 * shape.gradient_numbers, amount=len(sizes.versions.workspace.shards))
        return Cost(bytes=None, amount=sequences)

    def peak_memory(self, step: Step) -> int | None:
        """The largest memory while a step runs: of the process, or of the device; None where the model is not run.

        Weights, a batch, and what the step holds: factors, Λ, accumulators and query gradients.
        """
        if not step.heavy and step.name != "eigenbases":
            return None
        shape, sums = self._sizes.shape, self._sizes.shape.sums_itemsize
        factors, gradient = shape.factor_numbers * sums, shape.gradient_numbers * sums
        queries = max((self._query_count(Partition(query_set=q)) for q in self._sizes.query_tokens), default=0)
        held = {
            "covariances": factors,
            "corrected_eigenvalues": 2 * factors + gradient,
            "query_gradients": factors + (1 + queries * (1 + 1 / self._sizes.methods)) * gradient,
            "gradient_sketches": factors + (2 + PROBES) * gradient,
            "influence_scores": factors + queries * gradient,
            "influence_details": factors + (2 + queries) * gradient,
        }.get(step.name, 0)
        if self._sizes.has_generation and step.name in STEPS_OF_ONE_PASS:
            held = 2 * factors + (3 + PROBES + queries) * gradient
        if step.name == "eigenbases":
            widest = max(width for layer in shape.layers for width in layer.factor_widths)
            return _process_bytes() + 6 * 8 * widest**2
        on_cpu = self._sizes.device.type == "cpu"
        in_batch = self._sizes.batch_sequences * shape.sequence_bytes
        trained = 3 if step.name == "language_model" and self._study.model.train is not None else 0
        weights = shape.parameters * shape.dtype.itemsize * (1 + trained)
        return round(weights + in_batch + held + (_process_bytes() if on_cpu else 0))

    def _written(self, step: Step, partition: Partition) -> float:
        shape, sequences = self._sizes.shape, self._sizes.sequences(str(partition.shard))
        if step.name == "covariances":
            return shape.factor_numbers * shape.sums_itemsize
        if step.name == "corrected_eigenvalues":
            return shape.gradient_numbers * shape.sums_itemsize
        if step.name == "gradient_sketches":
            return sequences * (min(self._study.sketches.coordinates, shape.gradient_numbers) / 8 + 4)
        return sequences * self._query_count(partition) * BYTES_A_SCORE

    def _query_count(self, partition: Partition) -> int:
        return self._sizes.queries(str(partition.query_set)) * self._sizes.methods

    def _fitted(self, shard: str) -> int:
        most = self._study.curvature.fit_sequences
        sequences = self._sizes.sequences(shard)
        return sequences if most is None else min(sequences, most)


def _process_bytes() -> int:
    """Resident memory of this process, in which nothing but libraries is loaded yet."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
