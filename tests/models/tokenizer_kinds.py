"""Small tokenizers of the kinds that models bring, and folders of them as transformers saves them."""

import json
from collections.abc import Callable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "The while statement is used for repeated execution as long as an expression is true.",
    "In 1969, 2024 and 2025 there were 12345 of 678901234 lighthouses; 3.14159 is π.",
    "Größe, naïve café, 日本語, Жизнь and a smile 😀 too; the the the while while while.",
    "def while_loop(x):\n    return x  # 100\n\n\n",
]
ALPHABET = pre_tokenizers.ByteLevel.alphabet()


def _byte_level(*before: pre_tokenizers.PreTokenizer, end: str = "<|endoftext|>") -> Tokenizer:
    """Byte-level BPE whose text is split by `before`, and by GPT-2's expression only if there is nothing before."""
    tokenizer = Tokenizer(models.BPE())
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not before)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, own]) if before else own
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=[end], initial_alphabet=ALPHABET, show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def _sentencepiece_bpe() -> Tokenizer:
    """Llama 2's file: a normalizer that marks each word and the text's beginning, and no pre-tokenizer."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def _metaspace_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


def _word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    tokenizer.train_from_iterator(LINES, trainers.WordLevelTrainer(special_tokens=["[UNK]", "[EOS]"]))
    return tokenizer


def _word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        LINES, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def dna(*, unknown: bool) -> Tokenizer:
    """A tokenizer of bases, with a template around each text; without an unknown token it fails on other letters."""
    words = {"<s>": 0, "</s>": 1, "A": 2, "C": 3, "G": 4, "T": 5, **({"N": 6} if unknown else {})}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="N"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


def dna_bpe() -> Tokenizer:
    """Another that leaves out every letter that is not a base."""
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=40, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(["ACGTTGCAACGTACCGT", "GATTACA" * 3], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": _byte_level,
    "numbers_in_threes": lambda: _byte_level(
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}|[^\s\p{N}]+|\s+"), "isolated"), end="<|im_end|>"
    ),
    "single_digits": lambda: _byte_level(pre_tokenizers.Digits(individual_digits=True)),
    "whitespace_apart": lambda: _byte_level(pre_tokenizers.Split(Regex(r"\s"), "isolated")),
    "punctuation_apart": lambda: _byte_level(
        pre_tokenizers.Punctuation(), pre_tokenizers.Split(" ", "merged_with_next")
    ),
    "sentencepiece_bpe": _sentencepiece_bpe,
    "metaspace_bpe": _metaspace_bpe,
    "unigram": _unigram,
    "word_level": _word_level,
    "word_piece": _word_piece,
    "dna": lambda: dna(unknown=True),
    "dna_without_unknown": lambda: dna(unknown=False),
    "dna_bpe": dna_bpe,
}

ENDS = ("<|endoftext|>", "<|im_end|>", "</s>", "[EOS]", "[SEP]")


def end_of(tokenizer: Tokenizer) -> str:
    """The first of the usual end-of-text tokens that a tokenizer has."""
    return next(end for end in ENDS if tokenizer.token_to_id(end) is not None)


def saved(folder: Path, tokenizer: Tokenizer, tokenizer_class: str = "PreTrainedTokenizerFast", **settings) -> Path:
    """Save a tokenizer as transformers does, with the name of a class in its settings."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end_of(tokenizer))
    fast.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    described = json.loads(path.read_text()) | {"tokenizer_class": tokenizer_class} | settings
    path.write_text(json.dumps(described))
    return folder
