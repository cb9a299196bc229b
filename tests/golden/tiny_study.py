"""A study of a few kilobytes, the same on every machine: nothing in it is trained, drawn by torch or fetched.

The model is a GPT-2 of two narrow blocks whose weights come from NumPy's own generator, and whose tokenizer is written
out by hand, because what training gives differs from one processor to the next. The corpus has a long file that is cut
into slices, a table, a plain text, the same document twice, and letters beyond ASCII.
"""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from safetensors.numpy import save_file

NAME = "golden"
LENGTH, CONTEXT = 24, 32
WIDTH, HEADS, BLOCKS, INNER = 4, 2, 2, 16
END = "<|endoftext|>"
SHARD_BYTES = 320

COAST, TRADES, NOTE, FERRY = "letters/coast.jsonl", "trades.parquet", "note.txt", "ferry.txt.gz"
FIRST, SECOND = "first.jsonl", "second.jsonl"
WITHDRAWN_TITLE = "Lamp"
"""A document of a shard that holds others too."""

_COAST = [
    {"text": "The keeper climbs the tower every evening and lights the lamp.", "title": "Tower", "page": 1},
    {"text": "The lamp turns once in ten seconds, and ships count them.", "title": WITHDRAWN_TITLE, "page": 2},
    {"text": "Fog lies on the water; the bell of the tower rings.", "title": "Fog", "source": "almanac"},
    {"text": "Gulls follow the ships: größer, naïver, lauter 🌊 als je.", "title": "Gulls", "licence": "CC0-1.0"},
    {"text": "The mail comes by boat when the tide is high enough.", "title": "Mail", "author": "Anna"},
    {"text": "Fog lies on the water; the bell of the tower rings.", "title": "Fog again"},
    {"text": "A net dries on the wall, and the cat sleeps under it.", "title": "Net", "date": "1911-05-02"},
]
_TRADES = [
    {"text": "The baker rises at three, and the dough rests under a cloth.", "title": "Baker"},
    {"text": "The smith heats the iron until it glows, then strikes it.", "title": "Smith"},
    {"text": "The weaver ties a thread, throws the shuttle and ties again.", "title": "Weaver"},
]
_NOTE = "The harbour master writes down every ship, its flag and what it carries."
_FERRY = "The ferry leaves on the hour with the mail, the milk and whoever wants to cross the water."
_FIRST = [
    {"query_id": "lamp", "prompt": "The lamp turns once in", "completion": " ten", "topic": "coast"},
    {"query_id": "baker", "prompt": "The baker rises at", "completion": " three"},
]
_SECOND = [{"prompt": "The ships follow", "completion": " the bell"}]

_MERGES = (
    "t h", "th e", "Ġ the", "e r", "i n", "Ġ t", "i s", "o n", "Ġ a", "a n", "an d", "Ġ and", "r e", "s h",
    "sh i", "shi p", "Ġ ship", "e n", "Ġ w", "er e", "Ġt o", "l l", "T h", "Th e", "o w", "a t", "Ġ l", "Ġl a",
)  # fmt: skip
"""Of the byte-level pieces, in the order in which they are tried."""


def lay_out(folder: Path, **sections: Any) -> Path:
    """Write the corpus, the queries, the model and the study into a folder, and return the study's path.

    Args:
        folder: a new or empty one.
        sections: merged key by key into the study's, such as `model={"dtype": "float32"}`; lists replace its own.
    """
    _write_jsonl(folder / "corpus" / COAST, _COAST)
    pl.DataFrame(_TRADES).write_parquet(folder / "corpus" / TRADES)
    (folder / "corpus" / NOTE).write_text(_NOTE, encoding="utf-8")
    _write_jsonl(folder / "queries" / FIRST, _FIRST)
    _write_jsonl(folder / "queries" / SECOND, _SECOND)
    write_model(folder / "model")
    return write_study(folder, **sections)


