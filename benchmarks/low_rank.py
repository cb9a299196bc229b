"""What scores lose by curvature of low rank, on a study that is computed: agreement with EK-FAC, bytes and seconds.

    python -m benchmarks.low_rank --study demo/study.yaml --ranks 0 8 16 32 64 128

For each rank, scores of all queries and training sequences are compared with those of EK-FAC:
  exact      the leading eigenvectors of EK-FAC's own bases, with an isotropic rest
  sketched   eigenvectors from sketches, measured in passes of their own (`--passes`), whose CPU seconds are reported
  coarse     exact, but with one mean eigenvalue for each of the three parts of the rest
  dropped    exact, but without the rest, with EK-FAC's damping
  dropped_own_damping   the same with a tenth of the mean of the eigenvalues that are kept
  by_energy  exact, with ranks by layer and side such that equal shares of the factors' traces are kept, at equal bytes
  by_level   the same, with the eigenvalues that are larger than some multiple of their factor's mean eigenvalue
  inputs     the same, with twice as many eigenvectors of A as of S in all layers
Prints one JSON object.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from influence_assets.assets import open_workspace
from influence_assets.capture.batches import Sequences
from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import covariances
from influence_assets.capture.low_rank import covariance_sketches, low_rank_corrections
from influence_assets.capture.scores import scores
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.layouts.factors import curvature_on
from influence_assets.layouts.model import fit_sequences, label_sampler
from influence_assets.layouts.model import runner as load_runner
from influence_assets.layouts.queries import StoredQueries
from influence_assets.layouts.sequences import shard_sequences
from influence_assets.maths.curvature_form import CurvatureForm
from influence_assets.maths.ekfac import LayerCurvature, damping, eigenbasis
from influence_assets.maths.low_rank import LowRankBasis, LowRankCurvature
from influence_assets.maths.moments import SecondMoment
from influence_assets.methods.ekfac import precondition
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study

TOP = 100
BYTES_OF_A_NUMBER = 8
"""Bases and merged eigenvalues are kept in float64."""

Ranks = Mapping[str, tuple[int, int]]
"""r_S and r_A of each layer."""
Layers = dict[str, LowRankCurvature]


class Measured:
    """A study's sequences, its queries' gradients in the model's coordinates, and EK-FAC of all of its sequences.

    The study's own generation may have been fitted on other sequences, before the corpus changed.
    """

    def __init__(self, study: Study, queries: int) -> None:
        workspace = open_workspace(study)
        versions = Versions(workspace, "published")

        def opened(asset: str, partition: Partition) -> Artifact:
            key = versions.key(workspace.graph[asset], partition)
            assert key is not None, "compute the study first"
            return workspace.store.open(key)

        shards = [shard_sequences(opened("token_sequences", Partition(shard=shard))) for shard in workspace.shards]
        self.sequences = Sequences.joined(shards)
        all_shards = Partition()
        generation = opened("eigenbases", all_shards)
        share, seed = float(generation.manifest.summary["fitted_share"]), study.curvature.seed
        self.fitted = Sequences.joined([fit_sequences(shard, share, seed) for shard in shards])
        self.sampler = label_sampler(study.curvature)
        self.scale = study.curvature.damping_scale
        self.runner = load_runner(workspace, opened("language_model", all_shards), lambda *_: None)
        self.dtype = torch.promote_types(self.runner.dtype, torch.float32)
        own = curvature_on(self.runner, generation, opened("curvature", all_shards))
        query_set = opened("query_gradients", Partition(query_set=next(iter(workspace.query_sets))))
        stored = StoredQueries(query_set, self.runner, own)
        self.N = stored.N
        rows = slice(0, min(queries, stored.all.stop))
        V = {name: values.double() for name, values in stored.gradients(rows).items()}
        self.V = {name: layer.basis.to("cpu", torch.float64).rotate_back(V[name]) for name, layer in own.items()}
        self.seconds: dict[str, float] = {}
        self.ekfac = self._fit()

    def _fit(self) -> dict[str, LayerCurvature]:
        with clocked(self.seconds, "covariances"):
            factors = covariances(self.runner, self.fitted, self.sampler)
        with clocked(self.seconds, "eigenvectors"):
            bases = {name: eigenbasis(layer.A, layer.S) for name, layer in factors.items()}
        placed = {name: basis.to("cpu", self.dtype) for name, basis in bases.items()}
        with clocked(self.seconds, "corrections"):
            totals = eigenvalue_corrections(self.runner, self.fitted, placed, self.sampler)
        Λ = {name: total.mean().double() for name, total in totals.items()}
        return {
            name: LayerCurvature(basis, Λ[name], damping(float(Λ[name].mean()), self.scale))
            for name, basis in bases.items()
        }

    def preconditioned(self) -> dict[str, Tensor]:
        """Return (G+λI)⁻¹ V by EK-FAC, in the model's coordinates."""
        rotated = {name: x.basis.Q_S.T @ self.V[name] @ x.basis.Q_A for name, x in self.ekfac.items()}
        P = precondition(rotated, self.ekfac)
        return {name: layer.basis.rotate_back(P[name]).to(self.dtype) for name, layer in self.ekfac.items()}

    def score(self, methods: Mapping[str, dict[str, Tensor]]) -> dict[str, np.ndarray]:
        """Return the scores [query, sequence] by each method, in one pass."""
        return scores(self.runner, self.sequences, methods, self.N)


