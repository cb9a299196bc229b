"""A small store that catalogues are built from."""

from datetime import UTC, datetime

import polars as pl

from influence_assets.storage.artifacts import ArtifactStore
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.catalogue import CatalogueContent, load_catalogue, query, reading
from influence_assets.storage.catalogue.content import STATES, TOMBSTONES
from influence_assets.storage.catalogue.statements import statements

SHARDS = tuple(f"{letter}.jsonl" for letter in "abcdefghijkl")
DAY = datetime(2026, 1, 2, tzinfo=UTC)


def states(rows):
    """Rows of `partition_states`, in the order of its columns."""
    return pl.DataFrame(rows, schema=STATES, orient="row")


def tombstones(rows):
    """Rows of `tombstones`, in the order of its columns."""
    return pl.DataFrame(rows, schema=TOMBSTONES, orient="row")


def everything_in(path):
    """All rows of all tables, in any order, but for when and over what they were loaded."""
    with reading._reader(path) as connection:
        return {
            table: sorted(
                map(repr, connection.sql(f"from {table}").pl().drop("loaded_at", "has_holes", strict=False).rows())
            )
            for table in statements("schema")
        }


class Sample:
    """A store of shards of two sequences each, one query and one generation, whose scores are 1, 2, 3, 4, ..."""

    def __init__(self, root):
        self.store = ArtifactStore.open_or_create(
            root / "store*" / "date=1", "topics"
        )  # for DuckDB a glob and a Hive partition
        self.path = root / "catalogue.duckdb"
        self.curvature = self.write_curvature(1)
        self.queries = self.write_queries()

    def write(self, key, inputs=(), summary=None, **tables):
        with self.store.write(key, inputs=inputs, code_version="7", run_id="run-1", settings={"length": 4}) as draft:
            draft.summarise(**summary or {})
            for name, frame in tables.items():
                draft.table(name, frame)
        return self.store.open(key)

    def write_curvature(self, generation):
        row = {
            "generation_id": generation,
            "weights_hash": f"w{generation}",
            "model_path": "m",
            "tokenizer_hash": "t",
            "dtype": "float64",
            "fisher": "true",
            "damping_scale": 0.1,
            "sequence_length_tokens": 4,
            "training_sequences": 4,
            "training_tokens": 16,
            "attributed_parameters": 8,
            "total_parameters": 9,
            "created_at": DAY,
        }
        return self.write(
            ArtifactKey("curvature", None, f"g{generation}"),
            summary={"weights_hash": f"w{generation}"},
            generations=pl.DataFrame([row]),
        )

    def write_drift(self):
        row = {"module_name": "h", "measure": "A", "drift": 0.2, "threshold": 0.1, "shards": 2, "fitted_shards": 1}
        drift = pl.DataFrame([{"generation_id": 1, **row}])
        return self.write(ArtifactKey("curvature_drift", None, "v1"), [self.curvature.key], layer_drift=drift)

    def write_queries(self):
        row = {
            "query_id": "q",
            "query_set_id": "q.jsonl",
            "source_row": 1,
            "prompt": "p",
            "completion": "c",
            "metadata": '{"topic": "x"}',
            "prompt_tokens": 1,
            "completion_tokens": 1,
            "log_probability_nats": -1.0,
            "gradient_norm": 1.0,
            "truncation_error": 0.0,
        }
        return self.write(ArtifactKey("query_gradients", "q.jsonl", "v1"), queries=pl.DataFrame([row]))

    def write_documents(self, shard_id, version, text="x" * 300, **counts):
        """A shard's one document, whose id is `d` and the shard's number."""
        documents = {
            "document_id": [f"d{SHARDS.index(shard_id)}"],
            "shard_id": shard_id,
            "source_row": 1,
            "external_id": None,
            "title": "T",
            "source": "s",
            "licence": "MIT",
            "author": None,
            "date": "2024-05-06",
            "url": None,
            "metadata": None,
            "characters": len(text),
            "text": text,
        }
        shards = {
            "shard_id": [shard_id],
            "path": f"/{shard_id}",
            "source_bytes": 9,
            "content_hash": version,
            "documents": 1,
            "duplicate_documents": 0,
            "characters": len(text),
            **counts,
        }
        key = ArtifactKey("documents", shard_id, version)
        return self.write(key, documents=pl.DataFrame(documents), shards=pl.DataFrame(shards))

    def shard(self, number, version="v1", generation=1):
        """Documents, sequences and scores of a shard."""
        shard_id = SHARDS[number]
        first = 2 * number + 1
        sequences = {"sequence_id": [first, first + 1], "shard_id": shard_id, "sequence_index": [0, 1]}
        spans = {"sequence_id": [first, first + 1], "document_id": f"d{number}", "token_start": 0, "token_end": 4}
        scores = {"query_id": "q", "sequence_id": [first, first + 1], "generation_id": generation}
        found = self.write_documents(shard_id, version)
        packed = self.write(
            ArtifactKey("token_sequences", shard_id, version),
            [found.key],
            sequences=pl.DataFrame({**sequences, "tokens": 4, "text": "some words"}),
            sequence_documents=pl.DataFrame({**spans, "character_start": 0, "character_end": 300}),
        )
        scored = self.write(
            ArtifactKey("influence_scores", f"{shard_id}|q.jsonl", f"{version}-{generation}"),
            [packed.key, self.queries.key, self.curvature.key],
            influence_scores=pl.DataFrame({**scores, "influence_nats": [float(first), float(first + 1)]}),
        )
        return [found, packed, scored]

    def content(self, *shards, generation=1, **more):
        """What the catalogue holds of these shards: lists of artifacts."""
        wanted = [self.curvature, self.queries, *(artifact for shard in shards for artifact in shard)]
        return CatalogueContent("topics", generation, [artifact.key for artifact in wanted], **more)

    def load(self, *shards, **more):
        return load_catalogue(self.path, self.content(*shards, **more), self.store)

    def scores(self):
        return query(self.path, "select influence_nats from current_scores order by all")["influence_nats"].to_list()
