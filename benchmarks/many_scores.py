"""Very many scores: how fast they are loaded, and how fast the shipped views answer from them.

    python benchmarks/many_scores.py --rows 100000000 --queries 100 --shards 20
    python benchmarks/many_scores.py --rows 100000000 --queries 100 --shards 2000

Scores are drawn at random and written as artifacts of a store, a table for each query set and shard as the pipeline
writes it, with the sequences and documents that the views need: texts of a dozen words, two documents to three
sequences. Queries' ids begin alike, as people's own often do. Then the catalogue is loaded and asked. Prints one JSON
object a measure: wall seconds and CPU seconds of this process, of questions the first ("cold": the file's pages are
given back to the system before) and the median of those after it, on one open connection and, where the name ends on
"anew", on a connection of its own each, as the command does it.
"""

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from influence_assets.storage.artifacts import ArtifactStore
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.catalogue import CatalogueContent, load_catalogue, query, reading, run_checks

TOPICS = ["lamps", "towers", "fog", "bells", "gulls", "ships", "keepers", "water", "bread", "iron", "thread", "mail"]
MEASURES = {
    "strongest 20 of one query": "from strongest($query, 20)",
    "strongest 20 of each query": "from strongest_of_each(20)",
    "top_influences, 20 of one query": "from top_influences where query_id = $query and rank <= 20",
    "top_influences, 20 of each query": "select query_id, rank, influence_nats, sequence_id from top_influences "
    "where rank <= 20",
    "top_influences, lowest 20 of one query": "select rank_lowest, influence_nats, text from top_influences "
    "where query_id = $query and rank_lowest <= 20",
    "20 documents of one query": "from influence_by_document where query_id = $query "
    "order by influence_nats desc limit 20",
    "sources of one query": "from influence_by_source where query_id = $query",
    "noise of one query": "from query_noise where query_id = $query",
    "noise of each query": "from query_noise",
    "noise of one query's documents": "from query_noise_by_document where query_id = $query",
    "strongest 20 of one query with their noise": "from strongest_with_noise($query, 20)",
    "lineage of one score": "from score_lineage where query_id = $query and sequence_id = $sequence",
}


