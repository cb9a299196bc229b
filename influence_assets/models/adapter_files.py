"""The files of an adapter of PEFT: which model it belongs to, and whether it is one that can be attributed."""

import json
from pathlib import Path
from typing import Any

from influence_assets.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"

_LEAVE_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""The values of `init_lora_weights` that do not change the base model's weights when training begins."""


def is_adapter_alone(folder: Path) -> bool:
    """Return whether a folder holds an adapter without the model that it belongs to."""
    return (folder / CONFIG).is_file() and not any(file.name != WEIGHTS for file in folder.glob("*.safetensors"))


def refuse_adapter_beside_weights(folder: Path) -> None:
    """Raise if an adapter lies beside a model's weights: with and without it, they are two models.

    Raises:
        InputError: there is one.
    """
    file = folder / CONFIG
    if file.is_file():
        raise InputError(
            str(file),
            "an adapter lies beside the weights of a model, and nothing says whether it belongs to the model",
            f"Move {CONFIG} and {WEIGHTS} into a folder of their own; to explain the model with its adapter, name "
            "that folder as model.adapter.",
        )


def base_of(folder: Path) -> tuple[str, str | None]:
    """Return the path or Hugging Face id of the model that an adapter belongs to, and its revision.

    Raises:
        InputError: the adapter does not say.
    """
    described = read_config(folder)
    base, revision = described.get("base_model_name_or_path"), described.get("revision")
    if not isinstance(base, str) or not base:
        raise InputError(
            str(folder / CONFIG),
            "does not say which model the adapter belongs to (base_model_name_or_path)",
            "Set model.path to that model, and model.adapter to this folder.",
        )
    return base, revision if isinstance(revision, str) else None


def read_config(folder: Path) -> dict[str, Any]:
    """Return an adapter's configuration after checking that it is one of a LoRA whose weights are here.

    Raises:
        InputError: it is not.
    """
    file = folder / CONFIG
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            "model.adapter", f"{folder} holds no {CONFIG}", "Name a folder that PEFT's `save_pretrained` wrote."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(str(file), f"cannot be read ({error})", "Save the adapter again.") from error
    if not isinstance(described, dict):
        raise InputError(str(file), "is not a JSON object", "Save the adapter again with PEFT's `save_pretrained`.")
    kind = described.get("peft_type")
    if kind != "LORA":
        raise InputError(
            str(file),
            f"the adapter is of the kind {kind}, whose parameters are not matrices that multiply tokens",
            "Only LoRA is attributed. If PEFT can merge this adapter, save the merged model with "
            "`model.merge_and_unload().save_pretrained(folder)` and name that folder as model.path.",
        )
    began = described.get("init_lora_weights")
    if began not in _LEAVE_THE_BASE:
        raise InputError(
            str(file),
            f"training began by changing the base model's weights (init_lora_weights: {began}), which are not stored",
            "Save the adapter with `path_initial_model_for_weight_conversion`, as PEFT describes it, or merge it with "
            "`model.merge_and_unload().save_pretrained(folder)` and name that folder as model.path.",
        )
    if not (folder / WEIGHTS).is_file():
        pickled = f"; {_PICKLE} is a pickle, which can run code when it is read" if (folder / _PICKLE).exists() else ""
        raise InputError(
            str(folder), f"holds no {WEIGHTS}{pickled}", "Save the adapter with `safe_serialization=True`."
        )
    return described


def adapter_files(folder: Path) -> list[Path]:
    """Return the files that say what an adapter computes."""
    return [folder / CONFIG, folder / WEIGHTS]
