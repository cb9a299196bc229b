"""Finds the parts that a room of the package holds: its own files, those of extension folders, and installed ones.

A room is a package whose modules each define one part under an agreed name, such as `METHOD` in
`influence_assets.methods` or `ASSET` in `influence_assets.assets`. Adding a part takes one file, in one of three places:

- in the room itself;
- in a folder of the same name below an extension folder (`extensions` in the study, or `INFLUENCE_EXTENSIONS`, which
  lists folders as PATH does): `my_extensions/methods/nearest.py`;
- in an installed package, whose entry points of the room's group name modules:
  `[project.entry-points."influence_assets.methods"] nearest = "my_package.nearest"`.

Modules whose names begin with an underscore, and those without a part, are passed over.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Protocol, TypeVar

from influence_assets.errors import InputError

EXTENSIONS = "INFLUENCE_EXTENSIONS"
"""The environment variable that lists extension folders, separated as in PATH."""

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
    """Look for parts in these extension folders too, for as long as this process lives.

    Raises:
        InputError: a folder does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InputError("extensions", f"{folder} is not a folder", "Name a folder that exists, or leave it out.")
        _folders[folder.resolve()] = None


def extension_folders() -> list[Path]:
    """The extension folders of the environment and of the studies that this process has loaded."""
    named = [Path(folder).resolve() for folder in os.environ.get(EXTENSIONS, "").split(os.pathsep) if folder]
    return list(dict.fromkeys([*named, *_folders]))


def discover(package: str, attribute: str, part_type: type[Part]) -> dict[str, Part]:
    """Return the parts of a room by name: the package's own first, then those of folders, then installed ones.

    Args:
        package: the room's full name, which is also the group of entry points; its last component names the subfolder
            of extension folders.
        attribute: the module attribute that holds the part.
        part_type: what the part must be an instance of.

    Raises:
        InputError: a file cannot be imported, an attribute holds something else, or two parts have the same name.
    """
    parts: dict[str, Part] = {}
    origins: dict[str, str] = {}
    for module in _modules(package):
        part = getattr(module, attribute, None)
        if part is None:
            continue
        origin = getattr(module, "__file__", None) or module.__name__
        if not isinstance(part, part_type):
            raise InputError(
                origin, f"{attribute} is a {type(part).__name__}", f"Make it an instance of {part_type.__name__}."
            )
        if part.name in parts:
            raise InputError(origin, f"{part.name!r} is already defined by {origins[part.name]}", "Rename one of them.")
        parts[part.name], origins[part.name] = part, origin
    return parts


def _modules(package: str) -> Iterator[ModuleType]:
    """The modules of a room, each once."""
    for module in iter_modules(import_module(package).__path__):
        if not module.name.startswith("_"):
            yield import_module(f"{package}.{module.name}")
    room = package.rpartition(".")[2]
    for folder in extension_folders():
        for file in sorted((folder / room).glob("[!_]*.py")):
            yield _load(file, f"{MODULE_PREFIX}.{room}.{file.stem}")
    for entry in entry_points(group=package):
        loaded = entry.load()
        if not isinstance(loaded, ModuleType):
            raise InputError(
                f"entry point {entry.name}", "does not name a module", f"Have it name a module: {package}."
            )
        yield loaded


def _load(file: Path, name: str) -> ModuleType:
    """Import a file of an extension folder, once a process."""
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(file):
        return known
    spec = spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018  # a .py file has a loader
    module = module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(
            str(file), f"cannot be imported ({type(error).__name__}: {error})", "Mend the file."
        ) from error
    return module
