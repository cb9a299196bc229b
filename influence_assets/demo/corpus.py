"""The demo's corpus: CPython's own manual and the docstrings of its standard library.

Nothing is downloaded, and only the manual is imported; docstrings are found by parsing the source files. The same
interpreter always writes the same bytes.
"""

import ast
import platform
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data.topics import topics

from influence_assets.demo.files import write_rows
from influence_assets.errors import InputError

MANUAL_SHARD = "manual.jsonl"
PACKAGES = ("asyncio", "http", "logging", "unittest")
HELD_BACK_PACKAGE = "urllib"

LICENCE = "PSF-2.0"
# Shorter docstrings hold nothing to ask about. Longer ones are whole tutorials, which would take training time from the
# manual, the subject of the questions.
SHORTEST_DOCSTRING = 200
LONGEST_DOCSTRING = 6000


@dataclass(frozen=True)
class DemoDocument:
    """One row of a demo shard; every field but `text` reaches SQL as metadata."""

    title: str
    text: str
    source: str
    licence: str
    url: str


def write_corpus(folder: Path) -> list[Path]:
    """Write the shards that the demo starts with: the manual and one file for each of `PACKAGES`.

    Returns:
        The files, in order.

    Raises:
        InputError: this Python does not include the source files of its standard library.
    """
    shards = [write_rows(folder / MANUAL_SHARD, map(asdict, manual_articles()))]
    shards += [_write_package(package, folder) for package in PACKAGES]
    return shards


def write_held_back_shard(folder: Path) -> Path:
    """Write the shard that is added to the corpus later, to show what a new file costs."""
    return _write_package(HELD_BACK_PACKAGE, folder)


def manual_articles() -> Iterator[DemoDocument]:
    """Yield the articles of the interactive `help()`, which `pydoc_data.topics` holds, by name."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for topic in sorted(topics):
        url = f"https://docs.python.org/{version}/search.html?q={topic}"
        yield DemoDocument(topic, topics[topic], "CPython manual", LICENCE, url)


def package_docstrings(package: str) -> Iterator[DemoDocument]:
    """Yield the docstrings of a standard-library package, file by file, in the order of the source.

    Each belongs to a module, class or function, whose qualified name is its title, and has `SHORTEST_DOCSTRING` to
    `LONGEST_DOCSTRING` characters. The package's own tests are left out.

    Raises:
        InputError: the package's source files are missing.
    """
    library = Path(sysconfig.get_path("stdlib"))
    files = [file for file in sorted((library / package).rglob("*.py")) if not {"test", "tests"} & set(file.parts)]
    if not files:
        raise InputError(
            str(library / package),
            "this Python does not include the source files of its standard library",
            "Run the demo with an ordinary CPython, such as your system's package or python.org's.",
        )
    for file in files:
        within = file.relative_to(library)
        module = ".".join(within.with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
        for name, line, docstring in _docstrings(tree, module):
            if SHORTEST_DOCSTRING <= len(docstring) <= LONGEST_DOCSTRING:
                url = f"https://github.com/python/cpython/blob/v{platform.python_version()}/Lib/{within.as_posix()}"
                yield DemoDocument(name, docstring, package, LICENCE, f"{url}#L{line}")


def _docstrings(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, int, str]]:
    """Yield qualified name, line and cleaned docstring of a module, class or function, and of those inside it."""
    docstring = ast.get_docstring(node)
    if docstring is not None:
        yield name, node.body[0].lineno, docstring
    # All descendants, because definitions also occur under `if` and `try`.
    pending: list[ast.AST] = list(reversed(list(ast.iter_child_nodes(node))))
    while pending:
        inner = pending.pop()
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(inner, f"{name}.{inner.name}")
        else:
            pending.extend(reversed(list(ast.iter_child_nodes(inner))))


def _write_package(package: str, folder: Path) -> Path:
    return write_rows(folder / f"{package}.jsonl", map(asdict, package_docstrings(package)))
