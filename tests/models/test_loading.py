import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from influence_assets.errors import InputError
from influence_assets.models.devices import resolve_device
from influence_assets.models.dimensions import context_length
from influence_assets.models.freed_memory import keep_freed_memory
from influence_assets.models.loading import load_model
from influence_assets.models.tokenizers import export_tokenizer

VOCABULARY = 320
SIZES = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
LLAMA = {
    **SIZES,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 24,
}
NEOX = {
    **SIZES,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
}


def gpt2():
    return GPT2LMHeadModel(GPT2Config(**SIZES, n_positions=24, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.5))


def llama(*, tied):
    return LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=tied))


def neox():
    return GPTNeoXForCausalLM(GPTNeoXConfig(**NEOX, hidden_dropout=0.5, attention_dropout=0.5))


ARCHITECTURES = {
    "gpt2": gpt2,
    "llama": lambda: llama(tied=False),
    "llama_tied": lambda: llama(tied=True),
    "gpt_neox": neox,
}


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    torch.manual_seed(0)
    return ARCHITECTURES[request.param]().eval()


def tokens():
    return torch.arange(22).reshape(2, 11) * 7 % VOCABULARY


def assert_logits(model, expected):
    """To the rounding of the dtype: activations are fused, and sums are taken in another order."""
    rounding = 8 * torch.finfo(expected.dtype).eps * float(expected.detach().abs().max())
    torch.testing.assert_close(model(input_ids=tokens()).logits, expected, rtol=0, atol=rounding)


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float64", torch.float64)],
)
def test_loaded_model_computes_what_was_saved(model, tmp_path, dtype, torch_dtype):
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype=dtype, device="cpu")
    expected = model.to(torch_dtype)(input_ids=tokens()).logits
    assert_logits(loaded, expected)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch_dtype}


