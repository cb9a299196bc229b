"""Run jobs with the code of another checkout, in processes like those of `benchmarks.processes`.

Started by `bench --against` with PYTHONPATH set to that checkout: every import of this project is the checkout's, and
this file, which must not depend on the two being alike, uses `execute` of it alone. Arguments are the device and the
modules to preload. Each line of standard input is a job and the file for its result, in JSON; the answer is the exit
code of its process.
"""

import json
import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext, SpawnContext

import benchmarks.bench  # noqa: F401 - as in each process of ours, whose main module it is: both hold the same


def main(device: str, *libraries: str) -> None:
    """Until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what jobs print is no answer
    context: ForkServerContext | SpawnContext
    if device == "cpu":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(libraries))
    else:
        context = multiprocessing.get_context("spawn")
    for line in sys.stdin:
        print(run(context, *json.loads(line)), file=answers)


def run(context: ForkServerContext | SpawnContext, job: str, result: str) -> int | None:
    """The exit code of a job's process."""
    from benchmarks.run_job import execute

    process = context.Process(target=execute, args=(job, result))
    process.start()
    process.join()
    return process.exitcode


if __name__ == "__main__":
    main(*sys.argv[1:])
