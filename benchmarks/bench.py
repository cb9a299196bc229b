"""Measure this project's stages against kronfluence's, bergson's and the plain training step.

    python -m benchmarks.bench                                     # small and medium on the CPU: what `make bench` runs
    python -m benchmarks.bench --sizes tiny --out /tmp/tiny        # seconds, to try the harness
    python -m benchmarks.bench --sizes gpt2 --device cuda          # GPT-2 124M, 4,656 sequences of 512 tokens
    python -m benchmarks.bench --subjects ours --against ../other --out /tmp/against  # beside another commit's checkout

Each stage of each subject runs in a process of its own, subjects interleaved over the repetitions; setting up and one
small batch to warm up are not measured. Writes results.json, a list of rows, which `benchmarks.report` reads.
"""

import argparse
import importlib.metadata
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import against
from benchmarks.cases import EARLIER, QUERIES, SIZES, Job, Size
from benchmarks.processes import ROOT, JobError, Processes
from benchmarks.rows import Key, Measured, Row


def main(given: list[str] | None = None) -> None:
    """Measure the sizes asked for."""
    asked = parsed(given)
    out: Path = asked.out
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    compared: list[Row] = []
    for name in asked.sizes:
        size = sized(SIZES[name], asked)
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            measured = measure(Path(folder), size, asked)
            rows += measured.rows()
            compared += against.compared(measured)
        for subject, reason in measured.skipped.items():
            print(f"{name}: {subject} was skipped: {reason}")
        kept = [] if asked.fresh else others(out / "results.json", {row_name(row) for row in rows})
        (out / "results.json").write_text(json.dumps(kept + rows, indent=1) + "\n")
        if asked.against:
            found = {"earlier_commit": against.commit_of(asked.against), "stages": compared}
            (out / "against.json").write_text(json.dumps(found, indent=1) + "\n")
    if asked.against:
        print(against.table(compared))


def parsed(given: list[str] | None) -> argparse.Namespace:
    """The command line, if its options go together."""
    parser = arguments()
    asked = parser.parse_args(given)
    if asked.against and "ours" not in asked.subjects:
        parser.error("--against compares with ours, which is not among --subjects")
    if asked.against and not (asked.against / "benchmarks" / "run_job.py").is_file():
        parser.error(f"{asked.against} is no checkout of this project")
    return asked


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "medium"])
    parser.add_argument("--subjects", nargs="+", default=["training_step", "kronfluence", "ours", "bergson"])
    parser.add_argument("--stages", nargs="+", help="some of the stages, in their order; later ones need earlier ones")
    parser.add_argument("--repetitions", type=int, help="of every stage, in place of each size's own")
    parser.add_argument("--sequences", type=int, help="in place of each size's own number")
    parser.add_argument("--batch", type=int, help="sequences in a pass; on the CPU ours finds its own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--tf32", action="store_true", help="on a GPU: products of float32 round their inputs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--corpus", default="", help="folder of text files in place of made-up tokens")
    parser.add_argument(
        "--model", default="", help="folder of a model in place of one built here; needs its vocabulary"
    )
    parser.add_argument("--bergson-python", default="", help="interpreter of a virtual environment with bergson 2.5.1")
    parser.add_argument(
        "--against",
        type=lambda folder: Path(folder).resolve(),
        metavar="CHECKOUT",
        help="of another commit: its stages are measured in turn with ours and compared",
    )
    parser.add_argument("--folder", help="where temporary files go")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    parser.add_argument("--no-variants", action="store_true", help="only what stands in the table")
    parser.add_argument("--fresh", action="store_true", help="drop the rows of other sizes from results.json")
    return parser


def sized(size: Size, asked: argparse.Namespace) -> Size:
    """The size with what the command line changes of it."""
    if asked.repetitions:
        size = replace(size, repetitions=asked.repetitions, repetitions_of_long=asked.repetitions)
    if asked.sequences:
        size = replace(size, sequences=asked.sequences)
    return replace(size, batch=asked.batch) if asked.batch else size


def measure(folder: Path, size: Size, asked: argparse.Namespace) -> Measured:
    """All jobs of a size, in turn."""
    common = {"device": asked.device, "dtype": asked.dtype, "threads": asked.threads, "tf32": asked.tf32}
    processes = Processes(
        device=asked.device, threads=asked.threads, bergson_python=asked.bergson_python, against=asked.against
    )
    with closing(processes):
        processes.run(Job(str(folder), size, "inputs", "", **common), asked.corpus, asked.model)
        shared = shared_fields(asked) | processes.run(Job(str(folder), size, "rate", "", **common))
        measured = Measured(folder, size, shared)
        for repetition, key in jobs(size, asked):
            if key.subject in measured.skipped:
                continue
            job = Job(str(folder), size, **asdict(key), **common)
            began = time.monotonic()
            try:
                found = processes.run(job)
            except JobError as error:
                measured.skipped[key.subject] = str(error)
                print(f"{size.name} {key.stage} {key.subject}: {error}", flush=True)
                continue
            measured.runs.setdefault(key, {})[repetition] = found
            tell(size, key, repetition, found, time.monotonic() - began)
    return measured


