"""The model and the tokens that all subjects share: a GPT-2 trained for a few steps on text-like tokens."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.cases import QUERIES as PER_SET
from benchmarks.cases import Size
from influence_assets.capture.batches import Sequences

TRAIN, QUERIES, SECOND_QUERIES = "train", "queries", "second_queries"
SUCCESSORS = 8
TOPICS = 16


def build(folder: Path, size: Size, device: str, corpus: Path | None = None, model: Path | None = None) -> None:
    """Write `model/` and the tokens of each set; with `model`, a folder with a model takes the place of the own."""
    folder.mkdir(parents=True)
    most = max(size.sequences, size.second_sequences, size.many_query_sequences)
    asked = size.most_queries
    counts = {
        TRAIN: (most, size.tokens),
        QUERIES: (asked, size.query_tokens),
        SECOND_QUERIES: (PER_SET, size.query_tokens),
    }
    if corpus is None:
        text = {
            name: markov_tokens(size.vocabulary, *shape, seed=row) for row, (name, shape) in enumerate(counts.items())
        }
    else:
        text = corpus_tokens(corpus, size.vocabulary, counts)
    np.savez(folder / "tokens.npz", **text)
    if model is None:
        trained(size, text[TRAIN], device).save_pretrained(folder / "model")
    else:
        (folder / "model").symlink_to(model.resolve())


def read(folder: Path, name: str, count: int) -> Sequences:
    """The first sequences of a set; of queries the second half is scored."""
    tokens = np.load(folder / "tokens.npz")[name][:count]
    lengths = np.full(len(tokens), tokens.shape[1], np.int32)
    first = None if name == TRAIN else np.full(len(tokens), tokens.shape[1] // 2, np.int32)
    return Sequences(tokens, lengths, np.arange(len(tokens), dtype=np.int64), first)


def markov_tokens(vocabulary: int, sequences: int, length: int, *, seed: int) -> np.ndarray:
    """Tokens with a Zipf distribution that differs by topic and, in half of the places, a likely successor."""
    language = np.random.default_rng(1234)  # the same for every set
    successors = language.integers(0, vocabulary, (vocabulary, SUCCESSORS))
    ranks = 1 / np.arange(1, vocabulary + 1)
    cumulative = np.cumsum(ranks / ranks.sum())
    shifts = language.integers(0, vocabulary, TOPICS)
    drawn = np.random.default_rng(seed)
    topic = shifts[drawn.integers(0, TOPICS, sequences)]
    tokens = np.empty((sequences, length), np.int32)
    for position in range(length):
        word = np.searchsorted(cumulative, drawn.random(sequences))
        # The commonest words are everyone's, the rarer ones the topic's.
        word = np.where(word < vocabulary // 50, word, (word + topic) % vocabulary)
        if position:
            follows = successors[tokens[:, position - 1], drawn.integers(0, SUCCESSORS, sequences)]
            word = np.where(drawn.random(sequences) < 0.5, follows, word)
        tokens[:, position] = np.minimum(word, vocabulary - 1)
    return tokens


def corpus_tokens(corpus: Path, vocabulary: int, counts: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Tokens of all text files of a folder, with a byte-level BPE trained on them."""
    files = sorted(str(path) for path in corpus.rglob("*") if path.is_file())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train(files, trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False))
    text = "\n".join(Path(file).read_text(errors="replace") for file in files)
    ids = np.array(tokenizer.encode(text).ids, np.int32)
    needed = sum(count * length for count, length in counts.values())
    if len(ids) < needed:
        raise SystemExit(f"{corpus} has {len(ids)} tokens, {needed} are needed")
    cut, start = {}, 0
    for name, (count, length) in counts.items():
        cut[name] = ids[start : start + count * length].reshape(count, length)
        start += count * length
    return cut


def trained(size: Size, tokens: np.ndarray, device: str) -> GPT2LMHeadModel:
    """A GPT-2 of the size, after a few steps of AdamW."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=size.vocabulary, n_positions=size.tokens, n_embd=size.width, n_layer=size.layers,
        n_head=size.heads, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).to(device)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows = torch.from_numpy(tokens.astype(np.int64))
    for step in range(size.training_steps):
        batch = rows[torch.arange(step * size.batch, (step + 1) * size.batch) % len(rows)].to(device)
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.cpu()  # type: ignore[no-any-return]
