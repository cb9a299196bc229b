"""Writes articles of Python's own manual as documents: `python manual.py corpus/manual.jsonl`.

They come with every Python, and are the real text among which the planted documents are to be found.
"""

import json
import sys
from pathlib import Path
from pydoc_data.topics import topics

CHARACTERS = 40_000
"""How much text is written; more takes longer in proportion."""


def write(target: Path) -> None:
    """Write the first articles, in alphabetical order, as rows with a title and a text.

    Args:
        target: the .jsonl file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("w", encoding="utf-8") as file:
        for title, text in sorted(topics.items()):
            if written + len(text) <= CHARACTERS:
                file.write(json.dumps({"title": title, "source": "Python manual", "text": text}) + "\n")
                written += len(text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write(Path(sys.argv[1]))