class Corpus:
    """So many sequences, shards and queries, with scores drawn from one seed.

    Args:
        store: where artifacts are written.
        asked: the command's arguments.
    """

    def __init__(self, store: ArtifactStore, asked: argparse.Namespace) -> None:
        self.store = store
        self.drawn = np.random.default_rng(0)
        sets = np.array_split(np.arange(asked.queries), asked.query_sets)
        self.queries = {
            f"set{n}.jsonl": [f"question-number-{query:06d}" for query in each] for n, each in enumerate(sets)
        }
        self.sequences_per_shard = asked.rows // asked.queries // asked.shards
        self.shards = [f"part{n // 100:03d}/shard{n:05d}.jsonl" for n in range(asked.shards)]
        self.sequence_ids = self.drawn.integers(1, 2**63 - 1, (asked.shards, self.sequences_per_shard))

    def write(self) -> list[ArtifactKey]:
        """All artifacts, and their keys."""
        keys = [self._curvature(), *(self._query_set(name) for name in self.queries)]
        for shard, sequence_ids in zip(self.shards, self.sequence_ids, strict=True):
            keys.extend(self._shard(shard, sequence_ids))
            keys.extend(self._scores(name, shard, sequence_ids) for name in self.queries)
        return keys

    def _write(self, asset: str, partition: str | None, **tables: pl.DataFrame) -> ArtifactKey:
        key = ArtifactKey(asset, partition, "v1")
        with self.store.write(key, inputs=[], code_version="1", run_id="run", settings={}) as draft:
            for name, frame in tables.items():
                draft.table(name, frame)
        return key

    def _curvature(self) -> ArtifactKey:
        texts = dict.fromkeys(("weights_hash", "model_path", "tokenizer_hash", "dtype", "fisher"), "x")
        counts = ("training_sequences", "training_tokens", "attributed_parameters", "total_parameters")
        row = {"generation_id": 1, **texts, "damping_scale": 0.1, "sequence_length_tokens": 16}
        row |= {**dict.fromkeys(counts, 1), "created_at": datetime(2026, 1, 1, tzinfo=UTC)}
        return self._write("curvature", None, generations=pl.DataFrame([row]))

    def _query_set(self, name: str) -> ArtifactKey:
        ids = self.queries[name]
        numbers = dict.fromkeys(("prompt_tokens", "completion_tokens"), 4)
        numbers |= dict.fromkeys(("log_probability_nats", "gradient_norm"), -1.5)
        numbers["truncation_error"] = 0.0
        frame = pl.DataFrame({"query_id": ids, "query_set_id": name, "source_row": range(1, len(ids) + 1)})
        texts = {"prompt": "Who kept the lamp?", "completion": " Ada", "metadata": None}
        return self._write("query_gradients", name, queries=frame.with_columns(**_literals(texts | numbers)))

    def _shard(self, shard: str, sequence_ids: np.ndarray) -> Iterator[ArtifactKey]:
        """Of every three sequences the first is one document's, the second shared with the next, and so on."""
        count = len(sequence_ids)
        holders = {  # sequence n has a first half, of document 2n // 3, and a second half, of document (2n + 1) // 3
            half: (2 * np.arange(count) + half) // 3 for half in (0, 1)
        }
        ids = np.array([self._document_id(shard, n) for n in range(int(holders[1][-1]) + 1)])
        about = self.drawn.integers(len(TOPICS), size=len(ids))
        documents = pl.DataFrame({"document_id": ids, "source_row": range(1, len(ids) + 1)}).with_columns(
            shard_id=pl.lit(shard),
            title=pl.Series([f"On {TOPICS[topic]}, {n}" for n, topic in enumerate(about)]),
            source=pl.Series([f"books of {TOPICS[topic]}" for topic in about]),
            characters=pl.lit(60),
            text=pl.lit("She trimmed the lamp at dusk, and again when the fog came in."),
            **_literals(dict.fromkeys(("external_id", "licence", "author", "date", "url", "metadata"))),
        )
        counts = {"source_bytes": 1, "documents": len(ids), "duplicate_documents": 0, "characters": 60 * len(ids)}
        row = {"shard_id": shard, "path": f"/{shard}", "content_hash": "x", **counts}
        yield self._write("documents", shard, documents=documents, shards=pl.DataFrame([row]))
        spans = pl.concat(
            pl.DataFrame({"sequence_id": sequence_ids, "document_id": ids[holders[half]]}).with_columns(
                token_start=pl.lit(8 * half), token_end=pl.lit(8 * half + 8)
            )
            for half in (0, 1)
        )
        spans = spans.with_columns(**_literals({"character_start": 0, "character_end": 60}))
        packed = pl.DataFrame({"sequence_id": sequence_ids, "sequence_index": range(count)}).with_columns(
            shard_id=pl.lit(shard), tokens=pl.lit(16), text=pl.lit("She trimmed the lamp at dusk, and again in the fog")
        )
        yield self._write("token_sequences", shard, sequences=packed, sequence_documents=spans)

    def _document_id(self, shard: str, number: int) -> str:
        return f"{self.shards.index(shard):016x}{number:016x}"

    def _scores(self, name: str, shard: str, sequence_ids: np.ndarray) -> ArtifactKey:
        """As the pipeline writes them: by query, the strongest first; scores of two documents are split at random."""
        ids, count = self.queries[name], len(sequence_ids)
        scores = self.drawn.standard_normal((len(ids), count)) * 1e-4
        order = np.argsort(-scores, axis=1)
        frame = pl.DataFrame(
            {
                "query_id": pl.Series(ids).gather(np.repeat(np.arange(len(ids)), count)),
                "sequence_id": sequence_ids[order].ravel(),
                "influence_nats": np.take_along_axis(scores, order, axis=1).ravel(),
            }
        ).with_columns(generation_id=pl.lit(1, pl.Int64))
        shared = np.arange(1, count, 3)
        holders = np.stack([2 * shared // 3, (2 * shared + 1) // 3], axis=1)
        first = self.drawn.random((len(ids), len(shared)))
        parts = np.stack([first, 1 - first], axis=2) * scores[:, shared, None]
        documents = [self._document_id(shard, n) for n in holders.ravel()]
        by_document = pl.DataFrame(
            {
                "query_id": pl.Series(ids).gather(np.repeat(np.arange(len(ids)), 2 * len(shared))),
                "sequence_id": np.tile(np.repeat(sequence_ids[shared], 2), len(ids)),
                "document_id": documents * len(ids),
                "influence_nats": parts.ravel(),
            }
        ).with_columns(generation_id=pl.lit(1, pl.Int64))
        return self._write("influence_scores", f"{name}|{shard}", influence_scores=frame, part_scores=by_document)


def _literals(values: dict[str, object]) -> dict[str, pl.Expr]:
    return {name: pl.lit(value) for name, value in values.items()}


def timed(act: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.monotonic(), time.process_time()
    act()
    return time.monotonic() - wall, time.process_time() - cpu


def say(measure: str, **found: object) -> None:
    """One line of JSON, seconds to the tenth of a millisecond."""
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}
    print(json.dumps({"measure": measure, **rounded}), flush=True)


def give_pages_back(path: Path) -> None:
    """Let the system forget what it has read of a file, so that it comes from the disk again."""
    with path.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def ask(measure: str, path: Path, bound: dict[str, object], repetitions: int) -> None:
    """Time one question: cold, on a connection that stays open, and on one of its own each time."""
    sql = MEASURES[measure]
    used = {name: value for name, value in bound.items() if f"${name}" in sql}
    give_pages_back(path)
    with reading._reader(path) as connection:
        cold = timed(lambda: connection.sql(sql, params=used).pl())
        warm = [timed(lambda: connection.sql(sql, params=used).pl()) for _ in range(repetitions)]
        rows = connection.sql(sql, params=used).pl().height
    anew = [timed(lambda: query(path, sql, used)) for _ in range(repetitions)]
    found: dict[str, object] = {"rows": rows, "cold_wall_seconds": cold[0], "cold_cpu_seconds": cold[1]}
    for name, times in (("warm", warm), ("anew", anew)):
        found[f"{name}_wall_seconds"] = statistics.median(wall for wall, _ in times)
        found[f"{name}_cpu_seconds"] = statistics.median(cpu for _, cpu in times)
    say(measure, **found)


def load(path: Path, corpus: Corpus, keys: list[ArtifactKey], *, anew: bool, measure: str) -> None:
    """Load a catalogue of these artifacts, and say how many scores a second that were."""
    content = CatalogueContent("many", 1, keys)
    loaded = []
    wall, cpu = timed(lambda: loaded.append(load_catalogue(path, content, corpus.store, anew=anew)))
    rows = loaded[0].rows.get("influence_scores", 0)
    say(
        measure,
        artifacts=loaded[0].loaded,
        removed=loaded[0].removed,
        scores=rows,
        all_rows=sum(loaded[0].rows.values()),
        wall_seconds=wall,
        cpu_seconds=cpu,
        scores_a_second=round(rows / wall),
        catalogue_bytes=path.stat().st_size,
    )


def measure_everything(folder: Path, asked: argparse.Namespace) -> None:
    """Write, load, ask, load with one shard less and more."""
    corpus = Corpus(ArtifactStore.open_or_create(folder / "store", "many"), asked)
    keys: list[ArtifactKey] = []
    wall, cpu = timed(lambda: keys.extend(corpus.write()))
    written = sum(file.stat().st_size for file in (folder / "store").rglob("influence_scores.parquet"))
    say("writing artifacts", artifacts=len(keys), wall_seconds=wall, cpu_seconds=cpu, parquet_bytes=written)
    gc.collect()
    path = folder / "catalogue.duckdb"
    late = [key for key in keys if str(key.partition).endswith(corpus.shards[-1])]
    load(path, corpus, keys, anew=True, measure="load")
    bound = {"query": "question-number-000007", "sequence": int(corpus.sequence_ids[0, 0])}
    for measure in MEASURES:
        if not asked.only or any(word in measure for word in asked.only):
            ask(measure, path, bound, asked.repetitions)
    if asked.checks:
        wall, cpu = timed(lambda: say("checks", violations=sum(map(len, run_checks(path).values()))))
        say("checks took", wall_seconds=wall, cpu_seconds=cpu)
    if asked.incremental:
        load(path, corpus, [key for key in keys if key not in late], anew=False, measure="one shard gone")
        load(path, corpus, keys, anew=False, measure="one shard more")


def main() -> None:
    """Measure everything once, in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="of influence_scores")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--query-sets", type=int, default=5)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--only", nargs="*", help="questions with one of these words in their name")
    parser.add_argument("--checks", action="store_true", help="run the catalogue's checks, too")
    parser.add_argument("--incremental", action="store_true", help="one shard less and more, too")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="many-scores-", dir=asked.folder) as folder:
        measure_everything(Path(folder), asked)


if __name__ == "__main__":
    main()
