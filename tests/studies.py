"""Whole studies, as small as they can be: source files, query files and a model's folder on disk, and ways to run them.

Two shards of different kinds, two query sets, a transformer of a few thousand parameters with a tokenizer of its own.
"""

import contextlib
import gzip
import json
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from influence_assets.assets import asset_graph, open_workspace
from influence_assets.engine.bring_up import Failure, Result, bring_up_to_date
from influence_assets.engine.catalogue import rebuild_catalogue
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Choice, Versions
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.catalogue import query
from influence_assets.study import Study

NAME = "tiny"
CONTEXT = 32
LENGTH = 16
END = "<|endoftext|>"

COAST, TRADES, EXTRA = "letters/coast.jsonl", "trades.parquet", "ferry.txt.gz"
SHARDS = (COAST, TRADES)
FIRST, SECOND = "first.jsonl", "second.jsonl"
QUERY_SETS = (FIRST, SECOND)

SCORES = ("influence_scores", "method_scores")
"""The assets of scores that these studies ask for."""

ROLLED_UP = {"curvature_drift", "influence_catalogue", *(f"influence_details[{name}]" for name in QUERY_SETS)}
"""What is computed anew whenever a shard comes, changes or goes."""

COAST_ROWS = [
    {"text": "The keeper climbs the tower every evening and lights the lamp.", "title": "Tower", "page": 1},
    {"text": "The lamp turns once in ten seconds, and ships count them.", "title": "Lamp", "page": 2},
    {"text": "Fog lies on the water; the bell of the tower rings.", "title": "Fog", "source": "almanac"},
    {"text": "Gulls follow the ships: größer, naïver, lauter 🌊 als je.", "title": "Gulls", "licence": "CC0-1.0"},
]
TRADES_ROWS = [
    {"text": "The baker rises at three, and the dough rests under a cloth.", "title": "Baker"},
    {"text": "The smith heats the iron until it glows, then strikes it.", "title": "Smith"},
    {"text": "The weaver ties a thread, throws the shuttle and ties again.", "title": "Weaver"},
]
EXTRA_TEXT = "The ferry leaves on the hour with the mail, the milk and whoever wants to cross the water."
FIRST_ROWS = [
    {"query_id": "lamp", "prompt": "The lamp turns once in", "completion": " ten seconds", "topic": "coast"},
    {"query_id": "baker", "prompt": "The baker rises at", "completion": " three"},
]
SECOND_ROWS = [{"prompt": "Ships follow", "completion": " the bell of the tower"}]


def lay_out(folder: Path, *, architecture: str = "gpt2", **sections: Mapping[str, Any]) -> Path:
    """Write the corpus, the queries, a model and the study into a folder; returns the study's path.

    `sections` are merged key by key into the study's, such as `curvature={"fisher": "empirical"}`.
    """
    write_jsonl(folder / "corpus" / COAST, COAST_ROWS)
    write_parquet(folder / "corpus" / TRADES, TRADES_ROWS)
    write_jsonl(folder / "queries" / FIRST, FIRST_ROWS)
    write_jsonl(folder / "queries" / SECOND, SECOND_ROWS)
    write_model(folder / "model", architecture=architecture)
    return write_study(folder, **sections)


def write_study(folder: Path, **sections: Any) -> Path:
    """Write `study.yaml` with these sections, and keys that are none, beside the defaults of these tests."""
    described: dict[str, Any] = {
        "name": NAME,
        "corpus": {"path": "corpus"},
        "model": {"path": "model", "dtype": "float64"},
        "queries": {"path": "queries"},
        "sequences": {"length": LENGTH},
        "methods": ["ekfac", "gradient_dot"],
        "scores": {"details_per_query": 2},
        "sketches": {"coordinates": 64},
        "compute": {"device": "cpu"},
        "automation": {"enabled": False, "interval_seconds": 1},
    }
    for section, keys in sections.items():
        described[section] = {**described.get(section, {}), **keys} if isinstance(keys, Mapping) else keys
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(described), encoding="utf-8")
    return path


def copied(study: Path, folder: Path) -> Path:
    """A copy of a laid-out study with all that was computed, to be changed at will.

    The model stays the one of the original: its artifact names that folder.
    """
    shutil.copytree(study.parent, folder, dirs_exist_ok=True)
    return folder / study.name


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(list(rows)).write_parquet(path)


