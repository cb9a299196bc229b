"""LoRA adapters: against matrices that are multiplied by hand, and refused with reasons where they cannot be used."""

import json
import shutil

import pytest
import torch
from peft import IA3Config, PrefixTuningConfig, PromptTuningConfig, TaskType
from safetensors.torch import load_file, save_file

from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.rehearsal import rehearse
from influence_assets.capture.runner import Runner
from influence_assets.errors import InputError
from influence_assets.models import adapters as adapters_of_models
from influence_assets.models.adapters import Adaptation
from influence_assets.models.layers.selection import select_modules
from influence_assets.models.loading import load_model
from influence_assets.models.weights import model_hash, resolve_model_folders, weights_hash
from influence_assets.study import LanguageModel
from tests import adapters, cases
from tests.architectures.tiny import tiny
from tests.oracles import gradients as oracle

KINDS = ("llama", "gpt2")
"""Linear layers, and Conv1D, whose matrices are transposed."""
SCALE = 6 / adapters.RANK


def saved(kind, folder, config=None):
    """The folders of a base model and of an adapter that names it."""
    tiny(kind).float().save_pretrained(folder / "base")
    base = tiny(kind).float()
    base.name_or_path = base.config._name_or_path = str(folder / "base")
    return folder / "base", adapters.write(base, folder / "adapter", config)


def loaded(base, adapter, attribution, dtype="float64"):
    return load_model(base, dtype=dtype, device="cpu", adaptation=Adaptation(adapter, attribution))


def by_hand(base, adapter):
    """The base model with W + s · B A in the place of each adapted W, and the matrices A and B."""
    model = load_model(base, dtype="float64", device="cpu")
    tensors = load_file(adapter / "adapter_model.safetensors")
    pairs = {}
    for key in tensors:
        layer, found, _ = key.removeprefix("base_model.model.").partition(".lora_A.")
        if found:
            pairs[layer] = tuple(tensors[key.replace("lora_A", f"lora_{side}")].double() for side in "AB")
    for layer, (A, B) in pairs.items():
        weight = model.get_submodule(layer).weight
        added = SCALE * B @ A
        weight.data += added if type(model.get_submodule(layer)).__name__ == "Linear" else added.T
    return model, pairs


@pytest.mark.parametrize("kind", KINDS)
def test_the_adapters_gradients_follow_from_those_of_the_merged_matrices(kind, tmp_path):
    """W' = W + s B A: the gradients of B and A are s G Aᵀ and s Bᵀ G, if G is that of W'."""
    base, adapter = saved(kind, tmp_path)
    merged, pairs = by_hand(base, adapter)
    queries = cases.queries()
    G, log_probabilities = oracle.gradients(merged, select_modules(merged, "linear"), queries, sign=+1)
    model = loaded(base, adapter, "adapter")
    layers = select_modules(model, "linear")
    rehearse(model, layers)
    found = query_gradients(Runner(model, layers, 2), queries)
    torch.testing.assert_close(torch.from_numpy(found.log_probabilities), log_probabilities)
    assert set(found.layers) == {f"{layer}.lora_{side}.default" for layer in pairs for side in "AB"}
    for layer, (A, B) in pairs.items():
        without_bias = G[layer][:, :, : A.shape[1]]
        torch.testing.assert_close(found.layers[f"{layer}.lora_B.default"], SCALE * without_bias @ A.T)
        torch.testing.assert_close(found.layers[f"{layer}.lora_A.default"], SCALE * B.T @ without_bias)


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_has_the_gradients_of_the_merged_matrices(kind, tmp_path):
    base, adapter = saved(kind, tmp_path)
    expected, _ = by_hand(base, adapter)
    model = loaded(base, adapter, "merged")
    assert type(model) is type(expected)
    torch.testing.assert_close(dict(model.named_parameters()), dict(expected.named_parameters()))
    G, log_probabilities = oracle.gradients(expected, select_modules(expected, "linear"), cases.queries(), sign=+1)
    found = query_gradients(Runner(model, select_modules(model, "linear"), 2), cases.queries())
    torch.testing.assert_close(found.layers, G)
    torch.testing.assert_close(torch.from_numpy(found.log_probabilities), log_probabilities)