def exact(layers: Mapping[str, LayerCurvature], ranks: Ranks, scale: float) -> Layers:
    """Return the curvature of low rank in the study's own eigenvectors; its mean squares are sums of EK-FAC's Λ."""
    found = {}
    for name, layer in layers.items():
        basis, (r_S, r_A) = layer.basis, ranks[name]
        order_S, order_A = (values.argsort(descending=True) for values in (basis.eigenvalues_S, basis.eigenvalues_A))
        whole = LowRankBasis(
            basis.Q_S[:, order_S], basis.Q_A[:, order_A], basis.eigenvalues_S[order_S], basis.eigenvalues_A[order_A],
            float(basis.eigenvalues_S.sum()), float(basis.eigenvalues_A.sum()),
        )  # fmt: skip
        E = layer.Λ[order_S][:, order_A]
        E = torch.cat([E[:r_S], E[r_S:].sum(0, keepdim=True)])
        E = torch.cat([E[:, :r_A], E[:, r_A:].sum(1, keepdim=True)], dim=1)
        found[name] = LowRankCurvature.fitted(whole.truncated(r_S, r_A), SecondMoment(E, 1), scale)
    return found


def coarse(layer: LowRankCurvature) -> LowRankCurvature:
    """Return the curvature with one mean for each of the parts of the rest."""
    Λ = layer.Λ.clone()
    if Λ.shape[0] > 1:
        Λ[:-1, -1] = Λ[:-1, -1].mean()
    if Λ.shape[1] > 1:
        Λ[-1, :-1] = Λ[-1, :-1].mean()
    return replace(layer, Λ=Λ)


def dropped(layer: LowRankCurvature, *, own_damping: float | None = None) -> LowRankCurvature:
    """Return the curvature without the rest, with its own λ if a scale is given."""
    λ = layer.λ if own_damping is None else damping(float(layer.Λ[:-1, :-1].mean()), own_damping)
    return replace(layer, λ=λ, rest="dropped")


def same_rank(layers: Mapping[str, LayerCurvature], rank: int) -> Ranks:
    """Return ranks of at most this number on each side."""
    return {name: (min(rank, len(x.basis.Q_S)), min(rank, len(x.basis.Q_A))) for name, x in layers.items()}


def numbers(layers: Mapping[str, LayerCurvature], ranks: Ranks) -> int:
    """Return how many numbers the bases, eigenvalues and Λ of these ranks have."""
    return sum(
        r_S * (len(x.basis.Q_S) + 1) + r_A * (len(x.basis.Q_A) + 1) + (r_S + 1) * (r_A + 1)
        for name, x in layers.items()
        for r_S, r_A in [ranks[name]]
    )


Rule = Callable[[Mapping[str, LayerCurvature], float], Ranks]
"""Chooses ranks; the more, the larger the number between 0 and 1."""


def within(layers: Mapping[str, LayerCurvature], budget: int, rule: Rule) -> Ranks:
    """Return the largest ranks by a rule whose curvature has no more than this number of numbers."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if numbers(layers, rule(layers, middle)) <= budget else (low, middle)
    return rule(layers, low)


def by_energy(layers: Mapping[str, LayerCurvature], amount: float) -> Ranks:
    """Return ranks that hold this share of each factor's trace."""
    return _of_sides(layers, lambda e: (e.sort(descending=True).values.cumsum(0) < amount * e.sum()).sum())


def by_level(layers: Mapping[str, LayerCurvature], amount: float) -> Ranks:
    """Return ranks of the eigenvalues above (1/amount − 1) times their factor's mean."""
    return _of_sides(layers, lambda e: (amount * e > (1 - amount) * e.mean()).sum())


def _of_sides(layers: Mapping[str, LayerCurvature], rank: Callable[[Tensor], Tensor]) -> Ranks:
    return {name: (int(rank(x.basis.eigenvalues_S)), int(rank(x.basis.eigenvalues_A))) for name, x in layers.items()}