def write_extra(study: Path) -> None:
    """One file more: a shard of its own."""
    (study.parent / "corpus" / EXTRA).write_bytes(gzip.compress(EXTRA_TEXT.encode()))


def tokenizer(vocabulary: int = 290, special: str = END) -> Tokenizer:
    """A byte-level BPE tokenizer of the corpus."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[special], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([row["text"] for row in COAST_ROWS + TRADES_ROWS], trainer)
    return made


def network(architecture: str, *, vocabulary: int, seed: int = 0) -> PreTrainedModel:
    """A model with weights large enough that every layer matters."""
    torch.manual_seed(seed)
    ends = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3}
    if architecture == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**ends, n_positions=CONTEXT, n_embd=8, n_layer=2, n_head=2))
    sizes = {**ends, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=CONTEXT, num_key_value_heads=1))
    if architecture == "mixtral":
        return mixtral(sizes)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, max_position_embeddings=CONTEXT))


def mixtral(sizes: Mapping[str, Any]) -> PreTrainedModel:
    """Five experts of which each token goes through two, and the last is never reached.

    Whatever a token's state is, two of the first four rows of the router have a positive product with it.
    """
    config = MixtralConfig(
        **sizes, max_position_embeddings=CONTEXT, num_key_value_heads=1, num_local_experts=5, num_experts_per_tok=2
    )
    model = MixtralForCausalLM(config)
    with torch.no_grad():
        for block in model.model.layers:
            W = block.mlp.gate.weight
            W.copy_(torch.stack([W[0], -W[0], W[1], -W[1], 0 * W[0]]))
    return model


def write_model(folder: Path, *, architecture: str = "gpt2", seed: int = 0) -> None:
    """A Hugging Face folder: config.json, model.safetensors and a fast tokenizer."""
    made = tokenizer()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=END, eos_token=END, unk_token=END)
    fast.save_pretrained(folder)
    network(architecture, vocabulary=made.get_vocab_size(), seed=seed).save_pretrained(folder)


def versions_of(study: Path, choice: Choice = "newest", *, fit_another: bool = False) -> Versions:
    """A fresh look at a study."""
    return Versions(open_workspace(Study.load(study)), choice, fit_another=fit_another)


def compute(
    study: Path,
    *,
    new_generation: bool = False,
    until: str | None = None,
    requested: Mapping[str, Collection[Partition]] | None = None,
) -> list[str]:
    """Bring everything up to date as the command does, and return what was computed, in order, as `asset[partition]`.

    What a partition fails with is raised.

    Args:
        study: the study file.
        new_generation: fit another generation.
        until: the last step to be computed, instead of all: the run ends as if it had been killed after it.
        requested: partitions of what is computed on request only.
    """
    result = Result()
    versions = Versions(open_workspace(Study.load(study), requested), "published")
    events = bring_up_to_date(versions, _Until(until), result, run_id="test", new_generation=new_generation)
    with contextlib.closing(events), contextlib.suppress(_EnoughError):
        for event in events:
            if isinstance(event, Failure):
                raise event.error
    return [label(*done) for done in result.computed]


class _EnoughError(BaseException):
    """In the place of the signal that would end the process."""


class _Until:
    """A watcher that ends a run before the first step that comes after one."""

    def __init__(self, last: str | None) -> None:
        names = [step.name for step in asset_graph()]
        self._wanted = set(names if last is None else names[: names.index(last) + 1])

    def begins(self, step: AssetDefinition, _partition: Partition, _outstanding: int) -> None:
        if step.name not in self._wanted:
            raise _EnoughError

    def progress(self, step: AssetDefinition, partition: Partition, done: int, total: int | None) -> None:
        pass

    def turns_to(self, member: int) -> None:
        pass


def label(step: AssetDefinition, partition: Partition) -> str:
    """`asset`, or `asset[partition]`."""
    return f"{step.name}[{partition.key}]" if partition.key else step.name


def is_due(asset: AssetDefinition) -> bool:
    """Whether runs compute an asset, given the methods that these studies list."""
    return not asset.on_request or asset.name in SCORES


def shown() -> list[AssetDefinition]:
    """The assets that Dagster has of these studies."""
    return [asset for asset in asset_graph() if not asset.only_by_settings or is_due(asset)]


def everything(
    shards: Iterable[str] = SHARDS, query_sets: Iterable[str] = QUERY_SETS, *, but: Iterable[str] = ()
) -> set[str]:
    """All partitions of all steps, except those of the steps named."""
    shards, query_sets = list(shards), list(query_sets)
    named = set()
    for step in asset_graph():
        if step.name in set(but) or not is_due(step):
            continue
        if step.partitioned_by == "none":
            named.add(step.name)
        elif step.partitioned_by == "pair":
            named |= {f"{step.name}[{q}|{s}]" for q in query_sets for s in shards}
        else:
            named |= {f"{step.name}[{key}]" for key in (shards if step.partitioned_by == "shard" else query_sets)}
    return named


def of_shard(shard: str, query_sets: Iterable[str] = QUERY_SETS) -> set[str]:
    """What a new or changed shard costs once a generation stands."""
    steps = ("documents", "token_sequences", "drift_statistics", "gradient_sketches")
    by_shard = {f"{step}[{shard}]" for step in steps}
    scores = {f"{step}[{query_set}|{shard}]" for step in SCORES for query_set in query_sets}
    return by_shard | scores | ROLLED_UP


def data_versions(study: Path) -> dict[str, str]:
    """The data version that the study asks for of every partition whose inputs stand."""
    versions = versions_of(study)
    keys = {label(s, p): versions.key(s, p) for s in asset_graph() for p in versions.partitions(s)}
    return {name: key.data_version for name, key in keys.items() if key is not None}


def artifact(study: Path, step: str, **partition: str) -> Artifact:
    """What stands of a partition."""
    versions = versions_of(study)
    key = versions.key(next(s for s in asset_graph() if s.name == step), Partition(**partition))
    assert key is not None
    return versions.workspace.store.open(key)


def ask_sql(study: Path, sql: str, parameters: Any = None) -> pl.DataFrame:
    """The catalogue's answer."""
    return query(open_workspace(Study.load(study)).catalogue, sql, parameters)


