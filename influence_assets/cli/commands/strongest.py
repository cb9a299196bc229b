"""`influence strongest`."""

from typing import Annotated

import typer

from influence_assets.cli.command import HERE, Command, FullOption, StudyOption, UnseenOption
from influence_assets.cli.console import console
from influence_assets.study import Study


def strongest(
    query_id: Annotated[str, typer.Argument(help="The query, by its query_id.")],
    top: Annotated[int, typer.Option(min=1, help="Passages to show.")] = 5,
    unseen: UnseenOption = False,  # noqa: FBT002  # typer's own form
    full: FullOption = False,  # noqa: FBT002
    study: StudyOption = HERE,
) -> None:
    """Show the passages that raise a stored query's completion most, around the words through which they act."""
    loaded = Study.load(study)
    from influence_assets.api import strongest
    from influence_assets.assets import open_workspace
    from influence_assets.cli.passages import print_answer
    from influence_assets.engine.versions import Versions

    answer = strongest(Versions(open_workspace(loaded), "published"), query_id, top, unseen=unseen)
    print_answer(answer, "scored", console, full=full)


COMMAND = Command(name="strongest", function=strongest, rank=75)
