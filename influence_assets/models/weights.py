"""The files of a model, and their hashes, which enter data versions."""

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from influence_assets.durable.caches import read_cache, replace_cache
from influence_assets.durable.identity import Identity, identity, is_settled
from influence_assets.errors import InputError
from influence_assets.study import LanguageModel

# Never .bin or .pt: those are pickles, which can run code when they are read.
_MODEL_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt"]
_TOKENIZER_PATTERNS = ["*token*.json", "vocab*.json", "*.model", "*.txt"]


def resolve_model_folder(model: LanguageModel, cache: Path | None = None) -> Path:
    """Return the local folder of the model that the study names, fetched from Hugging Face if it is an id.

    Only safetensors, JSON and tokenizer files are fetched, and Python files if the study trusts them. The hub is asked
    once: afterwards the commit that it named is used until the study names another revision.

    Args:
        model: the model of the study.
        cache: a JSON file that remembers the folder of what was fetched. Without one, the hub is asked every time.

    Raises:
        InputError: `model.path` is neither a folder nor an id that can be fetched, or a folder has no revisions.
    """
    if model.path is None:
        raise InputError("model.path", "is not set", "A model under `model.train` has its folder from its own asset.")
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        if model.revision is not None:
            raise InputError("model.revision", f"{folder} is a folder, which has no revisions", "Leave the key out.")
        return folder
    if folder.exists():
        raise InputError("model.path", f"{folder} is a file", "Name the folder that holds it.")
    if folder.is_absolute() or model.path.startswith((".", "~")):
        raise InputError("model.path", f"no folder {folder}", "Name a folder with config.json and *.safetensors.")
    asked: list[object] = [model.path, model.revision, model.trust_remote_code]
    fetched = _fetched_before(cache, asked)
    if fetched is None:
        fetched = _fetched(model)
        if cache is not None:
            with suppress(OSError):  # without the cache, the hub is asked again next time
                replace_cache(cache, {"asked": asked, "folder": str(fetched)})
    return fetched


def commit_of(folder: Path) -> str | None:
    """Return the commit of a folder that was fetched from Hugging Face, whose cache names it so; else None."""
    is_commit = folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name)
    return folder.name if is_commit else None


def _fetched_before(cache: Path | None, asked: list[object]) -> Path | None:
    """Return the folder that the hub's answer to the same question was fetched into, if it is still there."""
    remembered = read_cache(cache) if cache is not None else None
    if not isinstance(remembered, dict) or remembered.get("asked") != asked:
        return None
    folder = Path(str(remembered.get("folder")))
    return folder if (folder / "config.json").is_file() else None


def _fetched(model: LanguageModel) -> Path:
    patterns = [*_MODEL_PATTERNS, "*.py"] if model.trust_remote_code else _MODEL_PATTERNS
    named = str(model.path)
    try:
        # Folders in a repository hold other formats or older checkpoints of the same model.
        return Path(snapshot_download(named, revision=model.revision, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        at = "" if model.revision is None else f" at {model.revision!r}"
        raise InputError(
            "model.path",
            f"{named!r} is neither a folder here nor a Hugging Face model that can be fetched{at} ({reason})",
            "Correct the name, go online, or download the model and name its folder.",
        ) from error


def safetensors_files(folder: Path) -> list[Path]:
    """Return the weight files of a model folder, sorted by name.

    Raises:
        InputError: there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(
            str(folder), "holds no *.safetensors", "Save the model with `model.save_pretrained(folder)` as safetensors."
        )
    return files


def refuse_adapter(folder: Path) -> None:
    """Raise if a LoRA or another adapter of PEFT lies in a model folder: the weights alone are another model.

    Raises:
        InputError: there is one.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        return
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    of = f" of {base}" if base else ""
    raise InputError(
        str(file),
        f"an adapter{of} lies here, and adapters are not loaded: without it, another model would be explained",
        "Save the merged weights with peft's `model.merge_and_unload().save_pretrained(folder)` and name that folder; "
        "to explain the model without its adapter, move the adapter's files out of the folder.",
    )


def weights_hash(folder: Path, cache: Path | None) -> str:
    """Return the SHA-256 of everything that determines what the model computes: weights, config.json, its own code.

    Args:
        folder: a model folder.
        cache: a JSON file that remembers the hashes of unchanged files, so that large weights are read only once.
            Without one, every file is read.

    Returns:
        64 hex digits, which change with any file's name or content.

    Raises:
        InputError: the folder has no safetensors or no config.json, holds an adapter, or a file changes meanwhile.
    """
    refuse_adapter(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(str(folder), "holds no config.json", "Save the model with `model.save_pretrained(folder)`.")
    # The index says which file a tensor is taken from if two files hold it.
    files = [*safetensors_files(folder), config, *folder.glob("*.safetensors.index.json"), *folder.glob("*.py")]
    remembered = _read_cache(cache)
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name}\0{_file_hash(file, remembered)}\n".encode())
    if cache is not None:
        with suppress(OSError):  # without the cache, the weights are read again next time
            replace_cache(cache, remembered)
    return digest.hexdigest()


def tokenizer_files_hash(folder: Path) -> str:
    """Return the SHA-256 of a model folder's tokenizer files as 64 hex digits."""
    digest = hashlib.sha256()
    for file in sorted(file for pattern in _TOKENIZER_PATTERNS for file in folder.glob(pattern)):
        digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def tokenizer_hash(tokenizer: Path) -> str:
    """Return the SHA-256 of a tokenizer.json that `export_tokenizer` wrote, as 64 hex digits.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(str(tokenizer), f"cannot be read ({error})", "Export the model's tokenizer again.") from error


def _file_hash(file: Path, remembered: dict[str, tuple[Identity, str]]) -> str:
    """Return the file's SHA-256, from `remembered` if the file is unchanged; else read the file and remember it."""
    key, before = str(file.absolute()), identity(file.stat())
    if key in remembered and remembered[key][0] == before:
        return remembered[key][1]
    was_settled = is_settled(before)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if identity(file.stat()) != before:
        raise InputError(str(file), "changed while it was read", "Wait until it is complete, then run again.")
    if was_settled:
        remembered[key] = (before, digest)
    else:
        remembered.pop(key, None)
    return digest


def _read_cache(cache: Path | None) -> dict[str, tuple[Identity, str]]:
    """Return the remembered hashes, none if the cache is missing or damaged; the weights are then read again."""
    try:
        entries = (read_cache(cache) if cache is not None else None) or {}
        return {str(file): (list(known), str(digest)) for file, (known, digest) in entries.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