def inputs(layers: Mapping[str, LayerCurvature], amount: float) -> Ranks:
    """Return ranks that are twice as large for A as for S, and the same in all layers."""
    widest = max(max(len(x.basis.Q_S), len(x.basis.Q_A)) for x in layers.values())
    r_S, r_A = int(amount * widest), int(2 * amount * widest)
    return {name: (min(r_S, len(x.basis.Q_S)), min(r_A, len(x.basis.Q_A))) for name, x in layers.items()}


@contextmanager
def clocked(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note the CPU seconds of a block."""
    started = time.process_time()
    yield
    seconds[name] = round(time.process_time() - started, 2)


def sketched(study: Measured, rank: int) -> tuple[Layers, dict[str, float]]:
    """Return the curvature of low rank as a run would measure it, and the CPU seconds of its parts."""
    seconds: dict[str, float] = {}
    with clocked(seconds, "covariances"):
        form = CurvatureForm(rank=rank)
        sketches = covariance_sketches(study.runner, study.fitted, study.sampler, form)
    with clocked(seconds, "eigenvectors"):
        bases = {name: layer.basis(form) for name, layer in sketches.items()}
    with clocked(seconds, "corrections"):
        corrections = low_rank_corrections(study.runner, study.fitted, bases, study.sampler)
    layers = {
        name: LowRankCurvature.fitted(
            bases[name], SecondMoment(layer.squared_norms.total.double(), layer.squared_norms.count), study.scale
        )
        for name, layer in corrections.items()
    }
    return layers, seconds


def compared(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Return the agreement of scores [query, sequence], averaged over queries."""
    ranks = [spearmanr(a, b).statistic for a, b in zip(truth, found, strict=True)]
    top = min(TOP, truth.shape[1] // 2)
    shared_top = [
        len(set(np.argsort(-a)[:top]) & set(np.argsort(-b)[:top])) / top for a, b in zip(truth, found, strict=True)
    ]
    return {
        "spearman": round(float(np.mean(ranks)), 4),
        "least_spearman": round(float(np.min(ranks)), 4),
        f"top_{top}": round(float(np.mean(shared_top)), 3),
        "norm_of_difference": round(float(np.linalg.norm(found - truth) / np.linalg.norm(truth)), 4),
    }


def measured(study: Measured, ranks: list[int], *, passes: bool) -> dict[str, Any]:
    """Measure all variants at every rank."""
    methods: dict[str, dict[str, Tensor]] = {"ekfac": study.preconditioned()}
    rows: dict[str, Any] = {}
    full = max(max(len(x.basis.Q_S), len(x.basis.Q_A)) for x in study.ekfac.values())
    for rank in [*ranks, full]:
        uniform = same_rank(study.ekfac, rank)
        kept = numbers(study.ekfac, uniform)
        row: dict[str, Any] = {"megabytes": round(kept * BYTES_OF_A_NUMBER / 1e6, 3)}
        variants = {"exact": exact(study.ekfac, uniform, study.scale)}
        if 0 < rank < full:
            variants["coarse"] = {name: coarse(layer) for name, layer in variants["exact"].items()}
            variants["dropped"] = {name: dropped(layer) for name, layer in variants["exact"].items()}
            variants["dropped_own_damping"] = {
                name: dropped(layer, own_damping=study.scale) for name, layer in variants["exact"].items()
            }
            for rule in (by_energy, by_level, inputs):
                chosen = within(study.ekfac, kept, rule)
                variants[rule.__name__] = exact(study.ekfac, chosen, study.scale)
                row[f"ranks_{rule.__name__}"] = list(chosen.values())
        if passes:
            variants["sketched"], row["cpu_seconds"] = sketched(study, rank)
        methods |= {
            f"{rank} {variant}": {
                name: layer.precondition(study.V[name].clone()).to(study.dtype) for name, layer in layers.items()
            }
            for variant, layers in variants.items()
        }
        rows[str(rank)] = row
    found = study.score(methods)
    for method, values in found.items():
        if method != "ekfac":
            rank_name, variant = method.split()
            rows[rank_name][variant] = compared(found["ekfac"], values)
    return rows


def main() -> None:
    """Measure a study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--ranks", type=int, nargs="+", default=[0, 8, 16, 32, 64, 128])
    parser.add_argument("--passes", action="store_true", help="measure sketches too, which takes two passes a rank")
    parser.add_argument("--queries", type=int, default=15, help="how many queries, whose gradients are kept by method")
    arguments = parser.parse_args()
    study = Measured(Study.load(arguments.study), arguments.queries)
    found = {
        "sequences": len(study.sequences),
        "queries": len(next(iter(study.V.values()))),
        "ekfac_cpu_seconds": study.seconds,
        "ranks": measured(study, arguments.ranks, passes=arguments.passes),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
