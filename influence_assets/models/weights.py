"""The files that a model consists of, and the hashes that stand for them in every data version."""

import hashlib
from contextlib import suppress
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from influence_assets.durable.caches import read_cache, replace_cache
from influence_assets.durable.identity import Identity, identity, is_settled
from influence_assets.errors import InputError
from influence_assets.study import LanguageModel

# Never .bin or .pt: those are pickles, which run code when they are read.
_MODEL_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt"]
_TOKENIZER_PATTERNS = ["*token*.json", "vocab*.json", "*.model", "*.txt"]


def resolve_model_folder(model: LanguageModel) -> Path:
    """Return the local folder of the model that the study names, fetched from Hugging Face if it is an id.

    Only safetensors, JSON and tokenizer files are fetched, and Python files where the study
    trusts them.

    Raises:
        InputError: naming `model.path`, when it is neither a folder nor an id that can be fetched.
    """
    if model.path is None:
        raise InputError("model.path", "is not set", "A model under `model.train` has its folder from its own asset.")
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError("model.path", f"{folder} is a file", "Name the folder that holds it.")
    if folder.is_absolute() or model.path.startswith((".", "~")):
        raise InputError("model.path", f"no folder {folder}", "Name a folder with config.json and *.safetensors.")
    patterns = [*_MODEL_PATTERNS, "*.py"] if model.trust_remote_code else _MODEL_PATTERNS
    try:
        # Folders within a repository hold other formats or older checkpoints of the same model.
        return Path(snapshot_download(model.path, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            "model.path",
            f"{model.path!r} is neither a folder here nor a Hugging Face model that can be fetched ({reason})",
            "Mend the name, go online, or download the model and name its folder.",
        ) from error


def safetensors_files(folder: Path) -> list[Path]:
    """Return the weight files of a model folder, sorted by name.

    Raises:
        InputError: when there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(
            str(folder), "holds no *.safetensors", "Save the model with `model.save_pretrained(folder)` as safetensors."
        )
    return files


def weights_hash(folder: Path, cache: Path | None) -> str:
    """Return the sha256 of everything that decides what the model computes: weights, config.json, its own code.

    Args:
        folder: a model folder.
        cache: a JSON file that remembers the hashes of unchanged files, so that large weights are
            read once. None reads every file.

    Returns:
        64 hex digits; another value whenever a file's name or contents are another.

    Raises:
        InputError: when the folder has no safetensors or no config.json, or a file changes meanwhile.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(str(folder), "holds no config.json", "Save the model with `model.save_pretrained(folder)`.")
    # The index says which file a tensor is taken from where two hold it.
    files = [*safetensors_files(folder), config, *folder.glob("*.safetensors.index.json"), *folder.glob("*.py")]
    remembered = _read_cache(cache)
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name}\0{_file_hash(file, remembered)}\n".encode())
    if cache is not None:
        with suppress(OSError):  # it costs reading the weights again
            replace_cache(cache, remembered)
    return digest.hexdigest()


def tokenizer_files_hash(folder: Path) -> str:
    """Return the sha256 of a model folder's tokenizer files, 64 hex digits."""
    digest = hashlib.sha256()
    for file in sorted(file for pattern in _TOKENIZER_PATTERNS for file in folder.glob(pattern)):
        digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def tokenizer_hash(tokenizer: Path) -> str:
    """Return the sha256 of a resolved tokenizer.json, as `export_tokenizer` writes it: 64 hex digits.

    Raises:
        InputError: when there is no such file.
    """
    try:
        return hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(str(tokenizer), f"cannot be read ({error})", "Export the model's tokenizer again.") from error


def _file_hash(file: Path, remembered: dict[str, tuple[Identity, str]]) -> str:
    """The file's sha256, from `remembered` where the file is the one that it was, else read and remembered."""
    key, before = str(file.absolute()), identity(file.stat())
    if key in remembered and remembered[key][0] == before:
        return remembered[key][1]
    was_settled = is_settled(before)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if identity(file.stat()) != before:
        raise InputError(str(file), "changed while it was read", "Wait until it is written, then run again.")
    if was_settled:
        remembered[key] = (before, digest)
    else:
        remembered.pop(key, None)
    return digest


def _read_cache(cache: Path | None) -> dict[str, tuple[Identity, str]]:
    """What is remembered; a cache that is missing or damaged only costs reading the weights again."""
    try:
        entries = (read_cache(cache) if cache is not None else None) or {}
        return {str(file): (list(of), str(digest)) for file, (of, digest) in entries.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
