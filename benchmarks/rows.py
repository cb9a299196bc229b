"""From the runs of a size to rows: medians, spread, agreement, and ratios to the training step and to kronfluence."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import agreement, operations
from benchmarks.agreement import THRESHOLD, Agreement
from benchmarks.cases import EARLIER, Job, Size

Row = dict[str, Any]
Runs = dict[int, dict[str, Any]]
"""What each repetition of one job found."""


@dataclass(frozen=True)
class Key:
    """What the rows of a size differ by."""

    subject: str
    stage: str
    variant: str = ""
    query_batch: int = 0


@dataclass
class Measured:
    """All runs of one size.

    Args:
        folder: of the size.
        size: as it was run.
        shared: what all rows have in common: device, dtype, threads, versions, rate of matrix products.
        runs: of every job.
        skipped: why a subject has no rows.
    """

    folder: Path
    size: Size
    shared: dict[str, Any]
    runs: dict[Key, Runs] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def clock(self) -> str:
        """What is compared: a GPU does its work outside of processor time."""
        return "wall_seconds" if self.shared["device"].startswith("cuda") else "cpu_seconds"

    def rows(self) -> list[Row]:
        """One for each job, but for those of another commit."""
        return [self._row(key, runs) for key, runs in self.runs.items() if key.subject != EARLIER]

    def _row(self, key: Key, runs: Runs) -> Row:
        sequences = self.size.sequences_of(key.stage)
        peer = next((other for other in self.runs if is_peer(other, key)), None)
        found = None if peer is None else agrees(self, key, peer)
        row = {
            "size": self.size.name,
            "stage": key.stage,
            "subject": key.subject,
            "variant": key.variant,
            "cpu_seconds_median": _median(runs, "cpu_seconds"),
            "wall_seconds_median": _median(runs, "wall_seconds"),
            "peak_memory_bytes": int(median(run["peak_memory_bytes"] for run in runs.values())),
            "memory_before_bytes": int(median(run["memory_before_bytes"] for run in runs.values())),
            "memory_of_libraries_bytes": next(iter(runs.values())).get("memory_of_libraries_bytes"),
            "bytes_on_disk": next(iter(runs.values()))["bytes_on_disk"],
            "agreement": None if found is None else round(found.value, 6),
            "agreement_details": None if found is None else asdict(found),
            "repetitions": len(runs),
            "spread": {
                clock: _spread([run[clock] for run in runs.values()]) for clock in ("cpu_seconds", "wall_seconds")
            },
            "parts": _parts(runs),
            "sequences": sequences,
            "queries": self.size.queries_of(key.stage),
            "query_batch": key.query_batch,
            "batch": next(iter(runs.values())).get("batch", self.size.batch),
            "tokens": self.size.tokens,
        }
        return row | self.shared | self._ratios(key, runs) | self._counted(key, runs)

    def _ratios(self, key: Key, runs: Runs) -> Row:
        """Repetition by repetition, so that what the machine did meanwhile weighs on both sides."""
        unit = self.runs.get(Key("training_step", "training_step"), {})
        scale = self.size.sequences_of(key.stage) / self.size.sequences
        said: Row = {}
        if key.subject != "training_step":
            said["training_steps"] = self._ratio(runs, unit, scale)
            said["pass_training_steps"] = self._ratio(runs, unit, scale, part="pass") if is_scored(key.stage) else None
        if key.subject == "ours":
            said["peers"] = [self._against(peer, key, runs) for peer in self.runs if is_peer(peer, key)]
        return said

    def _against(self, peer: Key, key: Key, runs: Runs) -> Row:
        """How many times longer a peer takes, and ours' share of its memory."""
        theirs = self.runs[peer]
        found = agrees(self, key, peer)
        pass_alone = self._ratio(theirs, runs, 1.0, part="pass", of_unit=True) if is_scored(key.stage) else None
        return {
            "subject": peer.subject,
            "query_batch": peer.query_batch,
            "whole": self._ratio(theirs, runs, 1.0),
            "pass": pass_alone,
            "peak_memory": _memory(runs) / _memory(theirs),
            "peak_memory_beyond_libraries": _own_memory(runs) / _own_memory(theirs) if _is_known(theirs) else None,
            "agreement": None if found is None else round(found.value, 6),
            "agreement_details": None if found is None else asdict(found),
            "scores_agree": found is not None and found.value >= THRESHOLD,
        }

    def _ratio(
        self, runs: Runs, unit: Runs, scale: float, *, part: str | None = None, of_unit: bool = False
    ) -> dict[str, float] | None:
        """Median, smallest and largest of runs over unit; of a part alone, or of both sides' part."""
        first = _seconds(runs, self.clock, part)
        second = _seconds(unit, self.clock, part if of_unit else None)
        if not first or not second:
            return None
        typical = median(second.values())
        ratios = [seconds / (second.get(number, typical) * scale) for number, seconds in first.items()]
        return {"median": round(median(ratios), 3), "smallest": round(min(ratios), 3), "largest": round(max(ratios), 3)}

    def _counted(self, key: Key, runs: Runs) -> Row:
        total = operations.counted(self.size, key.stage)
        rate = total / _median(runs, "wall_seconds") / self.shared["matmul_operations_per_second"]
        steps = operations.limit(self.size, key.stage)
        return {
            "counted_operations": total,
            "share_of_matmul_rate": round(rate, 4),
            "counted_training_steps": None if steps is None else round(steps, 3),
        }


