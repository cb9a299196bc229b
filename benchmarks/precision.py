"""How far scores in lower precision differ from those in float64.

    python -m benchmarks.precision                   # the small size on the CPU: float32 and bfloat16
    python -m benchmarks.precision --device cuda     # TF32 too

Every precision fits its own covariances, eigenbases and corrected eigenvalues, with labels of the data, and scores with
them; bfloat16 is the precision of the model's weights and passes, sums and factors being float32. Prints one JSON
object for each and writes them to precision.json.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr

from benchmarks import inputs
from benchmarks.cases import SIZES, Size
from benchmarks.processes import ROOT
from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import scores
from influence_assets.maths.ekfac import LayerCurvature, damping, eigenbasis
from influence_assets.methods.ekfac import precondition
from influence_assets.models.freed_memory import keep_freed_memory
from influence_assets.models.layers.selection import select_modules
from influence_assets.models.loading import load_model
from influence_assets.study import Dtype

TOP = 100
CHECKED = "float64"


@dataclass(frozen=True)
class Precision:
    """Agreement of one precision's scores with float64's, over queries.

    Args:
        pearson, spearman: means of the correlations of a query's scores.
        lowest_spearman: of the query that agrees least.
        top_100_overlap: share of the 100 highest scores that both have, mean over queries.
        lowest_top_100_overlap: of the query that agrees least.
        largest_difference: relative to the query's largest score, over all pairs.
    """

    pearson: float
    spearman: float
    lowest_spearman: float
    top_100_overlap: float
    lowest_top_100_overlap: float
    largest_difference: float


def main(given: Sequence[str] | None = None) -> None:
    """Measure and write."""
    asked = arguments().parse_args(given)
    torch.set_num_threads(asked.threads)
    keep_freed_memory()
    size = SIZES[asked.size]
    size = replace(size, second_sequences=asked.sequences, many_queries=0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "inputs"
        inputs.build(place, size, asked.device, Path(asked.corpus) if asked.corpus else None)
        truth = scored(place, size, CHECKED, asked.device)
        for name in precisions(asked.device):
            found = compared(scored(place, size, name, asked.device), truth)
            facts = {"size": size.name, "sequences": truth.shape[1], "queries": len(truth), "device": asked.device}
            rows.append({"precision": name, "against": CHECKED, **facts, **asdict(found), "torch": torch.__version__})
            print(json.dumps(rows[-1]), flush=True)
    asked.out.write_text(json.dumps(rows, indent=1) + "\n")


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--sequences", type=int, default=4 * TOP, help="many more than 100")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--corpus", default="", help="folder of text files in place of made-up tokens")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/precision.json")
    return parser


def precisions(device: str) -> list[str]:
    """Those that the device has."""
    return ["float32", "bfloat16", *(["TF32"] if device.startswith("cuda") else [])]


def scored(place: Path, size: Size, precision: str, device: str) -> np.ndarray:
    """Scores [query, sequence] of a whole job in one precision."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "TF32"
    dtype: Dtype = "float32" if precision == "TF32" else precision  # type: ignore[assignment]
    model = load_model(place / "model", dtype=dtype, device=device)
    runner = Runner(model, select_modules(model, "mlp"), size.batch)
    train = inputs.read(place, inputs.TRAIN, size.second_sequences)
    queries = inputs.read(place, inputs.QUERIES, 32)
    kept = torch.promote_types(model.dtype, torch.float32)
    factors = covariances(runner, train, None)
    bases = {name: eigenbasis(c.A, c.S).to(device, kept) for name, c in factors.items()}
    del factors
    corrected = {name: moment.mean() for name, moment in eigenvalue_corrections(runner, train, bases, None).items()}
    layers = {
        name: LayerCurvature(basis, corrected[name], damping(float(corrected[name].mean()), 0.1))
        for name, basis in bases.items()
    }
    P = precondition(query_gradients(runner, queries, bases).layers, layers)
    return scores(runner, train, {"ekfac": P}, len(train), bases)["ekfac"]


def compared(found: np.ndarray, truth: np.ndarray) -> Precision:
    """Agreement of [query, sequence] scores."""
    pearson = [pearsonr(a, b).statistic for a, b in zip(found, truth, strict=True)]
    spearman = [spearmanr(a, b).statistic for a, b in zip(found, truth, strict=True)]
    overlap = [len(first(a) & first(b)) / TOP for a, b in zip(found, truth, strict=True)]
    difference = np.abs(found - truth).max(axis=1) / np.abs(truth).max(axis=1)
    return Precision(
        pearson=round(float(np.mean(pearson)), 7),
        spearman=round(float(np.mean(spearman)), 7),
        lowest_spearman=round(float(np.min(spearman)), 7),
        top_100_overlap=round(float(np.mean(overlap)), 4),
        lowest_top_100_overlap=float(np.min(overlap)),
        largest_difference=float(f"{difference.max():.3g}"),
    )


def first(scored: np.ndarray) -> set[int]:
    """The places of the highest scores."""
    return set(np.argsort(-scored)[:TOP].tolist())


if __name__ == "__main__":
    main()
