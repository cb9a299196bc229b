"""This commit beside an earlier one: ratios of what they take, repetition by repetition, and whether scores agree."""

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t

from benchmarks import agreement
from benchmarks.cases import EARLIER, Job
from benchmarks.rows import Key, Measured, Row, Runs

LIMIT = 1.05
"""The ratio that intervals are compared with."""

LEVEL = 0.95
HEADER = (
    f"| size | stage | repetitions | ours, s | earlier, s | ours / earlier | {100 * LEVEL:.0f} % interval | "
    f"excludes {LIMIT} | agreement of scores |\n| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |"
)


@dataclass(frozen=True)
class Ratio:
    """What ours takes, over what the earlier commit takes.

    Args:
        median: over the repetitions.
        interval: of the geometric mean; None of a single repetition.
    """

    median: float
    interval: tuple[float, float] | None

    @property
    def excludes_limit(self) -> str:
        """Whether the whole interval is on one side of the limit, and on which."""
        if self.interval is None:
            return "unknown"
        low, high = self.interval
        if low <= LIMIT <= high:
            return "no"
        return "yes, it is below" if high < LIMIT else "yes, it is above"


def ratio(ours: Sequence[float], earlier: Sequence[float]) -> Ratio:
    """Of pairs that were measured one after the other; the interval is Student's t of the ratios' logarithms."""
    ratios = np.array(ours) / np.array(earlier)
    return Ratio(float(np.median(ratios)), interval(ratios))


def interval(ratios: np.ndarray) -> tuple[float, float] | None:
    """Around the geometric mean; None of a single ratio."""
    count = len(ratios)
    if count < 2:
        return None
    logarithms = np.log(ratios)
    margin = t.ppf((1 + LEVEL) / 2, count - 1) * logarithms.std(ddof=1) / np.sqrt(count)
    return float(np.exp(logarithms.mean() - margin)), float(np.exp(logarithms.mean() + margin))


def commit_of(checkout: Path) -> str:
    """Where git tells; the folder may also have been copied."""
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip() or "unknown"


def compared(measured: Measured) -> list[Row]:
    """A row for each stage that both commits ran."""
    pairs = ((key, earlier_of(key)) for key in measured.runs if key.subject == "ours" and not key.variant)
    return [row(measured, key, earlier) for key, earlier in pairs if earlier in measured.runs]


def row(measured: Measured, key: Key, earlier: Key) -> Row:
    """One stage of both."""
    ours, theirs = (seconds(measured.runs[one], measured.clock) for one in (key, earlier))
    both = sorted(ours.keys() & theirs.keys())
    found = ratio([ours[number] for number in both], [theirs[number] for number in both])
    agrees = scores_agree(measured, key)
    return {
        "size": measured.size.name,
        "stage": key.stage,
        "query_batch": key.query_batch,
        "clock": measured.clock,
        "ours": [ours[number] for number in both],
        "earlier": [theirs[number] for number in both],
        "ratio": asdict(found),
        "limit": LIMIT,
        "excludes_limit": found.excludes_limit,
        "agreement": None if agrees is None else asdict(agrees),
        "device": measured.shared["device"],
        "dtype": measured.shared["dtype"],
        "threads": measured.shared["threads"],
    }


def earlier_of(key: Key) -> Key:
    """The same job of the earlier commit."""
    return Key(EARLIER, key.stage, key.variant, key.query_batch)


def scores_agree(measured: Measured, key: Key) -> agreement.Agreement | None:
    """Of the last repetition; None of a stage without scores."""
    job = Job(str(measured.folder), measured.size, key.subject, key.stage, query_batch=key.query_batch)
    return agreement.of_scores(job.scores, job.of_earlier().scores, 1)


def seconds(runs: Runs, clock: str) -> dict[int, float]:
    """Of each repetition."""
    return {number: run[clock] for number, run in runs.items()}


def table(rows: list[Row]) -> str:
    """What is printed at the end."""
    return "\n".join([HEADER, *lines(rows)])


def lines(rows: list[Row]) -> Iterator[str]:
    """One for each stage."""
    for row in rows:
        found = Ratio(**row["ratio"])
        between = "" if found.interval is None else "{:.3f}–{:.3f}".format(*found.interval)
        agrees = "" if row["agreement"] is None else f"{agreement.Agreement(**row['agreement']).value:.6f}"
        medians = " | ".join(f"{np.median(row[subject]):.3g}" for subject in ("ours", "earlier"))
        yield (
            f"| {row['size']} | {row['stage']} | {len(row['ours'])} | {medians} | {found.median:.3f} | {between} | "
            f"{found.excludes_limit} | {agrees} |"
        )
