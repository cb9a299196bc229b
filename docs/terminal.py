"""Pictures of a terminal as SVG, which need no font and no script from elsewhere."""

import html
import re
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

THEME = TerminalTheme(
    background=(250, 250, 248),
    foreground=(36, 41, 47),
    normal=[
        (36, 41, 47), (180, 35, 24), (17, 99, 41), (154, 103, 0),
        (9, 105, 218), (130, 80, 223), (27, 124, 131), (110, 119, 129),
    ],
)  # fmt: skip
FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-family: sans-serif; font-size: 18px; font-weight: bold; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""  # noqa: E501
_TEXT = re.compile(r'<text [^>]*clip-path="url\(#[\w-]+line-(?P<line>\d+)\)"[^>]*>(?P<text>[^<]*)</text>')


def as_svg(console: Console, title: str, print_all: Callable[[], None]) -> str:
    """Return a picture of what is printed on a console while a function runs."""
    console.record = True
    try:
        print_all()
        svg = console.export_svg(title=title, theme=THEME, code_format=FORMAT, unique_id="terminal")
    finally:
        console.record = False
    return "".join(line.rstrip() + "\n" for line in svg.splitlines())


def text_of(picture: Path) -> str:
    """Return the text in a picture that `as_svg` made, line by line."""
    lines: dict[int, str] = {}
    for part in _TEXT.finditer(picture.read_text(encoding="utf-8")):
        line = int(part["line"])
        lines[line] = lines.get(line, "") + html.unescape(part["text"]).replace("\xa0", " ")
    return "\n".join(lines[line].rstrip() for line in sorted(lines))
