"""This project's stages, called as its pipeline calls them; what a stage leaves for the next is read and written
within the measured part, as it is by kronfluence."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import inputs
from benchmarks.cases import Job
from benchmarks.measuring import Clock, bytes_of
from influence_assets.capture.batches import Sequences
from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import ScoreTotals, score_pass
from influence_assets.capture.sign_codes import SignCodes, encode, estimate
from influence_assets.capture.sketches import query_sketches, sketches
from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature, damping, eigenbasis
from influence_assets.maths.moments import SecondMoment
from influence_assets.maths.sketches import Coordinates, strongest_coordinates
from influence_assets.methods.ekfac import precondition
from influence_assets.models.freed_memory import keep_freed_memory
from influence_assets.models.layers.selection import select_modules
from influence_assets.models.loading import load_model
from influence_assets.study import Dtype

BASIS = ("Q_S", "Q_A", "eigenvalues_S", "eigenvalues_A")
COORDINATES = 131_072
"""The default of `sketches.coordinates`."""


class Ours:
    """The stages of this project on one model."""

    def __init__(self, job: Job) -> None:
        keep_freed_memory()
        self.job = job
        self.sampler = LabelSampler(0) if job.variant == "sampled" else None
        self.batch = 0
        if job.stage != "eigendecomposition":  # which needs no model; others load it before they are measured
            tokens = inputs.read(job.inputs, inputs.TRAIN, 1)
            self.batch = self.runner.batch_size(tokens)

    @cached_property
    def runner(self) -> Runner:
        """The model; on a processor with the batch size that it finds, as for its users, who need not say."""
        dtype: Dtype = self.job.dtype  # type: ignore[assignment]
        model = load_model(self.job.inputs / "model", dtype=dtype, device=self.job.device)
        return Runner(model, select_modules(model, "mlp"), "auto" if self.job.device == "cpu" else self.job.size.batch)

    def run(self, clock: Clock, store: Path, sequences: Sequences, queries: Sequences | None) -> int:
        """Run the job's stage; returns the bytes that it left."""
        stages: dict[str, Callable[[], None]] = {
            "covariances": lambda: self.covariances(store, sequences),
            "eigendecomposition": lambda: self.eigendecomposition(store),
            "corrected_eigenvalues": lambda: self.corrected_eigenvalues(store, sequences),
            "sketches": lambda: self.sketches(store, sequences),
        }
        stage = self.job.stage
        if stage == "total":
            for name in ("covariances", "eigendecomposition", "corrected_eigenvalues"):
                with clock.part(name):
                    stages[name]()
        elif stage in stages:
            stages[stage]()
            return bytes_of(store / stage)
        assert queries is not None
        if stage == "second_scores_32":
            found = self.second_scores(clock, store, queries)
        else:
            found = self.scores(clock, store, sequences, queries)
        np.save(store / "scores.npy" if self.job.variant else self.job.scores, found)
        return bytes_of(store) if stage == "total" else found.nbytes

    def warm(self, _store: Path) -> None:
        """One batch, so that the first call's costs are not the stage's."""
        few_numbers = SecondMoment(torch.eye(64, dtype=torch.float64, device=self.job.device), 1)
        eigenbasis(few_numbers, few_numbers)
        if self.job.stage == "eigendecomposition":
            return
        few = inputs.read(self.job.inputs, inputs.TRAIN, self.job.size.batch)
        covariances(self.runner, few, None)

    def covariances(self, store: Path, sequences: Sequences) -> None:
        """A and S."""
        layers = covariances(self.runner, sequences, self.sampler)
        tensors = {f"{name}.{letter}": getattr(c, letter).total for name, c in layers.items() for letter in "AS"}
        write(store / "covariances", tensors | {"count": torch.tensor(next(iter(layers.values())).A.count)})

    def eigendecomposition(self, store: Path) -> None:
        """Q_A, Q_S."""
        covariances = store / "covariances"
        count = int(read(covariances, "count"))
        for name in sorted(file.name.removesuffix(".A.npy") for file in covariances.glob("*.A.npy")):
            A, S = (SecondMoment(self._read(covariances, f"{name}.{letter}"), count) for letter in "AS")
            basis = eigenbasis(A, S).to(self.job.device, A.total.dtype)
            write(store / "eigendecomposition", {f"{name}.{part}": getattr(basis, part) for part in BASIS})

    def corrected_eigenvalues(self, store: Path, sequences: Sequences) -> None:
        """Λ."""
        layers = eigenvalue_corrections(self.runner, sequences, self._bases(store), self.sampler)
        tensors = {name: moment.total for name, moment in layers.items()}
        counted = torch.tensor(next(iter(layers.values())).count)
        write(store / "corrected_eigenvalues", tensors | {"count": counted})

    def scores(self, clock: Clock, store: Path, sequences: Sequences, queries: Sequences) -> np.ndarray:
        """Exact scores, as many queries at once as the job says."""
        with clock.part("reading"):
            layers = self._curvature(store)
            bases = {name: layer.basis for name, layer in layers.items()}
        rows = []
        at_once = self.job.query_batch or len(queries)
        for start in range(0, len(queries), at_once):
            asked = queries.take(np.arange(start, min(start + at_once, len(queries))))
            with clock.part("query_gradients"):
                V = query_gradients(self.runner, asked, bases).layers
            with clock.part("preconditioning"):
                P = precondition(V, layers)
                del V  # P took its place
                totals = ScoreTotals({"ekfac": P}, len(sequences), len(sequences), self.runner.device)
                if self.job.variant == "queries_rotated":
                    for name, basis in bases.items():
                        basis.rotate_back(P[name])
                else:
                    totals.in_eigenbases(bases, sequences.tokens.shape[1], rotated_anyway=False)
            with clock.part("pass"):
                score_pass(self.runner, sequences, totals, bases)
                rows.append(totals.totals()["ekfac"])
        return np.concatenate(rows)

    def sketches(self, store: Path, sequences: Sequences) -> None:
        """Signs of the whitened gradients of every sequence."""
        layers = self._curvature(store)
        coordinates = strongest_coordinates(layers, COORDINATES)
        probes = {name: layer.Λ.new_zeros(1, *layer.Λ.shape) for name, layer in layers.items()}
        batches = sketches(self.runner, sequences, layers, coordinates, probes)
        codes = [encode(batch.rows, batch.squared_norms) for batch in batches]
        tensors = {f"kept.{name}": kept for name, kept in coordinates.kept.items()}
        tensors["signs"] = torch.from_numpy(np.concatenate([code.signs for code in codes]))
        tensors["scales"] = torch.from_numpy(np.concatenate([code.scales for code in codes]))
        write(store / "sketches", tensors)

    def second_scores(self, clock: Clock, store: Path, queries: Sequences) -> np.ndarray:
        """Scores of new queries over what `sketches` stored, without the training sequences."""
        with clock.part("reading"):
            layers = self._curvature(store)
            sketches = store / "sketches"
            kept = {name: self._read(sketches, f"kept.{name}") for name in layers}
            codes = SignCodes(*(read(sketches, part).numpy() for part in ("signs", "scales")))
        with clock.part("query_gradients"):
            bases = {name: layer.basis for name, layer in layers.items()}
            V = query_gradients(self.runner, queries, bases).layers
        with clock.part("query_sketches"):
            asked = query_sketches(V, layers, Coordinates(kept, 1.0), len(codes.signs))
        with clock.part("pass"):
            return estimate(asked, codes)

    def _bases(self, store: Path) -> dict[str, Eigenbasis]:
        names, place = [linear.name for linear in self.runner.modules], store / "eigendecomposition"
        return {name: self._basis(place, name).to(self.job.device) for name in names}

    def _basis(self, place: Path, name: str) -> Eigenbasis:
        return Eigenbasis(*(self._read(place, f"{name}.{part}") for part in BASIS))

    def _curvature(self, store: Path) -> dict[str, LayerCurvature]:
        place = store / "corrected_eigenvalues"
        count, bases = int(read(place, "count")), self._bases(store)
        means = {name: self._read(place, name).div_(count) for name in bases}
        return {
            name: LayerCurvature(basis, means[name], damping(float(means[name].mean()), 0.1))
            for name, basis in bases.items()
        }

    def _read(self, folder: Path, name: str) -> Tensor:
        return read(folder, name).to(self.job.device)


def write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """A file each, as the pipeline has an array each: nothing is held twice."""
    folder.mkdir(exist_ok=True)
    for name, tensor in tensors.items():
        np.save(folder / f"{name}.npy", tensor.cpu().numpy())


def read(folder: Path, name: str) -> Tensor:
    """What `write` wrote, on the host."""
    return torch.from_numpy(np.load(folder / f"{name}.npy"))
