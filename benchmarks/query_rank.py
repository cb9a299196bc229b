"""What scores lose where query gradients are truncated to a lower rank.

    python -m benchmarks.query_rank --model MODEL_FOLDER --text TEXT_FILE --modules '*.layers.0.mlp.*'

The first half of the text is fitted on and scored; queries of several lengths are cut from the second, and their second
halves are the completions. Prints one JSON object for each length and rank: numbers that are stored as a share of those
of V, the error in the norm of the damped inverse, and the agreement of scores with those of whole gradients.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from tokenizers import Tokenizer
from torch import Tensor

from influence_assets.capture.batches import Sequences
from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_outer_products
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import scores
from influence_assets.maths.ekfac import LayerCurvature, damping, eigenbasis
from influence_assets.maths.outer_products import OuterProducts, truncated
from influence_assets.models.layers.selection import select_modules
from influence_assets.models.loading import load_model

LENGTH = 128
RANKS = (4, 8, 16, 24, 32, 64)
TOP = 20

Products = Mapping[str, list[OuterProducts]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--modules", nargs="+", default=["mlp"])
    parser.add_argument("--sequences", type=int, default=96)
    parser.add_argument("--queries", type=int, default=6)
    parser.add_argument("--tokens", type=int, nargs="+", default=[48, 128, 384])
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    tokens = Tokenizer.from_file(str(asked.model / "tokenizer.json")).encode(asked.text.read_text("utf-8")).ids
    half = len(tokens) // 2
    model = load_model(asked.model, dtype="float32", device=asked.device)
    runner = Runner(model, select_modules(model, asked.modules[0] if asked.modules == ["mlp"] else asked.modules))
    training = _cut(tokens[:half], LENGTH, asked.sequences)
    curvature = _fitted(runner, training)
    for length in asked.tokens:
        queries = _cut(tokens[half:], length, asked.queries)
        queries = Sequences(queries.tokens, queries.lengths, queries.keys, np.full(len(queries), length // 2, np.int32))
        for row in _compared(runner, training, queries, curvature):
            print(json.dumps({"tokens": length, **row}), flush=True)


def _cut(tokens: list[int], length: int, count: int) -> Sequences:
    count = min(count, len(tokens) // length)
    rows = np.array(tokens[: count * length], np.int32).reshape(count, length)
    return Sequences(rows, np.full(count, length, np.int32), np.arange(count, dtype=np.int64))


def _fitted(runner: Runner, training: Sequences) -> dict[str, LayerCurvature]:
    sampler = LabelSampler(0)
    bases = {name: eigenbasis(c.A, c.S) for name, c in covariances(runner, training, sampler).items()}
    bases = {name: basis.to(runner.device, torch.float32) for name, basis in bases.items()}
    corrections = eigenvalue_corrections(runner, training, bases, sampler)
    Λ = {name: moment.mean().to(runner.device, torch.float32) for name, moment in corrections.items()}
    return {name: LayerCurvature(bases[name], Λ[name], damping(float(Λ[name].mean()), 0.1)) for name in bases}


def _compared(
    runner: Runner, training: Sequences, queries: Sequences, curvature: Mapping[str, LayerCurvature]
) -> Iterator[dict[str, float]]:
    """Yield what each rank loses."""
    exact = query_outer_products(runner, queries, {name: layer.basis for name, layer in curvature.items()}).layers
    kept = {
        rank: {n: [truncated(V, curvature[n], rank) for V in of] for n, of in exact.items()}
        for rank in RANKS
        if rank < queries.tokens.shape[1] - 1
    }
    of_ranks = {str(rank): _preconditioned(products, curvature) for rank, products in kept.items()}
    methods = {"exact": _preconditioned(exact, curvature), **of_ranks}
    bases = {name: layer.basis for name, layer in curvature.items()}
    found = scores(runner, training, methods, len(training), bases)
    truth = found["exact"]
    widths = {name: sum(layer.Λ.shape) for name, layer in curvature.items()}
    for rank, products in kept.items():
        of_rank = found[str(rank)]
        pairs = list(zip(of_rank, truth, strict=True))
        numbers = sum(len(V) * widths[name] for name, of in products.items() for V in of)
        yield {
            "rank": rank,
            "share_of_numbers": numbers / len(queries) / sum(layer.Λ.numel() for layer in curvature.values()),
            "error": float(np.mean(_errors(exact, products, curvature))),
            "pearson": float(np.mean([pearsonr(a, b).statistic for a, b in pairs])),
            "spearman": float(np.mean([spearmanr(a, b).statistic for a, b in pairs])),
            "error_of_scores": float(np.linalg.norm(of_rank - truth) / np.linalg.norm(truth)),
            f"top_{TOP}_overlap": float(np.mean([len(_top(a) & _top(b)) for a, b in pairs])) / TOP,
        }


def _top(scores_of_query: np.ndarray) -> set[int]:
    return set(np.argsort(-scores_of_query)[:TOP].tolist())


def _preconditioned(products: Products, curvature: Mapping[str, LayerCurvature]) -> dict[str, Tensor]:
    return {
        name: torch.stack([V.sum() for V in products[name]]) / (layer.Λ + layer.λ) for name, layer in curvature.items()
    }


def _errors(exact: Products, kept: Products, curvature: Mapping[str, LayerCurvature]) -> np.ndarray:
    """Return √(‖V − V_r‖² / ‖V‖²) of each query."""
    lost, whole = (
        np.array([[float(curvature[n].squared_norm(V)) for V in of] for n, of in parts.items()])
        for parts in (
            {n: [V.sum() - V_r.sum() for V, V_r in zip(of, kept[n], strict=True)] for n, of in exact.items()},
            {n: [V.sum() for V in of] for n, of in exact.items()},
        )
    )
    return np.sqrt(lost.sum(0) / whole.sum(0))


if __name__ == "__main__":
    main()