def write_study(folder: Path, **sections: Any) -> Path:
    """Write `study.yaml` alone; see `lay_out`."""
    described: dict[str, Any] = {
        "name": NAME,
        "corpus": {"path": "corpus", "shard_bytes": SHARD_BYTES},
        "model": {"path": "model", "dtype": "float64"},
        "queries": {"path": "queries"},
        "sequences": {"length": LENGTH},
        "methods": ["ekfac", "gradient_dot"],
        "scores": {"details_per_query": 2},
        "sketches": {"coordinates": 64},
        "compute": {"device": "cpu"},
        "automation": {"enabled": False},
    }
    for section, keys in sections.items():
        described[section] = {**described.get(section, {}), **keys} if isinstance(keys, Mapping) else keys
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
    return path


def add_a_file(folder: Path) -> None:
    """Put one more file into the corpus, which becomes a shard of its own."""
    (folder / "corpus" / FERRY).write_bytes(gzip.compress(_FERRY.encode(), mtime=0))


def write_model(folder: Path, *, seed: int = 0) -> None:
    """Write a Hugging Face folder: config.json, model.safetensors and a tokenizer, none of it by transformers."""
    folder.mkdir(parents=True)
    vocabulary = _vocabulary()
    ends = {"bos_token_id": vocabulary[END], "eos_token_id": vocabulary[END]}
    sizes = {"n_embd": WIDTH, "n_head": HEADS, "n_layer": BLOCKS, "n_inner": INNER, "n_positions": CONTEXT}
    dropped = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    kind = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new"}
    _write_json(folder / "config.json", {**kind, "vocab_size": len(vocabulary), **sizes, **dropped, **ends})
    save_file(_weights(len(vocabulary), seed), folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "tokenizer.json", _tokenizer(vocabulary))
    special = {"bos_token": END, "eos_token": END, "unk_token": END}
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})


def _weights(vocabulary: int, seed: int) -> dict[str, np.ndarray]:
    """Weights that are large enough for every layer to matter, in the names and layouts of GPT-2."""
    generator = np.random.default_rng(seed)

    def drawn(*shape: int, around: float = 0.0) -> np.ndarray:
        return np.asarray(around + 0.4 * generator.standard_normal(shape), np.float32)

    weights = {"wte.weight": drawn(vocabulary, WIDTH), "wpe.weight": drawn(CONTEXT, WIDTH)}
    for block in range(BLOCKS):
        products = {"attn.c_attn": (WIDTH, 3 * WIDTH), "attn.c_proj": (WIDTH, WIDTH)}
        products |= {"mlp.c_fc": (WIDTH, INNER), "mlp.c_proj": (INNER, WIDTH)}
        for name, (inputs, outputs) in products.items():
            weights[f"h.{block}.{name}.weight"] = drawn(inputs, outputs)
            weights[f"h.{block}.{name}.bias"] = drawn(outputs)
        for name in ("ln_1", "ln_2"):
            weights[f"h.{block}.{name}.weight"] = drawn(WIDTH, around=1.0)
            weights[f"h.{block}.{name}.bias"] = drawn(WIDTH)
    weights |= {"ln_f.weight": drawn(WIDTH, around=1.0), "ln_f.bias": drawn(WIDTH)}
    return {f"transformer.{name}": values for name, values in weights.items()}


def _vocabulary() -> dict[str, int]:
    """The end of text, one piece for each byte, and one for each merge."""
    pieces = [END, *_letters_of_bytes(), *(merge.replace(" ", "") for merge in _MERGES)]
    return {piece: number for number, piece in enumerate(pieces)}


def _letters_of_bytes() -> list[str]:
    """The printable letter that stands for each byte in a byte-level tokenizer, as GPT-2 has it."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _tokenizer(vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """The content of a tokenizer.json."""
    end = {"id": vocabulary[END], "content": END, "special": True}
    end |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    by_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": dict(vocabulary), "merges": [merge.split(" ") for merge in _MERGES]}
    nothing = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor"))
    parts = {"added_tokens": [end], "pre_tokenizer": by_bytes, "decoder": by_bytes, "model": model}
    return {"version": "1.0", **nothing, **parts}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
