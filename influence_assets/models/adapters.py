"""LoRA adapters of PEFT, on a loaded model: merged into its weights, or beside them with matrices of their own.

A LoRA adds s · B A to a matrix W that is not trained. Merged, the model has the matrices W + s · B A and is like any
other. Kept apart, A and B are linear layers with inputs and gradients of their own, and just these are attributed: they
are what the fine-tuning could change. `Adaptation.attribution` says which.
"""

import importlib.util
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from influence_assets.errors import InputError
from influence_assets.models.adapter_files import CONFIG, read_config
from influence_assets.models.quiet import first_line

AdapterAttribution = Literal["adapter", "merged"]
ATTRIBUTION = "model.adapter_attribution"
_NAME = "default"


@dataclass(frozen=True)
class Adaptation:
    """An adapter, and what of the adapted model is attributed.

    Args:
        folder: the adapter's folder.
        attribution: `adapter`, its own matrices, or `merged`, the weights that it is merged into.
    """

    folder: Path
    attribution: AdapterAttribution


def adapted(model: PreTrainedModel, adaptation: Adaptation) -> PreTrainedModel:
    """Return a loaded model with an adapter.

    Args:
        model: the model that the adapter belongs to, which is changed.
        adaptation: the adapter.

    Raises:
        InputError: PEFT is missing, the adapter is not a LoRA, does not fit the model, or cannot be attributed so.
    """
    config = _config(adaptation.folder)
    from peft import PeftModel

    dtype = model.dtype
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say is refused below
            wrapped: Any = PeftModel(model, config, _NAME, autocast_adapter_dtype=False)
            report = wrapped.load_adapter(
                str(adaptation.folder),
                _NAME,
                autocast_adapter_dtype=False,
                key_mapping=getattr(model, "_checkpoint_conversion_mapping", {}),
            )
    except (RuntimeError, ValueError, TypeError, KeyError, OSError) as error:
        raise _does_not_fit(adaptation.folder, model, first_line(error)) from error
    for what, keys in {"lack": report.missing_keys, "have no place for": report.unexpected_keys}.items():
        if keys:
            raise _does_not_fit(adaptation.folder, model, f"they {what} {', '.join(sorted(keys)[:3])}")
    if adaptation.attribution == "merged":
        return _merged(wrapped, adaptation.folder, dtype)
    inner: PreTrainedModel = wrapped.get_base_model()
    _refuse_variants(inner, adaptation.folder)
    for module in _tuned(inner):
        for name, parameter in module.named_parameters():
            if ".lora_" in f".{name}" and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
    return inner


def add_matrices(model: PreTrainedModel, folder: Path) -> None:
    """Put an adapter's matrices beside those of a model on the meta device, for its dimensions."""
    config = _config(folder)
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model, _NAME, low_cpu_mem_usage=True)


def adapter_matrices(model: nn.Module) -> dict[str, str]:
    """Return the names of the matrices A and B of an adapted model's layers, each with its layer's name."""
    layers = [name for name, module in model.named_modules() if _is_tuned(module)]
    return {
        f"{layer}.{name}": layer
        for layer in layers
        for name, _ in model.get_submodule(layer).named_modules()
        if name.startswith(("lora_A.", "lora_B.")) and name.count(".") == 1
    }


def _is_tuned(module: nn.Module) -> bool:
    # By its origin, because PEFT need not be installed, and models have layers of similar names.
    return type(module).__module__.startswith("peft.tuners.lora") and hasattr(module, "lora_A")


def _tuned(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if _is_tuned(module)]


def require_peft(where: str) -> None:
    """Raise an error that says how to install PEFT if it is not installed.

    Args:
        where: what needs it.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise InputError(
            where,
            "adapters need PEFT, which is not installed",
            "Install it with `pip install 'influence-assets[lora]'`.",
        )


def _config(folder: Path) -> Any:
    require_peft(str(folder / CONFIG))
    from peft import LoraConfig

    described = read_config(folder)
    known = {field.name for field in fields(LoraConfig)}
    unknown = [name for name, value in described.items() if name not in known and value]
    if unknown:
        raise InputError(
            str(folder / CONFIG), f"has settings that this PEFT does not know: {', '.join(unknown)}", "Update peft."
        )
    config = LoraConfig.from_pretrained(str(folder))
    config.inference_mode = True
    config.init_lora_weights = False  # all of them are loaded
    return config


def _merged(wrapped: Any, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    if dtype == torch.float64:
        wrapped.to(dtype)
    try:
        model: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise InputError(
            str(folder),
            f"the adapter cannot be merged ({first_line(error).rstrip('.')})",
            f"Set {ATTRIBUTION} to adapter.",
        ) from error
    return model


def _refuse_variants(model: PreTrainedModel, folder: Path) -> None:
    """Raise if the adapter computes something else than s · B A, in which A and B are no linear layers."""
    variants = {
        type(variant).__name__.removesuffix("Variant").removesuffix("Linear")
        for module in _tuned(model)
        for variant in getattr(module, "lora_variant", {}).values()
    }
    if variants:
        raise InputError(
            str(folder / CONFIG),
            f"{', '.join(sorted(variants))} computes more than a product with B and A",
            f"Set {ATTRIBUTION} to merged.",
        )


def _does_not_fit(folder: Path, model: PreTrainedModel, reason: str) -> InputError:
    return InputError(
        str(folder),
        f"the adapter does not fit {type(model).__name__}: {reason}",
        "Name the model that it was trained for as model.path, and the adapter's folder as model.adapter.",
    )
