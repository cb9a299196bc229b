"""Parts are found in the package, in extension folders and by entry points, and what cannot serve is named."""

import os
import string
import sys
import textwrap
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from influence_assets import extensions
from influence_assets.corpus.source_format import source_formats
from influence_assets.errors import InputError
from influence_assets.extensions import EXTENSIONS, MODULE_PREFIX, add_folders, discover, extension_folders

ROOM = "room_of_tests"


@dataclass(frozen=True)
class Lamp:
    name: str


LAMP = "from tests.test_extensions import Lamp\nLAMP = Lamp({!r})\n"


def lamps():
    return discover(ROOM, "LAMP", Lamp)


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(content), encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def _no_module_stays():
    """No module of another test."""
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in (MODULE_PREFIX, ROOM, "installed_lamp"):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def room(tmp_path, monkeypatch):
    """The package's own room, with one part, a module without a part, and one that is not for discovery."""
    write(tmp_path / "package" / ROOM / "__init__.py", "")
    write(tmp_path / "package" / ROOM / "own.py", LAMP.format("own"))
    write(tmp_path / "package" / ROOM / "plain.py", "BULB = 1")
    write(tmp_path / "package" / ROOM / "_shared.py", "raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "package"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An extension folder that the environment names."""
    folder = tmp_path / "extension"
    (folder / ROOM).mkdir(parents=True)
    monkeypatch.setenv(EXTENSIONS, str(folder))
    return folder


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs entry points of the room's group, each given by its value."""
    points: list[EntryPoint] = []
    monkeypatch.setattr(extensions, "entry_points", lambda group: EntryPoints(points).select(group=group))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    write(tmp_path / "site" / "installed_lamp.py", LAMP.format("installed"))

    def install(value, group=ROOM):
        points.append(EntryPoint(f"point_{len(points)}", value, group))

    return install


def test_the_rooms_own_parts_come_first_then_folders_then_installed_ones(folder, installed):
    write(folder / ROOM / "b.py", LAMP.format("second"))
    write(folder / ROOM / "a.py", LAMP.format("first"))
    installed("installed_lamp")
    installed("nowhere", group="another_room")
    assert list(lamps()) == ["own", "first", "second", "installed"]
    assert all(lamp.name == name for name, lamp in lamps().items())


def test_a_room_below_a_room_takes_the_subfolder_of_its_own_name(tmp_path, monkeypatch):
    write(tmp_path / "package" / ROOM / "formats" / "__init__.py", "")
    write(tmp_path / "extension" / "formats" / "a.py", LAMP.format("a"))
    write(tmp_path / "extension" / ROOM / "b.py", LAMP.format("b"))
    monkeypatch.setenv(EXTENSIONS, str(tmp_path / "extension"))
    assert list(discover(f"{ROOM}.formats", "LAMP", Lamp)) == ["a"]


def test_folders_of_the_environment_and_of_studies(tmp_path, monkeypatch):
    for name in "abc":
        write(tmp_path / name / ROOM / "lamp.py", LAMP.format(name))
    monkeypatch.setenv(EXTENSIONS, os.pathsep.join([str(tmp_path / "b"), "", str(tmp_path / "a")]))
    add_folders([tmp_path / "c", tmp_path / "a"])
    add_folders([tmp_path / "c"])
    assert extension_folders() == [tmp_path / "b", tmp_path / "a", tmp_path / "c"]
    assert list(lamps()) == ["own", "b", "a", "c"], "files of the same name in different folders are different modules"


def test_a_folder_without_the_room_adds_nothing(folder):
    (folder / ROOM).rmdir()
    assert list(lamps()) == ["own"]


def test_a_folder_that_does_not_exist_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"^extensions: .*/none is not a folder\. Name a folder that exists"):
        add_folders([tmp_path / "none"])
    assert extension_folders() == []
    monkeypatch.setenv(EXTENSIONS, str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"^INFLUENCE_EXTENSIONS: .*/none is not a folder"):
        lamps()


def test_files_that_are_not_for_discovery_are_not_run(folder):
    """Shared code, what editors and archives leave behind, and what is no Python."""
    for name in ("_shared.py", "__init__.py", ".hidden.py", "._lamp.py", ".#lamp.py", "lamp.pyc", "lamp.py~", "lamp"):
        write(folder / ROOM / name, "raise AssertionError('imported')")
    write(folder / ROOM / "below" / "lamp.py", "raise AssertionError('imported')")
    assert list(lamps()) == ["own"]


def test_a_file_is_run_once_a_process(folder, monkeypatch):
    monkeypatch.setattr(sys, "lamps_lit", 0, raising=False)
    write(folder / ROOM / "lamp.py", "import sys\nsys.lamps_lit += 1\n" + LAMP.format("lamp"))
    assert lamps()["lamp"] is lamps()["lamp"]
    assert sys.lamps_lit == 1


