"""`influence rebuild-catalogue`."""

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.study import Study


def rebuild_catalogue(study: StudyOption = HERE) -> None:
    """Rebuild the DuckDB file from the stored arrays and tables."""
    from influence_assets.assets import open_workspace
    from influence_assets.engine.catalogue import rebuild_catalogue
    from influence_assets.engine.versions import Versions

    change = rebuild_catalogue(Versions(open_workspace(Study.load(study)), "published"))
    console.print(
        f"Rebuilt from {change.loaded} artifacts in {change.seconds:.1f} s: {sum(change.rows.values()):,} rows."
    )


COMMAND = Command(name="rebuild-catalogue", function=rebuild_catalogue, rank=110)
