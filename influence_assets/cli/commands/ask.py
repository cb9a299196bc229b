"""`influence ask`."""

from typing import Annotated

import typer

from influence_assets.cli.command import HERE, Command, FullOption, StudyOption, UnseenOption
from influence_assets.cli.console import console
from influence_assets.study import Study


def ask(
    prompt: Annotated[str, typer.Option(help="What the model is given.")],
    completion: Annotated[str, typer.Option(help="What it said, or might say.")],
    top: Annotated[int, typer.Option(min=1, help="Passages to show.")] = 5,
    unseen: UnseenOption = False,  # noqa: FBT002  # typer's own form
    full: FullOption = False,  # noqa: FBT002
    study: StudyOption = HERE,
) -> None:
    """Answer a new question from the stored sketches: which passages raise this completion's probability."""
    loaded = Study.load(study)  # first, so that an invalid study fails before the slow import of torch below
    from influence_assets.api import ask
    from influence_assets.assets import open_workspace
    from influence_assets.cli.passages import print_answer
    from influence_assets.engine.versions import Versions

    answer = ask(Versions(open_workspace(loaded), "published"), prompt, completion, top, unseen=unseen)
    found = "searched by their sketches"
    found += "" if answer.agreement is None else f" (correlation with exact scores {answer.agreement:.2f})"
    print_answer(answer, f"{found}, the strongest scored exactly", console, full=full)


COMMAND = Command(name="ask", function=ask, rank=80)
