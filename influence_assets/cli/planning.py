"""What `influence plan` prints: what each stage will take, and what it took."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from influence_assets.capture.operations import contraction_orders
from influence_assets.pipeline.estimates import Estimate, estimates
from influence_assets.pipeline.study_sizes import StudySizes
from influence_assets.pipeline.versions import Versions
from influence_assets.pipeline.workspace import Workspace
from influence_assets.study import Study

NOT_KNOWN = "–"


def show_plan(study: Study, console: Console) -> None:
    """Every stage with its estimates, and beside them what was measured of what stands."""
    sizes = StudySizes(Versions(Workspace(study)))
    stages = estimates(sizes)
    shape = sizes.shape
    attributed = shape.gradient_numbers / shape.parameters
    console.print(f"Study [bold]{study.name}[/], {escape(str(sizes.device))}, {study.model.dtype}", highlight=False)
    console.print(
        f"{shape.parameters:,} parameters, {attributed:.1%} attributed in {len(shape.layers)} layers; "
        f"{_sequences(sizes)}; {sum(map(len, sizes.query_tokens.values())):,} queries; "
        f"{sizes.batch_sequences} sequences in a batch",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_table(stages))
    console.print(_orders(sizes))
    for note in _notes(stages, sizes):
        console.print(note, soft_wrap=True, highlight=False)


def _table(stages: list[Estimate]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "outstanding"):
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    for name in ("operations", "time", "memory", "bytes", "│ took", "CPU", "memory", "bytes"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in stages:
        table.add_row(
            stage.step.name,
            f"{stage.outstanding:,} of {stage.partitions:,}",
            *_estimated(stage),
            *_measured(stage),
        )
    return table


def _estimated(stage: Estimate) -> tuple[str, str, str, str]:
    if not stage.outstanding:
        return ("", "", "", "")
    floor = "" if stage.is_calibrated or stage.seconds is None else "> "
    return (
        _scaled(stage.operations, 1000, "") if stage.operations else NOT_KNOWN,
        NOT_KNOWN if stage.seconds is None else floor + _duration(stage.seconds),
        NOT_KNOWN if stage.peak_memory_bytes is None else _size(stage.peak_memory_bytes),
        NOT_KNOWN if stage.bytes is None else _size(stage.bytes),
    )


def _measured(stage: Estimate) -> tuple[str, str, str, str]:
    seen = stage.measured
    if seen is None:
        return ("│", "", "", "")
    took, cpu = _duration(seen.seconds), _duration(seen.cpu_seconds)
    return (f"│ {took}", cpu, _size(seen.peak_memory_bytes), _size(seen.bytes))


def _orders(sizes: StudySizes) -> Table:
    """Which side is rotated in each shape of layer: it follows from the counts, and nothing sets it."""
    heads = ("layers", "d_out × d_in", "for Λ and sketches rotated", "for scores alone rotated")
    table = Table(*heads, box=None, pad_edge=False)
    shape = sizes.shape
    queries = sizes.methods * max((len(asked) for asked in sizes.query_tokens.values()), default=0)
    middling = max(1, sizes.all_sequences() // max(1, len(sizes.versions.workspace.shards)))
    shapes = [(layer.d_out, layer.d_in) for layer in shape.layers]
    for (d_out, d_in), (rotated, scored) in contraction_orders(shape, queries, middling).items():
        table.add_row(str(shapes.count((d_out, d_in))), f"{d_out:,} × {d_in:,}", rotated, scored)
    return table


def _sequences(sizes: StudySizes) -> str:
    said = f"{sizes.all_sequences():,} sequences of {sizes.shape.tokens} tokens"
    return f"about {said} (at {sizes.bytes_a_token:.1f} bytes a token)" if sizes.is_about else said


def _notes(stages: list[Estimate], sizes: StudySizes) -> list[str]:
    outstanding = [stage for stage in stages if stage.outstanding]
    if not outstanding:
        return ["[green]Everything is up to date[/]; the figures on the right are those of what stands."]
    known = [stage.seconds for stage in outstanding if stage.seconds is not None]
    notes = [f"In all {_duration(sum(known))} for the stages with a time."]
    if any(not stage.is_calibrated and stage.seconds is not None for stage in outstanding):
        notes.append("> : counted operations at this machine's rate of a plain matrix product, a lower limit.")
    if any(stage.is_calibrated for stage in outstanding):
        notes.append("Times without > are in proportion to what the same stage took here before.")
    if sizes.has_generation and sizes.versions.workspace.study.curvature.fit_sequences is None:
        notes.append(
            "One pass of the model computes all that is outstanding of a shard; each stage has its part of it."
        )
    return notes


def _scaled(value: float, base: int, unit: str) -> str:
    prefixes = ["", "k", "M", "G", "T", "P", "E", "Z"]
    while float(f"{value:.3g}") >= base and len(prefixes) > 1:  # as it will be shown: 999.6 is not 1e+03
        value /= base
        prefixes.pop(0)
    return f"{value:.3g} {prefixes[0]}{unit}".rstrip()


def _size(count: float) -> str:
    return _scaled(count, 1000, "B")


def _duration(seconds: float) -> str:
    if float(f"{seconds:.2g}") < 0.1:  # as it will be shown: 99.6 ms are not 1e+02
        return f"{seconds * 1000:.2g} ms"
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h" if hours < 100 else f"{hours / 24:.0f} d"
