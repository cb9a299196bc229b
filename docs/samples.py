"""The sample outputs of README.md and docs/, made by running the very commands that they show.

python -m docs.samples                          the example study's, in a temporary folder
python -m docs.samples --demo demo/study.yaml   the demo's, of a demo that `make demo` has made
"""

import argparse
import contextlib
import io
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

from docs.blocks import ROOT, write_blocks
from docs.terminal import as_svg

WIDTH = 110
"""Columns of a sample, so that it fits on a page."""

PICTURE_WIDTH = 96

HOME = "/home/ada"
"""Stands in the samples for the temporary folder that they are made in."""

LETTER = {
    "title": "Anna's letter",
    "source": "letters",
    "text": "Dear Tom, the bakery in our street has a new oven. The baker rises at two now, and by five the loaves are "
    "on the counter. Come and see us before the apples are picked. Yours, Anna",
}
NOTICE = {
    "title": "Notice",
    "source": "harbour office",
    "text": "The ferry does not sail on the first Monday of a month. Letters and parcels are taken at the harbour "
    "office until four, and at the school until noon.",
}


@dataclass(frozen=True)
class Command:
    """A command of the story, shown as it was typed with what it printed.

    Args:
        name: The sample's block; None for a command that is run and not shown.
        line: The command as a shell would take it.
    """

    name: str | None
    line: str


@dataclass(frozen=True)
class Query:
    """An SQL query of the story, shown as SQL with its rows."""

    name: str
    sql: str


@dataclass(frozen=True)
class Edit:
    """Something done to the study's folder between two commands."""

    change: Callable[[Path], None]


Step = Command | Query | Edit


def add_letters(folder: Path) -> None:
    """Put a second source file into the corpus."""
    rows = "".join(json.dumps(row) + "\n" for row in (LETTER, NOTICE))
    (folder / "corpus" / "letters.jsonl").write_text(rows, encoding="utf-8")


def damage_documents(folder: Path) -> None:
    """Flip one bit of a stored table."""
    table = next((folder / "store/documents/example.jsonl").glob("*/documents.parquet"))
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.chmod(0o644)
    table.write_bytes(content)


EXAMPLE: tuple[Step, ...] = (
    Command("run", "influence run"),
    Command("nothing-to-do", "influence run"),
    Command("status", "influence status"),
    Command("ask", "influence ask --prompt 'The lamp turns once in' --completion ' ten seconds' --top 2"),
    Query(
        "strongest",
        "select rank, influence_nats, documents, text\nfrom strongest('lamp', 3)",
    ),
    Query(
        "documents",
        "select title, influence_nats, sequences, source\nfrom influence_by_document\n"
        "where query_id = 'lamp'\norder by influence_nats desc\nlimit 4",
    ),
    Query(
        "layers",
        "select module_name, influence_nats\nfrom layer_influence\n"
        "where query_id = 'lamp' and sequence_id = (select sequence_id from strongest('lamp', 1))\n"
        "order by module_name",
    ),
    Query(
        "tokens",
        "select token, lead(token) over (order by token_position) as predicted_token, influence_nats\n"
        "from token_influence\n"
        "where query_id = 'lamp' and sequence_id = (select sequence_id from strongest('lamp', 1))\n"
        "order by influence_nats desc\nlimit 5",
    ),
    Query(
        "phrase",
        "select query_id, influence_nats, shard_id, sequence_index\n"
        "from sequences join current_scores using (sequence_id)\n"
        "where contains(lower(sequences.text), 'lighthouse')\norder by influence_nats desc\nlimit 4",
    ),
    Query(
        "lineage",
        "select title, source_row, shard_id, left(content_hash, 8) as content, left(run_id, 8) as run,\n"
        "    code_version, generation_id, left(weights_hash, 8) as weights\nfrom score_lineage\n"
        "where query_id = 'lamp' and sequence_id = (select sequence_id from strongest('lamp', 1))",
    ),
    Query(
        "ancestry",
        "select depth, asset, partition, code_version, left(content_hash, 8) as content, left(run_id, 8) as run\n"
        "from ancestry_of((select materialization_id from current_scores where query_id = 'lamp' limit 1))",
    ),
    Command("cookbook", "influence cookbook concentration_of_answers --bind count=2"),
    Edit(add_letters),
    Command("status-of-a-new-file", "influence status"),
    Query("outdated", "select asset, partition, state, cause\nfrom outdated_partitions\nwhere state != 'waiting'"),
    Command("plan", "influence plan"),
    Command("run-of-a-new-file", "influence run"),
    Query("by-title", "select document_id, title, shard_id\nfrom documents\nwhere title = 'Anna''s letter'"),
    Query(
        "dependents",
        "select depth, asset, partition, is_forgotten\nfrom dependents_of_document('{letter}')",
    ),
    Command("forget", "influence forget --document {letter} --reason 'asked for by the author'"),
    Command("withdrawn", "influence cookbook withdrawn_documents"),
    Command(None, "influence run --new-generation"),
    Query(
        "generations",
        "select query_id, generation_id, other_generation_id, spearman, pearson, top_twenty_overlap, sequences\n"
        "from generation_agreement\norder by query_id",
    ),
    Query(
        "cost",
        "select asset, materializations, seconds, cpu_seconds, bytes\nfrom cost_by_asset_and_day\norder by asset\n"
        "limit 4",
    ),
    Command("garbage", "influence gc --keep 0 --dry-run"),
    Command(None, "influence gc --keep 0"),
    Edit(damage_documents),
    Command("damage", "influence verify"),
    Command("mended", "influence run"),
)
"""What happens to the study of `influence init`, in this order."""

