"""README.md and docs/: what scripts write in them is up to date, every link leads somewhere, every command exists."""

import json
import re
import shlex
from itertools import chain
from pathlib import Path

import pytest
import typer

from benchmarks import board, report
from docs import samples
from docs.blocks import PAGES, ROOT, blocks
from docs.references import references
from docs.terminal import text_of
from influence_assets.cli.app import build_app

REFERENCES = references()
README = ROOT / "README.md"
BYTES = 9_000
"""A newcomer reads the README whole."""

OF_EARLIER_DAYS = {"CHANGELOG.md", "log.md"}
"""Pages that tell of commands as they were."""

IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= BYTES


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_a_reference_is_that_of_the_code(name):
    assert blocks("generated")[name] == REFERENCES[name], "write it anew: python -m docs.references"


def test_no_block_lacks_its_script():
    steps = chain(samples.EXAMPLE, samples.DEMO)
    assert blocks("sample").keys() == {step.name for step in steps if not isinstance(step, samples.Edit) and step.name}
    assert blocks("generated").keys() == REFERENCES.keys()


@pytest.mark.parametrize(("page", "markers"), [("README.md", report.FIGURES), ("docs/benchmarks.md", report.SPEED)])
def test_the_figures_are_those_of_the_results(page, markers):
    rows = json.loads((ROOT / "benchmarks/results.json").read_text(encoding="utf-8"))
    made = {report.FIGURES: report.figures, report.SPEED: report.section}[markers](rows)
    assert report.between((ROOT / page).read_text(encoding="utf-8"), markers) == made


def test_the_board_is_that_of_the_judged_figures():
    made = board.section({half: board.read(half) for half in board.HALVES})
    assert report.between(board.PAGE.read_text(encoding="utf-8"), board.MARKERS) == made, (
        "write it anew: python -m benchmarks.board"
    )


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page)):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), target
            if anchor:
                assert anchor in _anchors(file), target


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in OF_EARLIER_DAYS], ids=lambda page: page.name
)
def test_every_command_exists_with_its_options(page):
    group = typer.main.get_command(build_app())
    for line in _commands(page.read_text(encoding="utf-8")):
        name, *arguments = shlex.split(line)[1:]
        try:
            group.commands[name].make_context(name, arguments).close()
        except typer.BadParameter as error:  # a sentence may name a command and nothing else
            if arguments or not str(error).startswith("Missing parameter"):
                raise


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"\bmake ([a-z]+)\b(?=`|  )", page.read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def test_the_picture_shows_an_answer():
    text = text_of(samples.PICTURE)
    assert text.startswith("$ influence ask")
    assert " nats" in text


def _commands(text: str) -> list[str]:
    """Every command in code, without what a reader has to fill in."""
    fenced = [
        line.removeprefix("$ ")
        for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    inline = re.findall(r"`(influence [a-z][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    commands = [line.split("   #")[0].strip() for line in [*fenced, *inline]]
    return [
        line for line in commands if re.match(r"influence [a-z-]+", line) and not re.search(r"[A-Z]{2,}|…|\[", line)
    ]


def _without_code(page: Path) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """The anchors that a page's headings have where Markdown is shown."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