def scores(study: Path) -> dict[tuple[str, int], float]:
    """Every score of the current generation, by query_id and sequence_id."""
    rows = ask_sql(study, "select query_id, sequence_id, influence_nats from current_scores")
    return {(query_id, sequence): value for query_id, sequence, value in rows.iter_rows()}


def sequences_of(study: Path, shard: str) -> set[int]:
    """The published sequences of a shard."""
    found = ask_sql(study, "select sequence_id from sequences where shard_id = $1", [shard])
    return set(found["sequence_id"])


def assert_no_stale_row(study: Path) -> None:
    """The catalogue holds what a catalogue made from nothing would hold, row for row."""
    standing, rebuilt = catalogue_rows(study), versions_of(study)
    assert {"documents", "influence_scores", "materializations", "tombstones"} <= standing.keys()
    path = rebuilt.workspace.catalogue
    path.rename(path.with_suffix(".aside"))
    rebuild_catalogue(rebuilt)
    for table, rows in catalogue_rows(study).items():
        assert rows == standing[table], table
    path.with_suffix(".aside").replace(path)


def catalogue_rows(study: Path) -> dict[str, list[str]]:
    """Every row of what the catalogue holds, by table; not what it says of its own file."""
    tables = ask_sql(study, "select table_name from duckdb_tables() where table_name <> 'catalogue'")["table_name"]
    return {table: sorted(map(repr, ask_sql(study, f"select * from {table}").rows())) for table in tables}


def rewrite(
    study: Path,
    step: str,
    *,
    arrays: Mapping[str, Any] | None = None,
    tables: Mapping[str, pl.DataFrame] | None = None,
    **partition: str,
) -> Artifact:
    """Put other contents under the version of a standing partition, as code with a mistake would have written them.

    Arrays and tables that are not given stay as they were.
    """
    good = artifact(study, step, **partition)
    contents = {name: good.array(name) for name in good.array_names()} | dict(arrays or {})
    frames = {name: good.table(name).collect() for name in good.manifest.rows} | dict(tables or {})
    shutil.rmtree(good.folder)
    store = versions_of(study).workspace.store
    with store.write(good.key, inputs=good.manifest.inputs, code_version=good.manifest.code_version) as draft:
        for name, values in contents.items():
            draft.array(name, values)
        for name, frame in frames.items():
            draft.table(name, frame)
        draft.summarise(**good.manifest.summary)
    return store.open(good.key)


def tokenizer_of(language_model: Artifact) -> Tokenizer:
    """The tokenizer that a model's artifact holds."""
    return Tokenizer.from_file(str(language_model.path("tokenizer") / "tokenizer.json"))
