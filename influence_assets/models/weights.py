"""The files of a model, and their hashes, which enter data versions."""

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from influence_assets.durable.caches import read_cache, replace_cache
from influence_assets.durable.identity import Identity, identity, is_settled
from influence_assets.errors import InputError
from influence_assets.models.adapter_files import (
    CONFIG,
    adapter_files,
    base_of,
    is_adapter_alone,
    read_config,
    refuse_adapter_beside_weights,
)
from influence_assets.study import LanguageModel

# Never .bin or .pt: those are pickles, which can run code when they are read.
_MODEL_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
_OWN_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_TOKENIZER_PATTERNS = ["*token*.json", "vocab*.json", "*.model", "*.txt"]


@dataclass(frozen=True)
class ModelFolders:
    """The local folders of a model.

    Args:
        model: holds config.json and the weights.
        adapter: holds an adapter of it, or None.
    """

    model: Path
    adapter: Path | None = None

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer's files: the adapter's, if its training stored them with it."""
        has_own = self.adapter is not None and all((self.adapter / name).is_file() for name in _OWN_TOKENIZER)
        return self.adapter if has_own and self.adapter is not None else self.model


def resolve_model_folders(model: LanguageModel, cache: Path | None = None) -> ModelFolders:
    """Return the local folders of the model that the study names, with the base model of an adapter.

    Args:
        model: the model of the study.
        cache: a folder for files that remember what was fetched. Without one, the hub is asked every time.

    Raises:
        InputError: see `resolve_model_folder`, or `adapter_files`.
    """
    folder = resolve_model_folder(model, cache and cache / "model.json")
    if not is_adapter_alone(folder):
        if model.adapter is not None:
            read_config(Path(model.adapter))
        return ModelFolders(folder, None if model.adapter is None else Path(model.adapter))
    if model.adapter is not None:
        raise InputError("model.adapter", f"model.path, {folder}, is an adapter already", "Name one adapter.")
    named, revision = base_of(folder)
    read_config(folder)
    base = LanguageModel(
        path=named,
        revision=None if Path(named).expanduser().is_dir() else revision,
        trust_remote_code=model.trust_remote_code,
    )
    try:
        found = resolve_model_folder(base, cache and cache / "base_model.json")
    except InputError as error:
        raise InputError(
            str(folder / CONFIG),
            f"the adapter's model, {named}, is not there ({error.problem})",
            "Set model.path to the folder or id of that model, and model.adapter to this folder.",
        ) from error
    if is_adapter_alone(found):
        raise InputError(str(folder / CONFIG), f"the adapter's model, {found}, is an adapter", "Merge that one first.")
    return ModelFolders(found, folder)


def resolve_model_folder(model: LanguageModel, cache: Path | None = None) -> Path:
    """Return the local folder of `model.path`, fetched from Hugging Face if it is an id.

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
    return folder if (folder / "config.json").is_file() or (folder / CONFIG).is_file() else None


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
    refuse_adapter_beside_weights(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(str(folder), "holds no config.json", "Save the model with `model.save_pretrained(folder)`.")
    # The index says which file a tensor is taken from if two files hold it.
    files = [*safetensors_files(folder), config, *folder.glob("*.safetensors.index.json"), *folder.glob("*.py")]
    return _hashed(files, cache)


def _hashed(files: list[Path], cache: Path | None) -> str:
    remembered = _read_cache(cache)
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name}\0{_file_hash(file, remembered)}\n".encode())
    if cache is not None:
        with suppress(OSError):  # without the cache, the weights are read again next time
            replace_cache(cache, remembered)
    return digest.hexdigest()


def optimizer_hash(file: Path, cache: Path | None) -> str:
    """Return the SHA-256 of the file of `model.optimizer` as 64 hex digits.

    Args:
        file: the file.
        cache: as in `weights_hash`.

    Raises:
        InputError: there is no such file, it cannot be read, or it changes meanwhile.
    """
    try:
        return _hashed([file], cache)
    except OSError as error:
        raise InputError(
            "model.optimizer",
            f"{file} cannot be read ({error.strerror})",
            "Name the file of an optimiser's state, or leave the key out.",
        ) from error


def model_hash(folders: ModelFolders, attribution: str, cache: Path | None) -> str:
    """Return the SHA-256 of a model's weights; with an adapter, also of it and of what is attributed.

    Args:
        folders: the model's folders.
        attribution: `model.adapter_attribution`.
        cache: as in `weights_hash`.

    Raises:
        InputError: see `weights_hash`; or the adapter cannot be attributed.
    """
    weights = weights_hash(folders.model, cache)
    if folders.adapter is None:
        return weights
    read_config(folders.adapter)
    adapter = _hashed(adapter_files(folders.adapter), cache)
    return hashlib.sha256(f"{weights}\n{adapter}\n{attribution}\n".encode()).hexdigest()


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
