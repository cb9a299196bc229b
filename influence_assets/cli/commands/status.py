"""`influence status`."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.escaping import visible
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.engine.plan import AssetState
    from influence_assets.engine.versions import Versions

PARTITIONS_SHOWN = 4
"""How many outstanding partitions of each asset are named."""

CAUSES_SHOWN = 4
SHARDS_SHOWN = 50


def status(study: StudyOption = HERE) -> None:
    """Show shards, the generation, and what is missing or stale."""
    from influence_assets.assets import open_workspace
    from influence_assets.cli.drift import drift_proposal
    from influence_assets.cli.dropped import print_vanished_questions, published
    from influence_assets.cli.failed_checks import print_failed_checks
    from influence_assets.cli.notes import print_notes
    from influence_assets.cli.surroundings import surroundings
    from influence_assets.cli.unread import print_unread
    from influence_assets.cli.vanished import print_left_behind, print_vanished
    from influence_assets.engine.bring_up import drift
    from influence_assets.engine.failed_checks import outstanding
    from influence_assets.engine.plan import plan, state_rows
    from influence_assets.engine.versions import Versions
    from influence_assets.storage.catalogue import is_as_published, record_states

    loaded = Study.load(study)
    workspace = open_workspace(loaded)
    versions = Versions(workspace)
    states = list(plan(versions))
    console.print(f"Study [bold]{loaded.name}[/], store {escape(loaded.storage.root)}")
    console.print(_shards(versions))
    if (words := surroundings(versions)) is not None:
        console.print(escape(visible(words)), soft_wrap=True, highlight=False)
    console.print(_assets(states))
    if any(state.of("stale", "missing") for state in states):
        console.print(_causes(states))
    members = {member.number: list(plan(member)) for member in versions.members}
    for number, of_member in members.items():
        console.print(_member(number, of_member), highlight=False, soft_wrap=True)
    console.print(_generations(versions))
    if (measured := drift(versions)) is not None:
        console.print(drift_proposal(measured), soft_wrap=True)
    # Pairs of queries and shards can be very many, and none has notes.
    noted = [state for state in states if state.asset.partitioned_by != "pair"]
    print_notes(versions, [(each.asset, place.partition) for each in noted for place in each.of("standing")], console)
    if workspace.vanished:
        print_vanished(workspace.vanished, console)
    print_left_behind(workspace, console)
    print_vanished_questions(workspace, published(workspace), console)
    print_unread(loaded, console)
    if withdrawn := len(workspace.withdrawn.entries):
        console.print(f"{withdrawn} {'document is' if withdrawn == 1 else 'documents are'} listed as withdrawn.")
    failed = outstanding(versions)
    print_failed_checks(failed, console)
    is_changed = workspace.catalogue.exists() and not is_as_published(workspace.catalogue)
    if is_changed:
        console.print("[yellow]The catalogue is not as it was published[/]: `influence run` builds it again.")
    every = [*states, *(state for of_member in members.values() for state in of_member)]
    if any(state.outstanding for state in every):
        record_states(workspace.catalogue, state_rows(states))
        console.print("Bring it up to date with `influence run`.")
    elif not (failed or is_changed):
        console.print("[green]Everything is up to date.[/]")


def _shards(versions: "Versions") -> Table:
    """Return the first shards with those of their counts that are computed."""
    table = Table("shard", "documents", "sequences", "tokens", box=None, pad_edge=False)
    shards = list(versions.workspace.shards)
    for shard in shards[:SHARDS_SHOWN]:
        table.add_row(escape(shard), *_counts(versions, shard))
    if len(shards) > SHARDS_SHOWN:
        table.add_row(f"… and {len(shards) - SHARDS_SHOWN:,} more")
    return table


def _counts(versions: "Versions", shard: str) -> Iterator[str]:
    """Yield a shard's numbers of documents, sequences and tokens, or `–` for those that are not known yet."""
    from influence_assets.assets import asset_graph
    from influence_assets.engine.partitions import Partition

    for asset, names in (("documents", ["documents"]), ("token_sequences", ["sequences", "tokens"])):
        key = versions.key(asset_graph()[asset], Partition(shard=shard))
        is_held = key is not None and versions.holds(key)
        summary = versions.workspace.store.open(key).manifest.summary if key is not None and is_held else {}
        for name in names:
            yield f"{summary[name]:,}" if name in summary else "–"


def _assets(states: Sequence["AssetState"]) -> Table:
    """Return the number of partitions of each asset in each state, and name the first that are outstanding."""
    heads = ("asset", "up to date", "missing", "stale", "waiting", "outstanding partitions")
    table = Table(*heads, box=None, pad_edge=False)
    for state in states:
        keys = [partition.partition.key or "all" for partition in state.outstanding]
        shown = ", ".join(keys[:PARTITIONS_SHOWN]) + (" …" if len(keys) > PARTITIONS_SHOWN else "")
        counts = (str(len(state.of(kind))) for kind in ("standing", "missing", "stale", "waiting"))
        table.add_row(state.asset.name, *counts, escape(shown))
    return table


def _member(number: int, states: Sequence["AssetState"]) -> str:
    """Return how much of a further member of the ensemble is up to date, and what is not."""
    standing = sum(len(state.of("standing")) for state in states)
    partitions = sum(len(state.partitions) for state in states)
    left = [f"{state.asset.name} {len(state.outstanding):,}" for state in states if state.outstanding]
    outstanding = f"; outstanding: {', '.join(left)}" if left else ""
    return f"Member {number} of the ensemble: {standing:,} of {partitions:,} partitions are up to date{outstanding}."


def _causes(states: Sequence["AssetState"]) -> Table:
    """Return why the first partitions are outstanding, without those that only wait for others."""
    table = Table(box=None, pad_edge=False, show_header=False)
    caused = [partition for state in states for partition in state.of("stale", "missing")]
    for partition in caused[:CAUSES_SHOWN]:
        key = partition.partition.key
        place = f"{partition.asset.name}[{key}]" if key else partition.asset.name
        table.add_row(escape(place), escape(partition.cause or ""))
    return table


def _generations(versions: "Versions") -> str:
    """Return a sentence about the generation that readers see, and one about a newer one."""
    from influence_assets.engine.versions import Versions

    readers = Versions(versions.workspace, "published")
    newest, published = versions.generation, readers.generation
    if newest is None or published is None:
        return "No generation of curvature yet."
    text = _generation(readers)
    if newest.generation_id != published.generation_id:
        text += f" Generation {newest.generation_id} is being filled beside it."
    return text


def _generation(versions: "Versions") -> str:
    from influence_assets.assets import asset_graph
    from influence_assets.engine.partitions import Partition

    key = versions.key(asset_graph()["curvature"], Partition())
    if key is None or not versions.holds(key):
        return "No generation of curvature yet."
    summary = versions.workspace.store.open(key).manifest.summary
    share = float(summary["attributed_share"])
    return (
        f"Generation {summary['generation_id']}: {summary['training_sequences']:,} training sequences, "
        f"{share:.1%} of the parameters attributed."
    )


COMMAND = Command(name="status", function=status, rank=60)
