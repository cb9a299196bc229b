"""Language models and tokenizers as they lie in a folder, made ready to be measured."""

import ctypes
import importlib.util
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.activations import FastGELUActivation, NewGELUActivation

from influence_assets.capture.weights import safetensors_files
from influence_assets.errors import InputError
from influence_assets.study import Dtype

_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
DEVICE_MAP = "model.device_map"
# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The names that architectures give the number of positions they were built for.
_CONTEXT_KEYS = ("n_positions", "max_position_embeddings", "n_ctx", "max_seq_len", "seq_length")


def load_model(
    folder: Path, *, dtype: Dtype, device: str, trust_remote_code: bool = False, device_map: str | None = None
) -> PreTrainedModel:
    """The causal language model of a folder: frozen, in evaluation mode, without dropout or cache.

    Attention runs through torch's scaled dot product wherever the architecture supports it.

    Args:
        folder: config.json and *.safetensors, in one file or several with an index.
        dtype: precision of the parameters and of the passes.
        device: a torch device, as `resolve_device` names it.
        trust_remote_code: whether Python code that lies beside the weights may run.
        device_map: `auto` spreads the layers over all devices there are, whatever `device` says.

    Raises:
        InputError: when the weights are missing, damaged, not finite, or not those of the
            architecture in config.json; or when they do not fit on the devices that they are spread over.
            A model is never completed with random numbers.
    """
    safetensors_files(folder)
    given: dict[str, Any] = {"dtype": _DTYPES[dtype], "trust_remote_code": trust_remote_code}
    if device_map is not None:
        _refuse_without_accelerate()
        given["device_map"] = device_map
    with _quiet():
        model, report = _load(folder, **given)
    _refuse_offloaded(model)
    _refuse_incomplete(folder, report)
    _refuse_not_finite(folder, model)
    model.requires_grad_(requires_grad=False)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # eval() is enough until somebody calls train()
    model.config.use_cache = False
    if dtype == "float64":
        model.set_experts_implementation("eager")  # the fused kernels of experts have no float64
    fuse_activations(model)
    model.train(mode=False)
    if device_map is None:
        model.to(device)  # type: ignore[arg-type]  # transformers hides torch's signature
    return model