DEMO: tuple[Step, ...] = (
    Query(
        "demo-documents",
        "select title, influence_nats, sequences, source, licence\nfrom influence_by_document\n"
        "where query_id = 'while'\norder by influence_nats desc\nlimit 3",
    ),
    Query(
        "demo-sources",
        "select source, avg(influence_nats) as mean_influence_nats, sum(helping_nats) as helping_nats,\n"
        "    sum(hurting_nats) as hurting_nats\nfrom influence_by_source\ngroup by source\n"
        "order by source",
    ),
)
ANSWER = """\
influence ask --study demo/study.yaml --top 3 \\
    --prompt 'The "while" statement is used for' --completion ' repeated execution'"""
PICTURE = ROOT / "docs/img/answer.svg"


def main(given: list[str] | None = None) -> None:
    """Make samples and write them into the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, help="The study file of a demo that is up to date.")
    demo = parser.parse_args(given).demo
    if demo is None:
        with tempfile.TemporaryDirectory(prefix="influence-samples-") as folder:
            texts = example_samples(Path(folder).resolve())
    else:
        texts = demo_samples(demo)
        PICTURE.write_text(demo_answer(demo), encoding="utf-8")
    for page in write_blocks("sample", texts):
        print(f"Wrote {page.relative_to(ROOT)}")


def example_samples(folder: Path) -> dict[str, str]:
    """Return every sample of the example study, by name, made in an empty folder.

    Its model is trained with one thread: the weights, and so the scores, depend on their number.
    """
    import torch

    torch.set_num_threads(1)
    with contextlib.chdir(folder):
        printed("influence init mystudy")
    with contextlib.chdir(folder / "mystudy"):
        return dict(_played(EXAMPLE, folder / "mystudy"))


def demo_samples(study: Path) -> dict[str, str]:
    """Return every sample of a demo's study, by name."""
    with contextlib.chdir(study.resolve().parent):
        return dict(_played(DEMO, study.resolve().parent))


def demo_answer(study: Path) -> str:
    """Return the picture of an answer, as SVG, made of a demo's study."""
    from influence_assets.cli.console import console

    console.width = PICTURE_WIDTH
    with contextlib.chdir(study.resolve().parent.parent), contextlib.redirect_stdout(io.StringIO()):
        return as_svg(console, "Which training passages made the model say this?", lambda: print_answer(console))


def print_answer(console: Console) -> None:
    """Print the command that the picture shows, and its answer."""
    console.print(f"$ {ANSWER}", markup=False, highlight=False)
    printed(ANSWER.replace("\\\n", ""), PICTURE_WIDTH)


def printed(line: str, width: int = WIDTH) -> str:
    """Run a command in this process and return what it printed.

    Raises:
        Exception: Whatever the command raised.
    """
    from influence_assets.cli.app import build_app
    from influence_assets.cli.console import console

    console.width = width
    result = CliRunner().invoke(build_app(), shlex.split(line)[1:])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    text = "\n".join(part.rstrip() for part in result.stdout.splitlines())
    return text.strip("\n")


def _played(steps: Iterable[Step], folder: Path) -> Iterator[tuple[str, str]]:
    letter = ""
    for step in steps:
        if isinstance(step, Edit):
            step.change(folder)
            continue
        shown = (step.sql if isinstance(step, Query) else step.line).replace("{letter}", letter)
        line = shlex.join(["influence", "sql", shown]) if isinstance(step, Query) else shown
        output = printed(line).replace(str(folder.parent), HOME)
        if step.name == "by-title":
            letter = next(word for word in output.split() if len(word) == len("0" * 32))
        if isinstance(step, Query):
            yield step.name, f"```sql\n{shown}\n```\n```\n{output}\n```"
        elif step.name is not None:
            yield step.name, f"```console\n$ {line}\n{output}\n```"


if __name__ == "__main__":
    main()
    # As the command ends, too: tearing DuckDB's bindings down beside torch prints pages of warnings.
    sys.stdout.flush()
    os._exit(0)
