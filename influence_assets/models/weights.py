"""The files that a model consists of, and the hashes that stand for them in every data version."""

import hashlib
import json
import time
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from influence_assets.errors import InputError
from influence_assets.study import LanguageModel

# Never .bin or .pt: those are pickles, which run code when they are read.
_MODEL_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt"]
_TOKENIZER_PATTERNS = ["*token*.json", "vocab*.json", "*.model", "*.txt"]
# A file written within this time of being hashed could change again without its times changing.
_CLOCK_GRAIN_NS = 2_000_000_000

_Stat = list[int]


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
        _write_cache(cache, remembered)
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


def _file_hash(file: Path, remembered: dict[str, tuple[_Stat, str]]) -> str:
    """The file's sha256, from `remembered` where its stat is the same, else read and remembered."""
    key, stat = str(file.absolute()), _stat(file)
    if key in remembered and remembered[key][0] == stat:
        return remembered[key][1]
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if _stat(file) != stat:
        raise InputError(str(file), "changed while it was read", "Wait until it is written, then run again.")
    _, mtime_ns, ctime_ns, _ = stat
    if time.time_ns() - max(mtime_ns, ctime_ns) > _CLOCK_GRAIN_NS:
        remembered[key] = (stat, digest)
    else:
        remembered.pop(key, None)
    return digest


def _stat(file: Path) -> _Stat:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _read_cache(cache: Path | None) -> dict[str, tuple[_Stat, str]]:
    """What is remembered; a cache that is missing or damaged only costs reading the weights again."""
    if cache is None:
        return {}
    try:
        checksum, content = cache.read_bytes().split(b"\n", 1)
        if checksum != hashlib.sha256(content).hexdigest().encode():
            return {}
        entries = json.loads(content)
        return {str(file): (list(stat), str(digest)) for file, (stat, digest) in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_cache(cache: Path, remembered: dict[str, tuple[_Stat, str]]) -> None:
    """Two processes may write at once, and a death leaves at most one partial file: the hash tells a torn one."""
    content = json.dumps(remembered, indent=1, sort_keys=True).encode()
    partial = cache.with_name(f"{cache.name}.partial")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        partial.replace(cache)
    except OSError:
        return
