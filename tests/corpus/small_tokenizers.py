"""Small tokenizers of the kinds that models bring."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from influence_assets.corpus.tokenization import Tokenization

LINES = [
    "The while statement is used for repeated execution as long as an expression is true.",
    "Größe, naïve café, 日本語 and a smile 😀 too; the the the while while while.",
    "def while_loop(x):\n    return x\n\n\n",
]
END = "<|endoftext|>"


def byte_level(vocabulary: int = 320) -> Tokenizer:
    """GPT-2's kind: byte-level BPE, offsets trimmed by its post-processor, nothing put before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Llama's kind: BPE over ▁-marked words, bytes for unknown characters, a template that puts <s> first."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False)
    tokenizer.train_from_iterator(LINES[:1], trainer)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def gpt2_like() -> Tokenization:
    tokenizer = byte_level()
    return Tokenization.of(tokenizer, tokenizer.token_to_id(END), tokenizer.get_vocab_size())


def llama_like() -> Tokenization:
    tokenizer = byte_fallback()
    return Tokenization.of(tokenizer, tokenizer.token_to_id("</s>"), tokenizer.get_vocab_size())


def chat_like(special_tokens: str = "text") -> Tokenization:
    """A byte-level tokenizer with the special tokens of a chat template; <|im_end|> ends a text."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    end = tokenizer.token_to_id("<|im_end|>")
    return Tokenization(tokenizer, end, (), tokenizer.get_vocab_size(), special_tokens)
