"""`influence ask`."""

from collections.abc import Mapping
from typing import Annotated

import typer
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.escaping import visible
from influence_assets.study import Study


def ask(
    prompt: Annotated[str, typer.Option(help="What the model is given.")],
    completion: Annotated[str, typer.Option(help="What it said, or might say.")],
    top: Annotated[int, typer.Option(min=1, help="Passages to show.")] = 5,
    study: StudyOption = HERE,
) -> None:
    """Answer a new question from the stored sketches: which passages raise this completion's probability."""
    loaded = Study.load(study)  # first, so that an invalid study fails before the slow import of torch below
    from influence_assets.api import ask
    from influence_assets.assets import open_workspace
    from influence_assets.engine.versions import Versions

    answer = ask(Versions(open_workspace(loaded), "published"), prompt, completion, top)
    console.print(f"[dim]{escape(visible(prompt))}[/][bold]{escape(visible(completion))}[/]", soft_wrap=True)
    console.print(
        f"log-probability {answer.log_probability_nats:.2f} nats over {answer.completion_tokens} tokens; "
        f"{answer.sequences:,} training sequences compared by their sketches: the scores are estimates"
        + ("" if answer.agreement is None else f" (correlation with exact ones {answer.agreement:.2f})")
    )
    for rank, passage in enumerate(answer.passages, start=1):
        documents = ", ".join(map(_document_name, passage.documents))
        title = f"{rank}. ≈ {passage.influence_nats:+.3g} nats · {documents}"
        place = f"{passage.shard_id} · sequence {passage.sequence_index}"
        console.print(Panel(Text(visible(passage.text)), title=Text(title), subtitle=Text(place), title_align="left"))
    if answer.unsketched_shards:
        console.print(
            f"[yellow]Not compared, because they have no sketches yet:[/] {escape(', '.join(answer.unsketched_shards))}"
        )


def _document_name(document: Mapping[str, str | None]) -> str:
    """Return the document's title, or failing that an id, and its source, on one line."""
    name = document["title"] or document["external_id"] or str(document["document_id"])[:12]
    return " ".join(visible(f"{name} ({document['source']})" if document["source"] else name).split())


COMMAND = Command(name="ask", function=ask, rank=80)