def is_peer(other: Key, key: Key) -> bool:
    """Whether a job does with another library what a job of ours does."""
    same = (other.stage, other.variant) == (key.stage, key.variant)
    return key.subject == "ours" and other.subject in {"kronfluence", "bergson"} and same


def is_scored(stage: str) -> bool:
    """Whether a stage is queries' own part and a pass over the training sequences."""
    return stage.startswith(("scores", "second"))


def agrees(measured: Measured, key: Key, peer: Key) -> Agreement | None:
    """Of ours with a peer's for the same stage; None where labels are sampled and nothing can be compared."""
    if key.variant:
        return None
    if key.stage in agreement.PAIRS:
        return agreement.of_factors(key.stage, measured.folder / "ours", measured.folder / "kronfluence")
    ours, theirs = (
        Job(str(measured.folder), measured.size, one.subject, one.stage, query_batch=one.query_batch).scores
        for one in (key, peer)
    )
    return agreement.of_scores(ours, theirs, measured.size.sequences_of(key.stage))


def _seconds(runs: Runs, clock: str, part: str | None) -> dict[int, float]:
    if part is None:
        return {number: run[clock] for number, run in runs.items()}
    return {number: run["parts"][part][clock] for number, run in runs.items() if part in run["parts"]}


def _memory(runs: Runs) -> float:
    return median(run["peak_memory_bytes"] for run in runs.values())


def _own_memory(runs: Runs) -> float:
    """Beyond what the process held before it had anything of the model: on a processor the libraries' code."""
    return median(run["peak_memory_bytes"] - run["memory_of_libraries_bytes"] for run in runs.values())


def _is_known(runs: Runs) -> bool:
    """Not of bergson, whose processes are started otherwise."""
    return all("memory_of_libraries_bytes" in run for run in runs.values())


def _median(runs: Runs, clock: str) -> float:
    return float(median(run[clock] for run in runs.values()))


def _spread(values: list[float]) -> dict[str, float]:
    return {"smallest": min(values), "largest": max(values)}


def _parts(runs: Runs) -> Mapping[str, dict[str, float]]:
    names = next(iter(runs.values()))["parts"]
    clocks = ("cpu_seconds", "wall_seconds")
    return {
        name: {f"{clock}_median": float(median(run["parts"][name][clock] for run in runs.values())) for clock in clocks}
        for name in names
    }
