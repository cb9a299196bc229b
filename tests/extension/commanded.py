"""Whole studies with made-up parts, as the command line runs and damages them."""

from pathlib import Path

from tests.commanding import influence


def run(study: Path) -> dict[str, int]:
    """Bring everything up to date; returns how many partitions of each asset were computed."""
    ended = influence("run", "--study", study)
    assert ended.code == 0, ended.out + ended.err
    rows = [line.split() for line in ended.out.splitlines()]
    # asset, computed, up to date
    counted = {row[0]: int(row[1]) for row in rows if len(row) > 2 and row[1].isdigit() and row[2].isdigit()}
    return {asset: count for asset, count in counted.items() if count}


def damage(folder: Path) -> None:
    """Change one bit of the largest file below a folder."""
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