VARIED = {
    "rank-stabilised": adapters.lora(use_rslora=True),
    "ranks of layers": adapters.lora(rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 5}),
    "biases of B": adapters.lora(lora_bias=True, target_modules=["c_fc", "c_attn"]),
    "head in full": adapters.lora(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "head": adapters.lora(target_modules=["q_proj", "lm_head"]),
    "embedding": adapters.lora(target_modules=["q_proj", "embed_tokens"]),
}


@pytest.mark.parametrize("config", VARIED.values(), ids=VARIED)
def test_both_forms_say_the_same_and_agree_with_autograd(config, tmp_path):
    base, adapter = saved("gpt2" if config.lora_bias else "llama", tmp_path, config)
    apart, merged = (loaded(base, adapter, attribution) for attribution in ("adapter", "merged"))
    said = {}
    for model in (apart, merged):
        layers = select_modules(model, "linear")
        rehearse(model, layers)
        V, said[model] = oracle.gradients(model, layers, cases.queries(), sign=+1)
        torch.testing.assert_close(query_gradients(Runner(model, layers, 2), cases.queries()).layers, V)
    torch.testing.assert_close(said[apart], said[merged])
    assert all(".lora_" in layer.name for layer in select_modules(apart, "linear"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_is_computed_in_the_precision_of_the_model(dtype, tmp_path):
    base, adapter = saved("llama", tmp_path)
    model = loaded(base, adapter, "adapter", dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    rehearse(model, select_modules(model, "linear"))


@pytest.mark.parametrize(
    ("modules", "layers"),
    {
        "mlp": ("gate_proj", "up_proj", "down_proj"),
        "linear": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        ("*.q_proj",): ("q_proj",),
        ("*.q_proj.lora_B.default", "*.o_proj"): ("q_proj", "o_proj"),
    }.items(),
)
def test_patterns_name_the_layers_that_are_adapted(modules, layers, tmp_path):
    model = loaded(*saved("llama", tmp_path), "adapter")
    selected = [layer.name for layer in select_modules(model, modules)]
    assert {name.split(".")[4] for name in selected} == set(layers)
    assert all(".lora_" in name for name in selected)


def test_mlp_is_refused_where_the_adapter_leaves_it_alone(tmp_path):
    model = loaded(*saved("llama", tmp_path, adapters.lora(target_modules=["q_proj"])), "adapter")
    with pytest.raises(InputError, match=r"'mlp' matches no linear layer.*q_proj\.lora_A\.default"):
        select_modules(model, "mlp")


def folders(path, **keys):
    return resolve_model_folders(LanguageModel(path=str(path), **keys))


def test_an_adapter_is_found_by_either_key_and_is_in_the_hash(tmp_path):
    base, adapter = saved("llama", tmp_path)
    found = folders(adapter)
    assert found == folders(base, adapter=str(adapter))
    assert (found.model, found.adapter, found.tokenizer) == (base, adapter, base)
    hashes = [model_hash(found, "adapter", None), model_hash(found, "merged", None), weights_hash(base, None)]
    for file in (base / "model.safetensors", adapter / "adapter_model.safetensors"):
        tensors = load_file(file)
        save_file({name: 2 * value for name, value in tensors.items()}, file, {"format": "pt"})
        hashes.append(model_hash(found, "adapter", None))
    changed = adapter / "adapter_config.json"
    changed.write_text(changed.read_text().replace('"lora_alpha": 6', '"lora_alpha": 7'))
    hashes.append(model_hash(found, "adapter", None))
    assert len(set(hashes)) == 6


def test_a_tokenizer_that_was_saved_with_the_adapter_is_used(tmp_path):
    _, adapter = saved("llama", tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (adapter / name).write_text("{}")
    assert folders(adapter).tokenizer == adapter


def test_a_relative_base_is_read_as_peft_reads_it(tmp_path, monkeypatch):
    base, adapter = saved("llama", tmp_path)
    describe(adapter, base_model_name_or_path="base")
    monkeypatch.chdir(tmp_path)
    assert folders(adapter).model.resolve() == base


def describe(adapter, **settings):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def beside_the_weights(base, adapter):
    for file in adapter.iterdir():
        shutil.copy(file, base)
    return base


def pickled(_base, adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    return adapter


def described(**settings):
    def change(_base, adapter):
        describe(adapter, **settings)
        return adapter

    return change


def without_base(base, adapter):
    shutil.rmtree(base)
    return adapter


def not_json(_base, adapter):
    (adapter / "adapter_config.json").write_text("LoRA")
    return adapter


def with_other_tensors(change):
    def rewrite(_base, adapter):
        file = adapter / "adapter_model.safetensors"
        save_file(dict(change(load_file(file))), file, {"format": "pt"})
        return adapter

    return rewrite


REFUSED = {
    "beside weights": (beside_the_weights, r"lies beside the weights.*folder of their own.*model\.adapter"),
    "pickled": (pickled, r"holds no adapter_model\.safetensors; adapter_model\.bin is a pickle"),
    "without base": (without_base, r"the adapter's model, .*base, is not there.*Set model\.path"),
    "nameless base": (described(base_model_name_or_path=None), r"does not say which model.*model\.adapter"),
    "no configuration": (not_json, r"adapter_config\.json: cannot be read"),
    "changed base": (described(init_lora_weights="pissa"), r"changing the base model's weights.*pissa"),
    "newer": (described(use_telepathy=True), r"does not know: use_telepathy.*Update peft"),
    "too few": (with_other_tensors(lambda t: list(t.items())[1:]), r"does not fit LlamaForCausalLM: they lack"),
    "too many": (
        with_other_tensors(lambda t: {**t, "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": torch.ones(3)}),
        r"does not fit LlamaForCausalLM: they have no place for",
    ),
    "other sizes": (
        with_other_tensors(lambda t: {name: torch.ones(3, 3) for name in t}),
        r"does not fit LlamaForCausalLM",
    ),
    "not finite": (
        with_other_tensors(lambda t: {name: value / 0 for name, value in t.items()}),
        r"adapter_model\.safetensors: .*lora_.* holds NaN or infinity",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_adapters_that_cannot_be_used_are_refused(change, message, tmp_path):
    named = change(*saved("llama", tmp_path))
    with pytest.raises(InputError, match=message):
        look_and_load(named)


def look_and_load(named, attribution="adapter"):
    found = folders(named)
    model_hash(found, attribution, None)
    loaded(found.model, found.adapter, attribution)


OTHER_KINDS = {
    "IA3": IA3Config(task_type=TaskType.CAUSAL_LM, target_modules=["k_proj", "down_proj"], feedforward_modules=[]),
    "PROMPT_TUNING": PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2),
    "PREFIX_TUNING": PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2),
}


@pytest.mark.parametrize("attribution", ["adapter", "merged"])
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_adapters_of_other_kinds_are_refused(kind, attribution, tmp_path):
    _, adapter = saved("llama", tmp_path, OTHER_KINDS[kind])
    with pytest.raises(InputError, match=rf"of the kind {kind}.*Only LoRA is attributed"):
        look_and_load(adapter, attribution)


def test_dora_is_attributed_merged_alone(tmp_path):
    base, adapter = saved("llama", tmp_path, adapters.lora(use_dora=True))
    with pytest.raises(InputError, match=r"Dora.* computes more than a product.*adapter_attribution to merged"):
        look_and_load(adapter)
    model = loaded(base, adapter, "merged")
    rehearse(model, select_modules(model, "linear"))


def test_what_peft_cannot_merge_is_refused_with_its_reason(tmp_path):
    base, adapter = saved("llama", tmp_path, adapters.lora(lora_bias=True))
    with pytest.raises(
        InputError, match=r"cannot be merged \(.*lora_bias.*\)\. Set model\.adapter_attribution to adapter"
    ):
        loaded(base, adapter, "merged")


def test_peft_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    _, adapter = saved("llama", tmp_path)
    monkeypatch.setattr(adapters_of_models.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"adapters need PEFT.*influence-assets\[lora\]"):
        look_and_load(adapter)


def test_only_one_adapter_can_be_named(tmp_path):
    _, adapter = saved("llama", tmp_path)
    with pytest.raises(InputError, match="is an adapter already"):
        folders(adapter, adapter=str(adapter))
    with pytest.raises(InputError, match=r"model\.adapter: .*base holds no adapter_config\.json"):
        folders(tmp_path / "base", adapter=str(tmp_path / "base"))
    describe(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(InputError, match=r"is an adapter.*Merge that one first"):
        folders(adapter)
