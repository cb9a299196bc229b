"""What commands print about files in the corpus's folder that are not read."""

from rich.console import Console
from rich.markup import escape

from influence_assets.cli.figures import counted
from influence_assets.corpus.source_format import corpus_suffixes
from influence_assets.corpus.sources import unread_files
from influence_assets.escaping import visible
from influence_assets.study import Study

FILES_SHOWN = 5


def print_unread(study: Study, console: Console) -> None:
    """Print how many files have a suffix that nothing reads, and the names of the first; nothing if there are none."""
    names = unread_files(study.corpus)
    if names:
        more = f" and {len(names) - FILES_SHOWN:,} more" if len(names) > FILES_SHOWN else ""
        shown = escape(visible(", ".join(names[:FILES_SHOWN]))) + more
        endings = ", ".join(corpus_suffixes())
        console.print(
            f"[yellow]Not read[/]: {counted(len(names), 'file')} of other kinds: {shown}. Read are {endings}.",
            soft_wrap=True,
            highlight=False,
        )