def jobs(size: Size, asked: argparse.Namespace) -> Iterator[tuple[int, Key]]:
    """Every job of every repetition; which subject goes first changes from one repetition to the next."""
    stages = [stage for stage in size.stages() if not asked.stages or stage in asked.stages]
    for repetition in range(max(size.repetitions, size.repetitions_of_long)):
        if repetition < size.repetitions and "training_step" in asked.subjects:
            yield repetition, Key("training_step", "training_step")
        for stage in stages:
            keys = [key for key in keys_of(size, stage, repetition) if wanted(key, asked)]
            if asked.against:
                keys = list(with_earlier(keys))
            for key in reversed(keys) if repetition % 2 else keys:
                if repetition < repetitions_of(size, key, asked):
                    yield repetition, key


def with_earlier(keys: list[Key]) -> Iterator[Key]:
    """After each job of ours the same of the other commit, but for variants."""
    for key in keys:
        yield key
        if key.subject == "ours" and not key.variant:
            yield against.earlier_of(key)


def repetitions_of(size: Size, key: Key, asked: argparse.Namespace) -> int:
    """How often a job is measured: of two commits every stage, because one ratio alone has no interval."""
    if asked.against and key.subject in {"ours", EARLIER}:
        return max(size.repetitions, size.repetitions_of_long)
    return size.repetitions_of(key.stage)


def wanted(key: Key, asked: argparse.Namespace) -> bool:
    """Whether the command line leaves a job in."""
    return key.subject in asked.subjects and not (key.variant and asked.no_variants)


def keys_of(size: Size, stage: str, repetition: int) -> list[Key]:
    """The jobs of a stage; what is there to be compared with the main rows runs once."""
    if stage == "sketches":
        return [Key("ours", stage)]
    queries = size.queries_of(stage)
    if queries <= QUERIES:
        keys = [Key("kronfluence", stage), Key("ours", stage)]
    else:
        # kronfluence repeats its pass for every batch of queries: it is measured with as many at once as fit, and with
        # those of its examples, but for the whole job, where that would take too long.
        batches = [min(size.peer_query_batch, queries), *([] if stage == "total" else [QUERIES])]
        keys = [Key("ours", stage, query_batch=min(size.query_chunk, queries))]
        keys += [Key("kronfluence", stage, query_batch=batch) for batch in batches]
    if stage == "total" and queries == QUERIES:
        keys.append(Key("bergson", stage))
    if repetition == 0 and size.variants:
        fits = stage in {"covariances", "corrected_eigenvalues"}
        keys += [Key("ours", stage, "sampled")] if fits else []
        keys += [Key("ours", stage, "queries_rotated")] if stage == "scores_32" else []
        if fits or stage == "scores_32":
            keys += [Key("kronfluence", stage, variant) for variant in ("kept_memory", "matched_batch")]
    return keys


def shared_fields(asked: argparse.Namespace) -> dict[str, Any]:
    """What all rows of a run have in common."""
    packages = ("torch", "transformers", "kronfluence", "numpy", "influence-assets")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    dtype = "float32, TF32 products" if asked.tf32 else asked.dtype
    return {"device": asked.device, "dtype": dtype, "threads": asked.threads, "versions": versions}


def tell(size: Size, key: Key, repetition: int, found: dict[str, Any], whole: float) -> None:
    """One line a job."""
    name = " ".join(part for part in (key.stage, key.subject, key.variant, str(key.query_batch or "")) if part)
    print(
        f"{size.name} {repetition} {name}: {found['cpu_seconds']:.2f} CPU s, {found['wall_seconds']:.2f} s, "
        f"{found['peak_memory_bytes'] / 2**20:.0f} MiB ({whole:.0f} s with its start)",
        flush=True,
    )


def row_name(row: Row) -> tuple[str, str, str]:
    """Rows of a size, device and dtype replace each other as a whole."""
    return row["size"], row["device"], row["dtype"]


def others(file: Path, measured: set[tuple[str, str, str]]) -> list[Row]:
    """The rows of what is not measured now."""
    rows: list[Row] = json.loads(file.read_text()) if file.exists() else []
    return [row for row in rows if row_name(row) not in measured]


if __name__ == "__main__":
    main()