def test_sharded_weights_are_the_same_model(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="6KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = load_model(tmp_path, dtype="float32", device="cpu")
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    # Kernels round by where in memory weights lie, and those of files lie elsewhere than those that were made.
    assert_logits(loaded, model(input_ids=tokens()).logits)


def test_loaded_model_is_frozen_and_certain(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype="float32", device="cpu")
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training
    assert loaded.config._attn_implementation == "sdpa"
    assert loaded(input_ids=tokens()).past_key_values is None
    before = loaded(input_ids=tokens()).logits
    for module in loaded.modules():
        if isinstance(module, torch.nn.Dropout):
            module.train()
    assert_logits(loaded, before)


def _rewrite(folder, change):
    """Change one tensor of a saved model by hand."""
    file, name = next(
        (file, name)
        for file in sorted(folder.glob("*.safetensors"))
        for name in sorted(load_file(file))
        if "mlp" in name and name.endswith("weight")
    )
    tensors = load_file(file)
    change(tensors, name)
    save_file(tensors, file, metadata={"format": "pt"})
    return file, name


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weight_that_is_not_finite_is_named(model, tmp_path, bad):
    model.save_pretrained(tmp_path, max_shard_size="6KB")
    file, name = _rewrite(tmp_path, lambda tensors, name: tensors[name][0, 1].fill_(bad))
    with pytest.raises(InputError) as raised:
        load_model(tmp_path, dtype="float32", device="cpu")
    assert raised.value.where == str(file)
    assert name in raised.value.problem


def test_missing_weight_is_never_made_up(model, tmp_path):
    model.save_pretrained(tmp_path)
    _, name = _rewrite(tmp_path, lambda tensors, name: tensors.pop(name))
    with pytest.raises(InputError, match=f"{name} is missing"):
        load_model(tmp_path, dtype="float32", device="cpu")


def test_weight_of_another_shape_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    _, name = _rewrite(tmp_path, lambda tensors, name: tensors.update({name: torch.zeros(3, 5)}))
    with pytest.raises(InputError, match=rf"{name} is \[3, 5\] where config.json makes it"):
        load_model(tmp_path, dtype="float32", device="cpu")


def test_config_with_more_layers_than_weights_is_refused(tmp_path):
    gpt2().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_layer": 3}))
    with pytest.raises(InputError, match=r"h\.2\..* is missing.*and 7 more"):
        load_model(tmp_path, dtype="float32", device="cpu")


def test_too_large_for_the_dtype_is_refused(tmp_path):
    model = gpt2().double()
    model.transformer.wpe.weight.data[0, 0] = 1e300
    model.save_pretrained(tmp_path)
    load_model(tmp_path, dtype="float64", device="cpu")
    with pytest.raises(InputError, match=r"wpe\.weight is not finite in torch\.float32"):
        load_model(tmp_path, dtype="float32", device="cpu")


def test_damaged_file_is_refused(tmp_path):
    gpt2().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(tmp_path, dtype="float32", device="cpu")


def test_pickled_weights_are_not_read(tmp_path):
    gpt2().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no \*\.safetensors"):
        load_model(tmp_path, dtype="float32", device="cpu")


def test_code_beside_the_weights_does_not_run(tmp_path):
    gpt2().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine", "AutoModelForCausalLM": "code.Mine"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(tmp_path, dtype="float32", device="cpu")
    assert not (tmp_path / "ran").exists()


def test_context_length(model):
    assert context_length(model.config) == 24


def test_unknown_context_length_is_refused():
    with pytest.raises(InputError, match="max_position_embeddings"):
        context_length(PretrainedConfig())


def test_resolve_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(InputError, match=r"compute\.device: there is no cuda here\. Give auto or one of: cpu"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == "cuda"
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(InputError, match=r"compute\.device: there is no cuda:2 here"):
        resolve_device("cuda:2")


def test_keeping_freed_memory_needs_glibc(monkeypatch):
    asked = []

    class Libc:
        @staticmethod
        def mallopt(parameter, value):
            asked.append((parameter, value))

    monkeypatch.setattr("influence_assets.models.freed_memory.ctypes.CDLL", lambda _: Libc)
    monkeypatch.setattr("influence_assets.models.freed_memory.platform.libc_ver", lambda: ("", ""))
    keep_freed_memory()
    assert asked == []
    monkeypatch.setattr("influence_assets.models.freed_memory.platform.libc_ver", lambda: ("glibc", "2.36"))
    keep_freed_memory()
    assert dict(asked) == {-3: 2**25, -1: 2**29}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h


def byte_level(special_tokens, vocabulary=300):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["to be or not to be, that is the question"] * 9, trainer)
    return tokenizer


@pytest.fixture
def llama_like_tokenizer():
    """With a template of its own: <s> before every text, </s> known but not appended."""
    tokenizer = byte_level(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def test_exported_gpt2_like_tokenizer(tmp_path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(["<|endoftext|>"]), eos_token="<|endoftext|>")
    tokenizer.save_pretrained(tmp_path / "model")
    gpt2().save_pretrained(tmp_path / "model")
    export_tokenizer(tmp_path / "model", tmp_path / "out", embedding_rows=VOCABULARY)
    surroundings = json.loads((tmp_path / "out" / "tokens.json").read_text())
    assert surroundings == {"separator_id": 0, "prefix_ids": [], "vocabulary": VOCABULARY}
    exported = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    text = "To be: «être» \n not to be"
    assert exported.encode(text).ids == tokenizer(text)["input_ids"]
    assert exported.decode(exported.encode(text).ids) == text


def test_exported_prefix_is_the_tokenizers_own_template(tmp_path, llama_like_tokenizer):
    llama_like_tokenizer.save_pretrained(tmp_path / "model")
    export_tokenizer(tmp_path / "model", tmp_path / "out", embedding_rows=VOCABULARY)
    surroundings = json.loads((tmp_path / "out" / "tokens.json").read_text())
    assert surroundings == {"separator_id": 2, "prefix_ids": [1], "vocabulary": VOCABULARY}


def test_no_end_of_text_is_null(tmp_path):
    PreTrainedTokenizerFast(tokenizer_object=byte_level([])).save_pretrained(tmp_path / "model")
    export_tokenizer(tmp_path / "model", tmp_path / "out", embedding_rows=VOCABULARY)
    assert json.loads((tmp_path / "out" / "tokens.json").read_text())["separator_id"] is None


def test_exported_tokenizer_neither_truncates_nor_pads(tmp_path, llama_like_tokenizer):
    backend = llama_like_tokenizer.backend_tokenizer
    backend.enable_truncation(4)
    backend.enable_padding(length=16)
    llama_like_tokenizer.save_pretrained(tmp_path / "model")
    export_tokenizer(tmp_path / "model", tmp_path / "out", embedding_rows=VOCABULARY)
    exported = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert exported.decode(exported.encode("to be or not to be, that").ids) == "to be or not to be, that"
    assert len(exported.encode("a").ids) == 2


def test_tokenizer_of_another_model_is_refused(tmp_path, llama_like_tokenizer):
    llama_like_tokenizer.add_tokens(["<extra>"])
    largest = len(llama_like_tokenizer) - 1
    llama_like_tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=f"does not belong to the model: .* {largest}, .* {largest} rows"):
        export_tokenizer(tmp_path / "model", tmp_path / "out", embedding_rows=largest)
    assert not (tmp_path / "out").exists()
    export_tokenizer(tmp_path / "model", tmp_path / "out", embedding_rows=largest + 1)


@pytest.mark.parametrize("build", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_folder_without_tokenizer_is_refused(tmp_path, build):
    build().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no fast tokenizer"):
        export_tokenizer(tmp_path, tmp_path / "out", embedding_rows=VOCABULARY)


def test_damaged_tokenizer_is_refused(tmp_path, llama_like_tokenizer):
    llama_like_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(InputError, match="no fast tokenizer"):
        export_tokenizer(tmp_path, tmp_path / "out", embedding_rows=VOCABULARY)


def test_slow_tokenizer_is_refused(tmp_path, monkeypatch):
    class Slow:
        is_fast = False

    monkeypatch.setattr("influence_assets.models.tokenizers.AutoTokenizer.from_pretrained", lambda *_, **__: Slow())
    with pytest.raises(InputError, match="Slow has no fast version"):
        export_tokenizer(tmp_path, tmp_path / "out", embedding_rows=VOCABULARY)


@pytest.mark.parametrize("width", [24, 20, 13])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_models_with_experts_run_in_every_dtype(tmp_path, dtype, width):
    """Fused kernels of experts have no float64, and take only rows of whole 16 bytes."""
    sizes = {"num_local_experts": 4, "num_key_value_heads": 2, "intermediate_size": width}
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(**{**LLAMA, **sizes})).eval()
    model.set_experts_implementation("eager")
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype=dtype, device="cpu")
    expected = model(input_ids=tokens()).logits
    rounding = {"float32": 1e-5, "bfloat16": 0.05, "float64": 1e-5}[dtype] * float(expected.detach().abs().max())
    torch.testing.assert_close(loaded(input_ids=tokens()).logits.float(), expected, rtol=0, atol=rounding)
