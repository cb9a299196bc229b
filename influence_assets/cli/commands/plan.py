"""`influence plan`."""

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.cli.figures import duration, scaled, size
from influence_assets.cli.surroundings import surroundings
from influence_assets.escaping import visible
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.assets.study_sizes import StudySizes
    from influence_assets.forecast.estimates import Estimate

NOT_KNOWN = "–"


def plan(study: StudyOption = HERE) -> None:
    """Estimate the operations, time, memory and bytes that each stage will take, beside what it has taken so far."""
    loaded = Study.load(study)  # first, so that an invalid study fails before the slow import of torch below
    from influence_assets.assets import open_workspace
    from influence_assets.assets.study_sizes import StudySizes
    from influence_assets.engine.versions import Versions
    from influence_assets.forecast.estimates import estimates

    sizes = StudySizes(Versions(open_workspace(loaded)))
    stages = estimates(sizes)
    shape = sizes.shape
    attributed = shape.gradient_numbers / shape.parameters
    console.print(f"Study [bold]{loaded.name}[/], {escape(str(sizes.device))}, {loaded.model.dtype}", highlight=False)
    console.print(
        f"{shape.parameters:,} parameters, {attributed:.1%} attributed in {len(shape.layers)} layers; "
        f"{_sequences(sizes)}; {sum(map(len, sizes.query_tokens.values())):,} queries; "
        f"{sizes.batch_sequences} sequences in a batch",
        highlight=False,
        soft_wrap=True,
    )
    if (words := surroundings(sizes.versions)) is not None:
        console.print(escape(visible(words)), soft_wrap=True, highlight=False)
    console.print(_table(stages))
    if sizes.form.rank is None:  # otherwise nothing is rotated
        console.print(_orders(sizes))
    for note in _notes(stages, sizes):
        console.print(note, soft_wrap=True, highlight=False)
    for member in sizes.versions.members:
        note = _member(member.number, estimates(StudySizes(member)))
        console.print(note, soft_wrap=True, highlight=False)


def _table(stages: list["Estimate"]) -> Table:
    """Return every stage with its estimates, beside what was measured when its existing artifacts were computed."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))  # one space, so that figures are never cut off
    for name in (
        "stage",
        "outstanding",
        "operations",
        "time",
        "memory",
        "bytes",
        "│",
        "took",
        "CPU",
        "memory",
        "bytes",
    ):
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    for stage in stages:
        table.add_row(
            stage.asset.name,
            f"{stage.outstanding:,} of {stage.partitions:,}",
            *_estimated(stage),
            "│",
            *_measured(stage),
        )
    return table


def _estimated(stage: "Estimate") -> tuple[str, str, str, str]:
    if not stage.outstanding:
        return ("", "", "", "")
    floor = "" if stage.is_calibrated or stage.seconds is None else "> "
    return (
        scaled(stage.operations) if stage.operations else NOT_KNOWN,
        NOT_KNOWN if stage.seconds is None else floor + duration(stage.seconds),
        NOT_KNOWN if stage.peak_memory_bytes is None else size(stage.peak_memory_bytes),
        NOT_KNOWN if stage.bytes is None else size(stage.bytes),
    )


def _measured(stage: "Estimate") -> tuple[str, str, str, str]:
    cost = stage.measured
    if cost is None:
        return ("", "", "", "")
    return (duration(cost.seconds), duration(cost.cpu_seconds), size(cost.peak_memory_bytes), size(cost.bytes))


def _orders(sizes: "StudySizes") -> Table:
    """Return which side is rotated for each shape of layer; the counts of operations decide that, not a setting."""
    from influence_assets.capture.operations import contraction_orders

    heads = ("layers", "d_out × d_in", "rotated for Λ and sketches", "rotated for scores only")
    table = Table(*heads, box=None, pad_edge=False)
    shape = sizes.shape
    queries = sizes.methods * sizes.most_queries
    mean_sequences = max(1, sizes.all_sequences() // max(1, len(sizes.versions.workspace.shards)))
    shapes = [(layer.d_out, layer.d_in) for layer in shape.layers]
    for (d_out, d_in), (rotated, scored) in contraction_orders(shape, queries, mean_sequences).items():
        table.add_row(str(shapes.count((d_out, d_in))), f"{d_out:,} × {d_in:,}", rotated, scored)
    return table


def _member(number: int, stages: list["Estimate"]) -> str:
    """Return what a further member of the ensemble will take in all, beside the figures of the study's own model."""
    outstanding = [stage for stage in stages if stage.outstanding]
    partitions = sum(stage.partitions for stage in stages)
    counts = f"{sum(stage.outstanding for stage in outstanding):,} of {partitions:,} partitions outstanding"
    if not outstanding:
        return f"Member {number} of the ensemble: {counts}."
    known = [stage.seconds for stage in outstanding if stage.seconds is not None]
    floor = "" if all(stage.is_calibrated for stage in outstanding if stage.seconds is not None) else "> "
    operations = scaled(sum(stage.operations for stage in outstanding))
    return f"Member {number} of the ensemble: {counts}, {operations} operations, {floor}{duration(sum(known))}."


def _sequences(sizes: "StudySizes") -> str:
    text = f"{sizes.all_sequences():,} sequences of {sizes.shape.tokens} tokens"
    return f"about {text} (at {sizes.bytes_a_token:.1f} bytes a token)" if sizes.is_about else text


def _notes(stages: list["Estimate"], sizes: "StudySizes") -> list[str]:
    outstanding = [stage for stage in stages if stage.outstanding]
    if not outstanding:
        return ["[green]Everything is up to date[/]; the figures on the right are what it took."]
    known = [stage.seconds for stage in outstanding if stage.seconds is not None]
    notes = [f"In all {duration(sum(known))} for the stages with a time."]
    if any(not stage.is_calibrated and stage.seconds is not None for stage in outstanding):
        notes.append("> : counted operations at this machine's rate of a plain matrix product, a lower limit.")
    if any(stage.is_calibrated for stage in outstanding):
        notes.append("Times without > are in proportion to what the same stage took here before.")
    if sizes.has_generation and sizes.fitted_share == 1:
        notes.append(
            "One pass of the model computes all that is outstanding of a shard; each stage has its part of it."
        )
    return notes


COMMAND = Command(name="plan", function=plan, rank=70)