def test_a_file_may_define_classes_that_look_up_their_module(folder):
    content = """
        from __future__ import annotations
        from dataclasses import KW_ONLY, dataclass
        from typing import ClassVar
        from tests.test_extensions import Lamp

        @dataclass(frozen=True)
        class Tall(Lamp):
            colour: ClassVar[str] = "red"
            _: KW_ONLY
            height: int = 3

        LAMP = Tall("tall", height=4)
    """
    write(folder / ROOM / "tall.py", content)
    lamp = lamps()["tall"]
    assert (lamp.height, type(lamp).__dataclass_fields__.keys() >= {"name", "height"}) == (4, True)
    assert sys.modules[type(lamp).__module__].LAMP is lamp


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("LAMP = ", "SyntaxError"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("raise ValueError('no oil')", "ValueError: no oil"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_each_time(folder, content, reason):
    file = write(folder / ROOM / "broken.py", content)
    for _ in range(2):
        with pytest.raises(InputError) as refused:
            lamps()
        assert refused.value.where == str(file)
        assert reason in refused.value.problem
        assert refused.value.remedy == "Correct the file."
    write(file, LAMP.format("mended") + "# longer\n" * 20)
    assert "mended" in lamps()


def test_an_interrupt_is_no_fault_of_the_file(folder):
    before = {name for name in sys.modules if name.startswith(MODULE_PREFIX)}  # other tests' extensions
    write(folder / ROOM / "slow.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        lamps()
    assert {name for name in sys.modules if name.startswith(MODULE_PREFIX)} == before


def test_a_part_of_another_type_is_refused(folder):
    file = write(folder / ROOM / "candle.py", "LAMP = 'wax'")
    with pytest.raises(InputError) as refused:
        lamps()
    assert str(refused.value) == f"{file}: LAMP is a str. Make it an instance of Lamp."


@pytest.mark.parametrize(
    "name", ["", 5, None, "../x", "a/b", "a b", "x[y]", "A", "_a", "1a", "a-b", "é", "a\n", "a" * 64]
)
def test_a_part_whose_name_cannot_stand_in_a_path_or_in_sql_is_refused(folder, name):
    file = write(folder / ROOM / "odd.py", LAMP.format(name))
    with pytest.raises(InputError) as refused:
        lamps()
    assert (refused.value.where, refused.value.problem) == (str(file), f"LAMP.name is {name!r}")
    if name == "a-b":
        assert "a-b" in discover(ROOM, "LAMP", Lamp, extensions.HYPHENATED_NAME), "as commands have them"


@pytest.mark.parametrize("suffixes", [".log", [".log"], ("",), ("log",), (".",), (5,), None])
def test_a_format_whose_suffixes_are_not_endings_of_names_is_refused(folder, suffixes):
    content = f"""
        from influence_assets.corpus.source_format import SourceFormat
        def rows(*_): ...
        FORMAT = SourceFormat(name="log", suffixes={suffixes!r}, rows=rows, columns=rows)
    """
    file = write(folder / "formats" / "log.py", content)
    with pytest.raises(InputError, match=r"the suffixes of log are .*\. Make them a tuple of strings") as refused:
        source_formats()
    assert refused.value.where == str(file)


def test_two_parts_of_the_same_name_are_refused_with_both_places(folder, tmp_path):
    file = write(folder / ROOM / "mine.py", LAMP.format("own"))
    with pytest.raises(InputError) as refused:
        lamps()
    own = tmp_path / "package" / ROOM / "own.py"
    assert str(refused.value) == f"{file}: 'own' is already defined by {own}. Rename one of them."


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("nowhere.lamp", "cannot be imported (ModuleNotFoundError"),
        ("installed_lamp:NONE", "cannot be imported (AttributeError"),
        ("installed_lamp:LAMP", "installed_lamp:LAMP is not a module"),
    ],
)
def test_an_entry_point_that_does_not_serve_is_named(installed, value, problem):
    installed(value)
    with pytest.raises(InputError) as refused:
        lamps()
    assert refused.value.where == f"the entry point point_0 of {ROOM}"
    assert problem in refused.value.problem


# Any name that a file system takes: no slash, no zero byte, at most 255 bytes with the suffix.
stems = st.text(
    st.one_of(st.sampled_from(string.printable), st.characters(codec="utf-8")).filter(lambda c: c not in "/\0"),
    min_size=1,
    max_size=40,
).filter(lambda stem: len(os.fsencode(stem)) < 250)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stem=stems)
def test_files_of_any_name_are_discovered_and_named_when_broken(folder, stem):
    file = folder / ROOM / f"{stem}.py"
    try:
        write(file, LAMP.format("lamp"))
        discovered = lamps()
        assert ("lamp" in discovered) is (stem[0] not in "._")
        if "lamp" in discovered:
            assert Path(sys.modules[_module_of(stem)].__file__) == file
            del sys.modules[_module_of(stem)]
            write(file, "1 / 0  # broken\n" * 3)
            with pytest.raises(InputError) as refused:
                lamps()
            assert refused.value.where == str(file)
    finally:
        file.unlink()


def _module_of(stem):
    (name,) = [name for name in sys.modules if name.startswith(f"{MODULE_PREFIX}.") and name.endswith(f".{stem}")]
    return name


def test_a_file_whose_name_is_not_text_is_discovered(folder):
    file = Path(os.fsdecode(os.fsencode(folder / ROOM) + b"/caf\xe9.py"))
    write(file, LAMP.format("latin"))
    assert "latin" in lamps()
