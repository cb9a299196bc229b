"""Blocks of Markdown that scripts write: what stands between `<!-- kind: name -->` and `<!-- /kind -->`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Kind = Literal["sample", "generated"]

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CHANGELOG.md")

_BLOCK = re.compile(
    r"<!-- (?P<kind>sample|generated): (?P<name>[\w-]+) -->\n(?P<text>.*?)\n?<!-- /(?P=kind) -->", re.DOTALL
)


def blocks(kind: Kind) -> dict[str, str]:
    """Return the text of every block of one kind, over all pages, by name.

    Raises:
        ValueError: Two blocks have the same name.
    """
    texts: dict[str, str] = {}
    for page in PAGES:
        for block in _BLOCK.finditer(page.read_text(encoding="utf-8")):
            if block["kind"] == kind:
                if block["name"] in texts:
                    raise ValueError(f"{page.name}: a second block is called {block['name']}")
                texts[block["name"]] = block["text"]
    return texts


def write_blocks(kind: Kind, texts: Mapping[str, str]) -> list[Path]:
    """Replace the text of the blocks of one kind that are named; return the pages that changed."""

    def replaced(block: re.Match[str]) -> str:
        if block["kind"] != kind or block["name"] not in texts:
            return block[0]
        return f"<!-- {kind}: {block['name']} -->\n{texts[block['name']]}\n<!-- /{kind} -->"

    changed = []
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = _BLOCK.sub(replaced, before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            changed.append(page)
    return changed
