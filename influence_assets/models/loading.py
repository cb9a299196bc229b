"""Loading of language models from a folder, ready to be measured."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.activations import FastGELUActivation, NewGELUActivation

from influence_assets.errors import InputError
from influence_assets.maths.notation import WITHOUT_FLOAT64
from influence_assets.models.adapter_files import refuse_adapter_beside_weights
from influence_assets.models.adapters import Adaptation, adapted
from influence_assets.models.config import read_config
from influence_assets.models.quiet import first_line, quiet
from influence_assets.models.weights import safetensors_files
from influence_assets.study import Dtype

_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
DEVICE_MAP = "model.device_map"


def load_model(
    folder: Path,
    *,
    dtype: Dtype,
    device: str,
    trust_remote_code: bool = False,
    device_map: str | None = None,
    adaptation: Adaptation | None = None,
) -> PreTrainedModel:
    """Load the causal language model in a folder: frozen, in evaluation mode, without dropout or cache.

    Attention uses torch's scaled dot product if the architecture supports it. Missing weights are never filled in with
    random numbers.

    Args:
        folder: holds config.json and *.safetensors, in one file or in several with an index.
        dtype: precision of the parameters and of the passes.
        device: a torch device, as `resolve_device` returns it.
        trust_remote_code: whether Python code beside the weights may run.
        device_map: `auto` spreads the layers over all devices, whatever `device` is.
        adaptation: an adapter of the model, or None.

    Raises:
        InputError: the device cannot compute in this precision; the weights are missing, damaged, not finite, or not
            those of the architecture in config.json; they do not fit on the devices that they are spread over; an
            adapter lies beside them; or the adapter that is named cannot be used.
    """
    if dtype == "float64" and torch.device(device).type in WITHOUT_FLOAT64:
        problem = f"a device of kind {device} cannot compute in float64"
        raise InputError("model.dtype", problem, "Set model.dtype to float32, or compute.device to cpu.")
    model = load_checkpoint(
        folder, dtype=dtype, trust_remote_code=trust_remote_code, device_map=device_map, adaptation=adaptation
    )
    model.requires_grad_(requires_grad=False)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # evaluation mode is enough only until train() is called
    model.config.use_cache = False
    if not _can_be_fused(model):
        model.set_experts_implementation("eager")
    fuse_activations(model)
    model.train(mode=False)
    if device_map is None:
        model.to(device)  # type: ignore[arg-type]  # transformers hides torch's signature
    return model


def load_checkpoint(
    folder: Path,
    *,
    dtype: Dtype,
    trust_remote_code: bool = False,
    device_map: str | None = None,
    adaptation: Adaptation | None = None,
) -> PreTrainedModel:
    """Load the causal language model in a folder as it is, complete and finite; arguments are those of `load_model`.

    Raises:
        InputError: see `load_model`.
    """
    refuse_adapter_beside_weights(folder)
    safetensors_files(folder)
    options: dict[str, Any] = {"dtype": _DTYPES[dtype], "trust_remote_code": trust_remote_code}
    if device_map is not None:
        _refuse_without_accelerate()
        options["device_map"] = device_map
    with quiet():
        model, report = _load(folder, **options)
    _refuse_offloaded(model)
    _refuse_incomplete(folder, report)
    if adaptation is not None:
        with quiet():
            model = adapted(model, adaptation)
    _refuse_not_finite([folder, *([] if adaptation is None else [adaptation.folder])], model)
    return model


def _load(folder: Path, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the model and a report of what its files lack; transformers prefers sdpa by itself."""
    loader: Any = AutoModelForCausalLM  # its signature does not know output_loading_info
    try:
        model, report = loader.from_pretrained(
            folder,
            config=read_config(folder, trust_remote_code=bool(options["trust_remote_code"])),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `_refuse_incomplete` reports them
            **options,
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise InputError(
            str(folder),
            f"cannot be loaded as a causal language model ({first_line(error)})",
            "Save it again with `model.save_pretrained(folder)`.",
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
    """Raise if weights are offloaded, because backward passes and layer rules need them in memory."""
    offloaded = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if offloaded:
        raise InputError(
            DEVICE_MAP,
            f"the model does not fit on the devices: {offloaded[0]} and {len(offloaded) - 1} more would be offloaded",
            "Use devices with more memory, set model.dtype to bfloat16, or set compute.device to cpu without this key.",
        )


def _can_be_fused(model: PreTrainedModel) -> bool:
    """Return whether the fused kernels of experts take the weights: not in float64, and only rows of whole 16 bytes."""
    stacked = [p for p in model.parameters() if p.ndim == 3]
    return all(p.dtype != torch.float64 and not any(n * p.element_size() % 16 for n in p.shape[1:]) for p in stacked)


def fuse_activations(model: PreTrainedModel) -> None:
    """Replace GPT-2's GELU by one operation; its eight in Python take a third of a small model's pass."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(parent, name, nn.GELU(approximate="tanh"))


def _refuse_incomplete(folder: Path, report: dict[str, Any]) -> None:
    """Raise if the files lack weights of the architecture; tied ones are not reported as missing."""
    problems = [f"{name} is missing" for name in sorted(report["missing_keys"])]
    problems += [
        f"{name} is {list(stored)} where config.json makes it {list(expected)}"
        for name, stored, expected in sorted(report["mismatched_keys"])
    ]
    problems += [str(message) for message in report["error_msgs"]]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise InputError(str(folder), f"the weights do not fit config.json: {shown}", "Save model and config together.")


def _refuse_not_finite(folders: Sequence[Path], model: PreTrainedModel) -> None:
    for parameter_name, parameter in model.named_parameters():
        if bool(torch.isfinite(parameter).all()):
            continue
        for file in (file for folder in folders for file in safetensors_files(folder)):
            with safe_open(file, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118 - not a mapping
                    if not bool(torch.isfinite(stored.get_tensor(name)).all()):
                        raise InputError(str(file), f"{name} holds NaN or infinity", "Save sound weights.")
        raise InputError(
            str(folders[-1]), f"{parameter_name} is not finite in {parameter.dtype}", "Set model.dtype to float32."
        )
