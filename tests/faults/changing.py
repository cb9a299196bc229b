"""A corpus that is changed at will, and what the tables should say of it, derived without the package's reader."""

import gzip
import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests import studies
from tests.faults import working

SHARD_BYTES = 120
LENGTH = 32
FILES = ("one.jsonl", "two.jsonl", "more/three.jsonl.gz", "four.jsonl")
QUERIES = [{"query_id": "lamp", "prompt": "The lamp turns once in", "completion": " ten seconds"}]
METHODS = ["ekfac", "gradient_dot", "conjugate_gradients", "repsim", "bm25"]
"""One of each kind: made of one layer after the other, of all training sequences, of each shard alone, and an index of
the whole corpus."""

WORDS = (
    "quolvex", "zibrant", "mouxter", "jakwind", "vepolth", "bryzono", "fugrexa", "xolmipt", "hydrawk", "kuvinge",
    "wapjort", "gnobzil", "psyferu", "ectovam", "yuzmark", "droquib", "tavixle", "lizgoph", "nubrekk", "sfwyxoa",
)  # fmt: skip
"""Each is in one document alone."""
ENDINGS = ("lights the lamp.", "rings the bell at noon.", "rests.", "ties a thread and ties it again.")
TEXTS = tuple(f"{word} {ENDINGS[number % len(ENDINGS)]}" for number, word in enumerate(WORDS))
IDS = tuple(hashlib.sha256(text.encode()).hexdigest()[:32] for text in TEXTS)


def lay_out(folder: Path) -> Path:
    """A study with a file or two, a question, and a model of one layer; returns the study's path."""
    studies.write_jsonl(folder / "queries" / "first.jsonl", QUERIES)
    made = studies.tokenizer()
    end = studies.END
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=end, eos_token=end, unk_token=end)
    fast.save_pretrained(folder / "model")
    network().save_pretrained(folder / "model")
    corpus = Corpus(folder / "corpus")
    corpus.write(FILES[0], [0, 1, 2, 3])
    corpus.write(FILES[1], [4, 5])
    return studies.write_study(
        folder,
        corpus={"shard_bytes": SHARD_BYTES},
        sequences={"length": LENGTH},
        methods=METHODS,
        method_options={"conjugate_gradients": {"iterations": 1, "sequences": 8}},
        scores={"details_per_query": 1},
        sketches={"coordinates": 16},
    )


def everything(shards: Iterable[str], query_sets: Iterable[str]) -> set[str]:
    """All partitions of the study."""
    shards, query_sets = list(shards), list(query_sets)
    of_methods = {f"{asset}[{shard}]" for asset in ("hidden_states", "term_counts") for shard in shards}
    of_methods |= {f"{a}[{q}]" for a in ("method_vectors", "query_states", "bm25_scores") for q in query_sets}
    of_methods |= {f"repsim_scores[{query_set}|{shard}]" for query_set in query_sets for shard in shards}
    return studies.everything(shards, query_sets) | of_methods


def network() -> GPT2LMHeadModel:
    """One layer, with weights large enough to matter."""
    import torch

    torch.manual_seed(0)
    sizes = {"n_positions": LENGTH, "n_embd": 8, "n_layer": 1, "n_head": 2}
    ends = {"vocab_size": 290, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(**sizes, **ends))


@dataclass
class Corpus:
    """The files that there are, as numbers of documents.

    Args:
        folder: of the corpus.
        files: what is in each.
        gone: what was in those that were removed.
        places: the shards that each document ever was in.
    """

    folder: Path
    files: dict[str, list[int]] = field(default_factory=dict)
    gone: dict[str, list[int]] = field(default_factory=dict)
    places: dict[int, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._note()

    def write(self, name: str, documents: list[int]) -> None:
        """A file with these documents, whatever was there."""
        content = file_of(documents)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        self.files[name] = list(documents)
        self.gone.pop(name, None)
        self._note()

    def _note(self) -> None:
        for shard, documents in self.shards().items():
            for document in documents:
                self.places.setdefault(document, set()).add(shard)

    def remove(self, name: str) -> None:
        """Take a file away."""
        (self.folder / name).unlink()
        self.gone[name] = self.files.pop(name)

    def shards(self) -> dict[str, list[int]]:
        """The documents of each slice: rows belong to the slice in whose bytes they begin."""
        found: dict[str, list[int]] = {}
        for name, documents in self.files.items():
            offset = 0
            for document in documents:
                index = offset // SHARD_BYTES
                found.setdefault(f"{name}@{index:05}" if index else name, []).append(document)
                offset += len(_row(document))
        return found


def file_of(documents: Iterable[int]) -> bytes:
    """A file that is not compressed, with these documents."""
    return b"".join(map(_row, documents))


def _row(document: int) -> bytes:
    return json.dumps({"text": TEXTS[document]}).encode() + b"\n"


class Ground:
    """One folder, begun anew for each sequence of edits: what is stored names the files that it was read from.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "study"
        self._kept = folder / "kept"

    @property
    def study(self) -> Path:
        """The study's file."""
        return self.folder / "study.yaml"

    @property
    def store(self) -> Path:
        """Where everything is stored."""
        return self.folder / "store"

    def begin(self, *, is_computed: bool = True) -> Corpus:
        """The study as it is once its first files are computed, or before."""
        if not self._kept.exists():
            ran = working.run(lay_out(self.folder))
            assert ran.computed
            assert not ran.failures
            shutil.copytree(self.folder, self._kept)
        shutil.rmtree(self.folder)
        shutil.copytree(self._kept, self.folder, ignore=None if is_computed else shutil.ignore_patterns("store"))
        return Corpus(self.folder / "corpus", {FILES[0]: [0, 1, 2, 3], FILES[1]: [4, 5]})
