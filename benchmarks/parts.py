"""Scores of documents that share a sequence, on a study that is computed: what they cost, and what they depend on.

    python -m benchmarks.parts --study demo/study.yaml

A document's part of a sequence's score is split by position: what its tokens contribute to the gradient of the whole
sequence's loss. Where documents see each other, that differs from the gradient of the document's own loss, because
through attention the loss of a later document reaches an earlier one. Both are computed here, and compared. Prints one
JSON object.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import pearsonr, spearmanr

from influence_assets.assets import open_workspace
from influence_assets.capture.batches import Parts, Sequences
from influence_assets.capture.scores import ScoreTotals, score_all
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.layouts.factors import bases_of, curvature_on
from influence_assets.layouts.model import runner as load_runner
from influence_assets.layouts.queries import StoredQueries
from influence_assets.layouts.sequences import parts_of, shard_sequences, shared_sequences
from influence_assets.methods.registry import MAIN, methods_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study

REPETITIONS = 4


class Shard:
    """A shard's sequences, and the queries that they are scored for.

    Args:
        versions: of the study.
        shard: its id.
        query_set: the id of the queries' set.
    """

    def __init__(self, versions: Versions, shard: str, query_set: str) -> None:
        graph, store = versions.workspace.graph, versions.workspace.store

        def opened(asset: str, partition: Partition) -> Artifact:
            key = versions.key(graph[asset], partition)
            assert key is not None, "compute the study first"
            return store.open(key)

        tokens = opened("token_sequences", Partition(shard=shard))
        self.sequences = shard_sequences(tokens)
        self.shared = shared_sequences(tokens)
        self.runner = load_runner(versions.workspace, opened("language_model", Partition()), lambda *_: None)
        curvature = curvature_on(self.runner, opened("eigenbases", Partition()), opened("curvature", Partition()))
        self.queries = StoredQueries(opened("query_gradients", Partition(query_set=query_set)), self.runner, curvature)
        self.bases = bases_of(curvature)
        self.methods = [method.name for method in methods_of(versions.workspace.study)]

    def totals(self, sequences: Sequences, methods: list[str], parts: Parts | None) -> ScoreTotals:
        """Score sequences by some methods, and by the main one over parts."""
        totals = ScoreTotals({}, len(sequences), self.queries.N, self.runner.device, parts)
        for method in methods:
            totals.include(method, len(self.queries.query_ids), split=parts is not None and method == MAIN)
            totals.hold(method, self.queries.layers(self.queries.all, method))
        return score_all(self.runner, sequences, totals, self.bases)

    def own_losses(self) -> Sequences:
        """The shared sequences, once for each document, with its loss alone."""
        parts = parts_of(self.shared)
        whole = self.sequences.take(parts.sequences)
        position = np.arange(whole.tokens.shape[1])
        is_own = (position >= parts.starts[:, None]) & (position < parts.ends[:, None])
        mask = is_own if whole.loss is None else is_own & (whole.loss > 0)
        return Sequences(whole.tokens, whole.lengths, whole.keys, loss=mask.astype(np.uint8))


def shards_of(study: Study) -> Iterator[Shard]:
    """Yield the shards of a study whose documents share sequences."""
    workspace = open_workspace(study)
    versions = Versions(workspace, "published")
    for shard in workspace.shards:
        yield Shard(versions, shard, next(iter(workspace.query_sets)))


def cost(shards: list[Shard]) -> dict[str, float]:
    """Return CPU seconds of the pass without and with parts: the least of a few, in turns."""
    seconds: dict[str, list[float]] = {"whole": [], "with_parts": []}
    for _ in range(REPETITIONS):
        for name in seconds:
            started = time.process_time()
            for shard in shards:
                shard.totals(shard.sequences, shard.methods, parts_of(shard.shared) if name == "with_parts" else None)
            seconds[name].append(time.process_time() - started)
    least = {name: min(values) for name, values in seconds.items()}
    return {**least, "ratio": least["with_parts"] / least["whole"]}


def compared(shards: list[Shard]) -> dict[str, float]:
    """Return how far parts by position are from the scores of the documents' own losses."""
    positions, owns, sums = [], [], []
    for shard in shards:
        parts = parts_of(shard.shared)
        if not len(parts):
            continue
        by_position = shard.totals(shard.sequences, [MAIN], parts)
        positions.append(by_position.part_totals(MAIN))
        own = shard.totals(shard.own_losses(), [MAIN], None).totals()[MAIN]
        owns.append(own)
        first = np.flatnonzero(np.diff(parts.sequences, prepend=-1))
        whole = by_position.totals()[MAIN][:, np.unique(parts.sequences)]
        sums.append(np.abs(np.add.reduceat(own, first, axis=1) - whole).max() / np.abs(whole).max())
    position, own = np.concatenate(positions, axis=1), np.concatenate(owns, axis=1)
    strongest = np.argsort(-np.abs(own), axis=1)[:, :20]
    top_position, top_own = (np.take_along_axis(each, strongest, axis=1) for each in (position, own))
    return {
        "queries": len(own),
        "parts": own.shape[1],
        "pearson": float(pearsonr(position.ravel(), own.ravel()).statistic),
        "spearman": float(np.mean([spearmanr(a, b).statistic for a, b in zip(position, own, strict=True)])),
        "norm_of_difference": float(np.linalg.norm(position - own) / np.linalg.norm(own)),
        "other_sign": float(np.mean(np.sign(position) != np.sign(own))),
        "other_sign_of_20_strongest": float(np.mean(np.sign(top_position) != np.sign(top_own))),
        "same_strongest_part": float(np.mean(position.argmax(axis=1) == own.argmax(axis=1))),
        "own_losses_sum_to_the_sequence_within": float(max(sums)),
    }


def main() -> None:
    """Measure a study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True)
    shards = list(shards_of(Study.load(parser.parse_args().study)))
    print(json.dumps({"cpu_seconds": cost(shards), "by_position_and_own_loss": compared(shards)}, indent=1))


if __name__ == "__main__":
    main()
