"""A new shard of a standing generation: one pass of the model against the four that it would take one by one.

    python -m benchmarks.one_pass --size small --sequences 128

Covariances, corrected eigenvalues, sketches and scores against 32 queries, as the pipeline measures them, interleaved.
Prints one JSON object: CPU seconds of each (medians), and the ratio of the one pass to the sum of the four.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import inputs
from benchmarks.cases import QUERIES, SIZES
from influence_assets.capture.batches import Sequences
from influence_assets.capture.correction import CorrectionTotals, eigenvalue_corrections
from influence_assets.capture.covariance import CovarianceTotals, covariances
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.one_pass import measure
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import ScoreTotals, scores
from influence_assets.capture.sketches import SketchRows, sketches
from influence_assets.maths.ekfac import LayerCurvature, damping, eigenbasis
from influence_assets.maths.sketches import strongest_coordinates
from influence_assets.methods.ekfac import precondition
from influence_assets.models.freed_memory import keep_freed_memory
from influence_assets.models.layers.selection import select_modules
from influence_assets.models.loading import load_model

SAMPLER = LabelSampler(0)


def passes(runner: Runner, shard: Sequences, queries: Sequences) -> dict[str, Callable[[], object]]:
    """The four passes and the one, ready to be run."""
    factors = covariances(runner, shard, SAMPLER)
    dtype = torch.promote_types(runner.dtype, torch.float32)
    bases = {name: eigenbasis(c.A, c.S).to(runner.device, dtype) for name, c in factors.items()}
    Λ = {name: found.mean() for name, found in eigenvalue_corrections(runner, shard, bases, SAMPLER).items()}
    layers = {name: LayerCurvature(bases[name], Λ[name], damping(float(Λ[name].mean()), 0.1)) for name in bases}
    P = precondition(query_gradients(runner, queries, bases).layers, layers)
    probes = {name: layer[:4] for name, layer in P.items()}
    kept = strongest_coordinates(layers, 131_072)

    def together() -> None:
        rows = SketchRows(runner, layers, kept, probes, lambda _batch: None)
        scores_of_all = ScoreTotals(given_up(P), len(shard), len(shard), runner.device)
        measure(runner, shard, [CovarianceTotals(), CorrectionTotals(), rows, scores_of_all], bases, SAMPLER)

    return {
        "covariances": lambda: covariances(runner, shard, SAMPLER),
        "corrected_eigenvalues": lambda: eigenvalue_corrections(runner, shard, bases, SAMPLER),
        "sketches": lambda: list(sketches(runner, shard, layers, kept, probes)),
        "scores_32": lambda: scores(runner, shard, given_up(P), len(shard), bases),
        "one_pass": together,
    }


def given_up(P: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Query gradients for one repetition, which rotates them in place."""
    return {"ekfac": {name: p.clone() for name, p in P.items()}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    keep_freed_memory()
    size = replace(SIZES[asked.size], sequences=asked.sequences, second_sequences=0, many_query_sequences=0)
    with tempfile.TemporaryDirectory() as folder:
        inputs.build(Path(folder) / "inputs", size, "cpu")
        model = load_model(Path(folder) / "inputs" / "model", dtype="float32", device="cpu")
        shard = inputs.read(Path(folder) / "inputs", inputs.TRAIN, asked.sequences)
        queries = inputs.read(Path(folder) / "inputs", inputs.QUERIES, QUERIES)
    runs = passes(Runner(model, select_modules(model, "mlp"), size.batch), shard, queries)
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(asked.repetitions):
        for name, run in runs.items():
            started = time.process_time()
            run()
            took[name].append(time.process_time() - started)
    medians = {name: round(statistics.median(seconds), 3) for name, seconds in took.items()}
    four = [sum(took[name][turn] for name in took if name != "one_pass") for turn in range(asked.repetitions)]
    ratios = sorted(one / all_four for one, all_four in zip(took["one_pass"], four, strict=True))
    print(
        json.dumps(
            {
                "size": size.name,
                "sequences": asked.sequences,
                "cpu_seconds_median": medians,
                "one_pass_to_four": round(statistics.median(ratios), 3),
                "spread": [round(ratios[0], 3), round(ratios[-1], 3)],
            }
        )
    )


if __name__ == "__main__":
    main()
