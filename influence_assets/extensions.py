"""Finds the parts of a room of the package: its own files, those of extension folders, and installed ones.

A room is a package whose modules each define one part under an agreed name, such as `METHOD` in
`influence_assets.methods` or `ASSET` in `influence_assets.assets`. A part is added by one file, which is in one of:

- the room itself;
- a folder of the same name below an extension folder (`extensions` in the study, or `INFLUENCE_EXTENSIONS`, which
  lists folders as PATH does): `my_extensions/methods/nearest.py`;
- an installed package with an entry point in the room's group that names the module:
  `[project.entry-points."influence_assets.methods"] nearest = "my_package.nearest"`.

Files whose names begin with an underscore or a dot are ignored, and so are those that define no part.
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Protocol, TypeVar

from influence_assets.errors import InputError

EXTENSIONS = "INFLUENCE_EXTENSIONS"
"""The environment variable that lists extension folders, separated as in PATH."""

PART_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
"""What names of parts are like, because they stand in paths, in SQL and in Dagster."""
HYPHENATED_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")

MODULE_PREFIX = "influence_extensions"

_folders: dict[Path, None] = {}


class Named(Protocol):
    """What every part has: a name that is unique in its room."""

    @property
    def name(self) -> str:
        """The part's name."""
        ...


Part = TypeVar("Part", bound=Named)


def add_folders(folders: Iterable[Path]) -> None:
    """Discover parts in these extension folders too, from now on in this process.

    Raises:
        InputError: a folder does not exist.
    """
    folders = list(folders)
    _refuse_missing(folders, "extensions")
    _folders.update(dict.fromkeys(folder.resolve() for folder in folders))


def extension_folders() -> list[Path]:
    """Return the extension folders of the environment variable, then those of the studies loaded in this process.

    Raises:
        InputError: a folder of the environment variable does not exist.
    """
    named = [Path(folder) for folder in os.environ.get(EXTENSIONS, "").split(os.pathsep) if folder]
    _refuse_missing(named, EXTENSIONS)
    return list(dict.fromkeys([*(folder.resolve() for folder in named), *_folders]))


def _refuse_missing(folders: Iterable[Path], where: str) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise InputError(where, f"{folder} is not a folder", "Name a folder that exists, or leave it out.")


def discover(
    package: str, attribute: str, part_type: type[Part], names: re.Pattern[str] = PART_NAME
) -> dict[str, Part]:
    """Return the parts of a room by name: the package's own first, then those of folders, then installed ones.

    Args:
        package: the room's full name, which is also the group of entry points; its last component names the subfolder
            of extension folders.
        attribute: the module attribute that holds the part.
        part_type: what the part must be an instance of.
        names: what the part's name must be like.

    Raises:
        InputError: a file cannot be imported, an attribute holds something else, a part's name is not allowed, or two
            parts have the same name.
    """
    return _parts(_modules(package), attribute, part_type, names)


def own_parts(
    package: str, attribute: str, part_type: type[Part], names: re.Pattern[str] = PART_NAME
) -> dict[str, Part]:
    """Return the package's own parts of a room by name; no code of an extension is executed."""
    return _parts(_own_modules(package), attribute, part_type, names)


def _parts(
    modules: Iterable[ModuleType], attribute: str, part_type: type[Part], names: re.Pattern[str]
) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    origins: dict[str, str] = {}
    for module in modules:
        part = getattr(module, attribute, None)
        if part is None:
            continue
        origin = getattr(module, "__file__", None) or module.__name__
        if not isinstance(part, part_type):
            raise InputError(
                origin, f"{attribute} is a {type(part).__name__}", f"Make it an instance of {part_type.__name__}."
            )
        if not (isinstance(part.name, str) and names.fullmatch(part.name)):
            remedy = "Begin it with a lowercase letter; use at most 63 lowercase letters, digits and _."
            raise InputError(origin, f"{attribute}.name is {part.name!r}", remedy)
        if part.name in parts:
            raise InputError(origin, f"{part.name!r} is already defined by {origins[part.name]}", "Rename one of them.")
        parts[part.name], origins[part.name] = part, origin
    return parts


def _modules(package: str) -> Iterator[ModuleType]:
    """Yield the modules of a room, each once."""
    yield from _own_modules(package)
    room = package.rpartition(".")[2]
    for folder in extension_folders():
        for file in sorted((folder / room).glob("[!._]*.py")):
            yield _load(file, room)
    for entry in sorted(entry_points(group=package), key=lambda entry: entry.name):
        yield _load_entry_point(entry)


def _own_modules(package: str) -> Iterator[ModuleType]:
    for module in iter_modules(import_module(package).__path__):
        if not module.name.startswith("_"):
            yield import_module(f"{package}.{module.name}")


def _load(file: Path, room: str) -> ModuleType:
    """Import a file of an extension folder, once in each process.

    Its module name contains a hash of the folder, because two folders may have files of the same name.
    """
    digest = hashlib.sha256(os.fsencode(file.parent)).hexdigest()[:8]
    name = f"{MODULE_PREFIX}.{room}_{digest}.{file.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018  # a .py file has a loader
    module = module_from_spec(spec)
    sys.modules[name] = module  # before it runs, because dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception | SystemExit):
            raise _unusable(str(file), error, "Correct the file.") from error
        raise
    return module


def _load_entry_point(entry: EntryPoint) -> ModuleType:
    where = f"the entry point {entry.name} of {entry.group}"
    try:
        module = entry.load()
    except (Exception, SystemExit) as error:
        raise _unusable(where, error, "Correct or uninstall its package.") from error
    if not isinstance(module, ModuleType):
        raise InputError(where, f"{entry.value} is not a module", "Name a module, not an object in it.")
    return module


def _unusable(where: str, error: BaseException, remedy: str) -> InputError:
    return InputError(where, f"cannot be imported ({type(error).__name__}: {error})", remedy)
