"""Many shards, or few: what planning, running, adding one and loading cost.

    python benchmarks/many_shards.py --shards 2000 --query-sets 5
    python benchmarks/many_shards.py --shards 50 --query-sets 1 --layers 3 --width 128 --length 128 --words 3000

By default a transformer of a few thousand parameters and three short documents a shard: what is left is the pipeline's
own cost. Prints one JSON object a stage, with CPU seconds of this process and wall seconds. Of "one more shard" the
share is that of one shard in the first run, without process start and imports.
"""

import argparse
import json
import random
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from influence_assets.assets import asset_graph, open_workspace
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.partitions import Partition
from influence_assets.engine.plan import plan
from influence_assets.engine.versions import Versions
from influence_assets.orchestration.bring_up import execute
from influence_assets.orchestration.instance import open_instance
from influence_assets.orchestration.session import Session
from influence_assets.study import Study

WORDS = [
    "lamp",
    "tower",
    "fog",
    "bell",
    "gull",
    "ship",
    "keeper",
    "water",
    "baker",
    "smith",
    "weaver",
    "thread",
    "iron",
    "dough",
    "ferry",
    "mail",
]
STUDY = """\
name: many
corpus: {path: corpus}
model: {path: model}
queries: {path: queries}
sequences: {length: LENGTH}
scores: {details_per_query: 5}
sketches: {coordinates: COORDINATES}
compute: {device: cpu}
"""


class Silent:
    """Nobody watches."""

    def begins(self, step: AssetDefinition, partition: Partition, outstanding: int) -> None:
        """A partition is about to be computed."""

    def progress(self, step: AssetDefinition, partition: Partition, done: int, total: int | None) -> None:
        """So much of it is done."""


def lay_out(folder: Path, asked: argparse.Namespace) -> Path:
    """A model, a corpus and questions; returns the study's path."""
    drawn = random.Random(0)
    for number in range(asked.shards):
        write_shard(folder, number, drawn, asked.words)
    (folder / "queries").mkdir()
    for number in range(asked.query_sets):
        row = {"prompt": sentence(drawn, 4), "completion": " " + sentence(drawn, 2)}
        (folder / "queries" / f"set{number}.jsonl").write_text(json.dumps(row) + "\n")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    ends = {"bos_token": "<end>", "eos_token": "<end>", "unk_token": "<end>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends).save_pretrained(folder / "model")
    torch.manual_seed(0)
    sizes = {"n_positions": max(32, asked.length), "n_embd": asked.width, "n_layer": asked.layers, "n_head": 2}
    sizes |= {"vocab_size": tokenizer.get_vocab_size()}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).save_pretrained(folder / "model")
    study = folder / "study.yaml"
    coordinates = str(min(131_072, 8 * asked.width**2))
    study.write_text(STUDY.replace("LENGTH", str(asked.length)).replace("COORDINATES", coordinates))
    return study


def write_shard(folder: Path, number: int, drawn: random.Random, words: int) -> None:
    """One file with three documents."""
    place = folder / "corpus" / f"part{number // 100:03d}"
    place.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"text": sentence(drawn, words // 3), "title": f"{number}.{row}"}) for row in range(3)]
    (place / f"shard{number:05d}.jsonl").write_text("\n".join(rows) + "\n")


def sentence(drawn: random.Random, words: int) -> str:
    """Words one after the other."""
    return " ".join(drawn.choice(WORDS) for _ in range(words))


@contextmanager
def measured(stage: str, **said: object) -> Iterator[dict[str, Any]]:
    """Print what a stage took."""
    found: dict[str, Any] = {"stage": stage, **said}
    cpu, wall = time.process_time(), time.monotonic()
    yield found
    found |= {"cpu_seconds": round(time.process_time() - cpu, 2), "wall_seconds": round(time.monotonic() - wall, 2)}
    print(json.dumps(found), flush=True)


def run(study: Study) -> Session:
    """What the command does, in this process."""
    session = Session(study, Silent())
    with open_instance(study) as instance:
        execute(study, instance, session, new_generation=False)
    assert not session.result.failures, session.result.failures[0].error
    assert not session.checks_failed, session.checks_failed
    return session


def run_once(folder: Path, asked: argparse.Namespace) -> None:
    """A small study of the same model, so that what is measured afterwards is work."""
    small = argparse.Namespace(**vars(asked) | {"shards": 2, "query_sets": 1})
    folder.mkdir()
    run(Study.load(lay_out(folder, small)))


def catalogue_load(study: Study) -> dict[str, object]:
    """What the last load changed, from its manifest."""
    manifests = open_workspace(study).store.manifests("influence_catalogue")
    last = max(manifests, key=lambda manifest: manifest.started_at)
    summary = last.summary
    return {
        "load_seconds": round(last.seconds, 2),
        "loaded_artifacts": summary["loaded_artifacts"],
        "catalogue_bytes": summary["catalogue_bytes"],
    }


def bytes_by_asset(study: Study) -> dict[str, int]:
    """The bytes that the store holds of each asset."""
    store = open_workspace(study).store
    held = {asset.name: sum(manifest.bytes for manifest in store.manifests(asset.name)) for asset in asset_graph()}
    return {asset: held_bytes for asset, held_bytes in held.items() if held_bytes}


def main() -> None:
    """Measure everything once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=2000)
    parser.add_argument("--query-sets", type=int, default=5)
    parser.add_argument("--words", type=int, default=36, help="in a shard")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--bytes-only", action="store_true", help="end after the first run")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="many-shards-"))
    folder.mkdir(parents=True, exist_ok=True)
    study = Study.load(lay_out(folder, asked))
    with measured("plan, nothing computed", shards=asked.shards, query_sets=asked.query_sets) as found:
        found["outstanding"] = sum(len(state.outstanding) for state in plan(Versions(open_workspace(study))))
    run_once(folder / "warm", asked)  # imports, and what libraries do once
    with measured("first run") as first:
        first["computed"] = len(run(study).result.computed)
    print(json.dumps(catalogue_load(study) | {"bytes": bytes_by_asset(study)}), flush=True)
    if asked.bytes_only:
        return
    with measured("plan, everything stands") as found:
        found["outstanding"] = sum(len(state.outstanding) for state in plan(Versions(open_workspace(study))))
    with measured("second run") as found:
        found["computed"] = len(run(study).result.computed)
    write_shard(folder, asked.shards, random.Random(1), asked.words)
    with measured("one more shard") as found:
        found["computed"] = len(run(study).result.computed)
    ratio = float(found["cpu_seconds"]) / (float(first["cpu_seconds"]) / asked.shards)
    print(json.dumps({"one more shard, times its share of the first run": round(ratio, 2)} | catalogue_load(study)))
    (folder / "corpus" / "part000" / "shard00000.jsonl").unlink()
    with measured("one shard gone") as found:
        found["computed"] = len(run(study).result.computed)
    print(json.dumps(catalogue_load(study)))


if __name__ == "__main__":
    main()