def resolve_device(device: str) -> str:
    """The device that the study names; `auto` is the first there is of cuda, mps and cpu.

    Raises:
        InputError: the study names one that is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device != "auto":
        kind, _, index = device.partition(":")
        if not there[kind] or (index and int(index) >= torch.cuda.device_count()):
            usable = ", ".join(name for name, is_there in there.items() if is_there)
            raise InputError("compute.device", f"there is no {device} here", f"Give auto or one of: {usable}.")
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors instead of handing it back to the system.

    glibc otherwise returns a pass's large tensors each time, and fetching them page by page again
    takes about a fifth of a small model's training step. Where there is no glibc, nothing happens.
    It holds for the whole process: for one that computes, not for one that only waits.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
    libc.mallopt(_M_TRIM_THRESHOLD, 512 * 2**20)


def embedding_rows(model: PreTrainedModel) -> int:
    """Rows of the input embedding: every token id must be smaller."""
    return _embedding(model).shape[0]


def input_device(model: PreTrainedModel) -> torch.device:
    """Where a model wants its tokens; of a spread model that is the device of its first part."""
    return _embedding(model).device


def _embedding(model: PreTrainedModel) -> torch.Tensor:
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)  # noqa: S101  # an embedding's weight is one
    return weight


def context_length(config: PretrainedConfig) -> int:
    """The most tokens that the model was built to read at once.

    Raises:
        InputError: when the model's config.json does not say.
    """
    text_config = config.get_text_config()
    for key in _CONTEXT_KEYS:
        length = getattr(text_config, key, None)
        if isinstance(length, int) and length > 0:
            return length
    raise InputError(
        "config.json",
        f"does not say how many tokens a {config.model_type} model reads at once",
        "Add max_position_embeddings with the length that it was trained with.",
    )


def export_tokenizer(folder: Path, destination: Path, *, embedding_rows: int) -> None:
    """Write a model's fast tokenizer as `tokenizer.json` and what surrounds a text as `tokens.json`.

    tokens.json holds `separator_id` (the end-of-text id, or null), `prefix_ids` (the ids that the
    tokenizer's own template puts before a text) and `vocabulary` (= `embedding_rows`).

    Args:
        folder: the model's folder, with its tokenizer's files.
        destination: the folder to write into.
        embedding_rows: rows of the model's input embedding; every id must be smaller.

    Raises:
        InputError: when the folder has no fast tokenizer, or one that does not belong to the model.
    """
    tokenizer = _load_tokenizer(folder)
    largest = max(tokenizer.get_vocab().values())
    if largest >= embedding_rows:
        raise InputError(
            str(folder),
            f"the tokenizer does not belong to the model: its ids go up to {largest}, "
            f"the embedding has {embedding_rows} rows",
            "Put the tokenizer that the model was trained with into the folder.",
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    template = backend.encode("a", add_special_tokens=True)
    before = takewhile(lambda pair: pair[1] == 1, zip(template.ids, template.special_tokens_mask, strict=True))
    surroundings = {
        "separator_id": tokenizer.eos_token_id,
        "prefix_ids": [token for token, _ in before],
        "vocabulary": embedding_rows,
    }
    destination.mkdir(parents=True, exist_ok=True)
    backend.save(str(destination / "tokenizer.json"))
    (destination / "tokens.json").write_text(json.dumps(surroundings), encoding="utf-8")


def _load(folder: Path, **given: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model and the report of what its files lacked; sdpa is transformers' own first choice."""
    loader: Any = AutoModelForCausalLM  # its signature does not know output_loading_info
    try:
        model, report = loader.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named by `_refuse_incomplete`
            **given,
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise InputError(
            str(folder),
            f"cannot be loaded as a causal language model ({_first_line(error)})",
            "Save it anew with `model.save_pretrained(folder)`.",
        ) from error
    return model, report


def _refuse_without_accelerate() -> None:
    if importlib.util.find_spec("accelerate") is None:
        raise InputError(
            DEVICE_MAP,
            "spreading a model needs accelerate, which is not installed",
            "Install it with `pip install accelerate`, or leave the key out.",
        )


def _refuse_offloaded(model: PreTrainedModel) -> None:
    """Weights that are fetched anew in every pass would be there in neither the backward pass nor a layer rule."""
    away = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if away:
        raise InputError(
            DEVICE_MAP,
            f"the model does not fit on the devices: {away[0]} and {len(away) - 1} more would be offloaded",
            "Use devices with more memory, set model.dtype to bfloat16, or set compute.device to cpu without this key.",
        )


def fuse_activations(model: PreTrainedModel) -> None:
    """Run GPT-2's GELU as one operation: written out in Python it is eight, a third of a small model's pass."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(parent, name, nn.GELU(approximate="tanh"))


def _refuse_incomplete(folder: Path, report: dict[str, Any]) -> None:
    """Raise for weights that the architecture has and the files lack; tied ones are not reported as missing."""
    lacking = [f"{name} is missing" for name in sorted(report["missing_keys"])]
    lacking += [
        f"{name} is {list(stored)} where config.json makes it {list(expected)}"
        for name, stored, expected in sorted(report["mismatched_keys"])
    ]
    lacking += [str(message) for message in report["error_msgs"]]
    if lacking:
        shown = "; ".join(lacking[:5]) + (f"; and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise InputError(str(folder), f"the weights do not fit config.json: {shown}", "Save model and config together.")


def _refuse_not_finite(folder: Path, model: PreTrainedModel) -> None:
    for parameter_name, parameter in model.named_parameters():
        if bool(torch.isfinite(parameter).all()):
            continue
        for file in safetensors_files(folder):
            with safe_open(file, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118 - not a mapping
                    if not bool(torch.isfinite(stored.get_tensor(name)).all()):
                        raise InputError(str(file), f"{name} holds NaN or infinity", "Save sound weights.")
        raise InputError(
            str(folder), f"{parameter_name} is not finite in {parameter.dtype}", "Set model.dtype to float32."
        )


def _load_tokenizer(folder: Path) -> Any:
    """The folder's fast tokenizer; its type differs between versions of transformers."""
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
    except Exception as error:  # whatever a damaged file makes of it, tokenizers' own are bare Exceptions
        raise _no_tokenizer(folder, _first_line(error)) from error
    if not tokenizer.is_fast:
        raise _no_tokenizer(folder, f"{type(tokenizer).__name__} has no fast version, which alone tells characters")
    # For some architectures an empty tokenizer is made up where there are no files.
    if not any((folder / name).is_file() for name in tokenizer.vocab_files_names.values()):
        raise _no_tokenizer(folder, "no tokenizer files")
    return tokenizer


def _no_tokenizer(folder: Path, reason: str) -> InputError:
    return InputError(
        str(folder), f"no fast tokenizer can be loaded ({reason})", "Put the model's own tokenizer.json there."
    )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and reports: what they say is raised as an error here."""
    logging: Any = transformers.logging  # untyped
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
