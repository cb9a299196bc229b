"""This project's stages, called as its pipeline calls them; what a stage leaves for the next is read and written
within the measured part, as it is by kronfluence."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import inputs
from benchmarks.cases import Job
from benchmarks.measuring import Clock, bytes_of
from influence_assets.capture import measurements
from influence_assets.capture.batches import Sequences
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.models import keep_freed_memory, load_model
from influence_assets.capture.modules import select_modules
from influence_assets.capture.runner import Runner
from influence_assets.capture.sign_codes import SignCodes, encode, estimate
from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature, damping, eigenbasis
from influence_assets.maths.moments import SecondMoment
from influence_assets.maths.sketches import Coordinates, strongest_coordinates
from influence_assets.methods.ekfac import EKFAC
from influence_assets.study import Dtype

BASIS = ("Q_S", "Q_A", "eigenvalues_S", "eigenvalues_A")
COORDINATES = 131_072
"""The default of `sketches.coordinates`."""


class Ours:
    """The stages of this project on one model."""

    def __init__(self, job: Job) -> None:
        keep_freed_memory()
        dtype: Dtype = job.dtype  # type: ignore[assignment]
        self.job = job
        self.model = load_model(job.inputs / "model", dtype=dtype, device=job.device)
        self.runner = Runner(self.model, select_modules(self.model, "mlp"), job.size.batch)
        self.sampler = LabelSampler(0) if job.variant == "sampled" else None
        self.dtype = torch.promote_types(self.model.dtype, torch.float32)

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
            return bytes_of(store / f"{stage}.safetensors")
        assert queries is not None
        if stage == "second_scores_32":
            found = self.second_scores(clock, store, queries)
        else:
            found = self.scores(clock, store, sequences, queries)
        np.save(store / "scores.npy" if self.job.variant else self.job.scores, found)
        return bytes_of(store) if stage == "total" else found.nbytes

    def warm(self, _store: Path) -> None:
        """One batch, so that the first call's costs are not the stage's."""
        few = inputs.read(self.job.inputs, inputs.TRAIN, self.job.size.batch)
        measurements.covariances(self.runner, few, None)
        torch.linalg.eigh(torch.eye(64, dtype=torch.float64, device=self.job.device))

    def covariances(self, store: Path, sequences: Sequences) -> None:
        """A and S."""
        layers = measurements.covariances(self.runner, sequences, self.sampler)
        tensors = {f"{name}.{letter}": getattr(c, letter).total for name, c in layers.items() for letter in "AS"}
        save_file(
            _whole(tensors) | {"count": torch.tensor(next(iter(layers.values())).A.count)}, _at(store, "covariances")
        )

    def eigendecomposition(self, store: Path) -> None:
        """Q_A, Q_S."""
        read = load_file(_at(store, "covariances"), device=self.job.device)
        count = int(read["count"])
        found: dict[str, Tensor] = {}
        for linear in self.runner.modules:
            A, S = (SecondMoment(read[f"{linear.name}.{letter}"], count) for letter in "AS")
            basis = eigenbasis(A, S).to(self.job.device, self.dtype)
            found |= {f"{linear.name}.{part}": getattr(basis, part) for part in BASIS}
        save_file(_whole(found), _at(store, "eigendecomposition"))

    def corrected_eigenvalues(self, store: Path, sequences: Sequences) -> None:
        """Λ."""
        layers = measurements.eigenvalue_corrections(self.runner, sequences, self._bases(store), self.sampler)
        tensors = {name: moment.total for name, moment in layers.items()}
        counted = torch.tensor(next(iter(layers.values())).count)
        save_file(_whole(tensors) | {"count": counted}, _at(store, "corrected_eigenvalues"))

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
                V = measurements.query_gradients(self.runner, asked, bases).layers
            with clock.part("preconditioning"):
                P = EKFAC(layers).precondition(V)
                del V  # P took its place
                totals = measurements.ScoreTotals({"ekfac": P}, len(sequences), len(sequences), self.runner.device)
                totals.in_eigenbases(bases, sequences.tokens.shape[1], rotated_anyway=False)
            with clock.part("pass"):
                measurements.score_pass(self.runner, sequences, totals, bases)
                rows.append(totals.totals()["ekfac"])
        return np.concatenate(rows)

    def sketches(self, store: Path, sequences: Sequences) -> None:
        """Signs of the whitened gradients of every sequence."""
        layers = self._curvature(store)
        coordinates = strongest_coordinates(layers, COORDINATES)
        probes = {name: layer.Λ.new_zeros(1, *layer.Λ.shape) for name, layer in layers.items()}
        batches = measurements.sketches(self.runner, sequences, layers, coordinates, probes)
        codes = [encode(batch.rows, batch.squared_norms) for batch in batches]
        tensors = {f"kept.{name}": kept for name, kept in coordinates.kept.items()}
        tensors["signs"] = torch.from_numpy(np.concatenate([code.signs for code in codes]))
        tensors["scales"] = torch.from_numpy(np.concatenate([code.scales for code in codes]))
        save_file(_whole(tensors), _at(store, "sketches"))

    def second_scores(self, clock: Clock, store: Path, queries: Sequences) -> np.ndarray:
        """Scores of new queries over what `sketches` stored, without the training sequences."""
        with clock.part("reading"):
            layers = self._curvature(store)
            read = load_file(_at(store, "sketches"))
            kept = {name: read[f"kept.{name}"].to(self.job.device) for name in layers}
            codes = SignCodes(read["signs"].numpy(), read["scales"].numpy())
        with clock.part("query_gradients"):
            bases = {name: layer.basis for name, layer in layers.items()}
            V = measurements.query_gradients(self.runner, queries, bases).layers
        with clock.part("query_sketches"):
            asked = measurements.query_sketches(V, layers, Coordinates(kept, 1.0), len(codes.signs))
        with clock.part("pass"):
            return estimate(asked, codes)

    def _bases(self, store: Path) -> dict[str, Eigenbasis]:
        read = load_file(_at(store, "eigendecomposition"), device=self.job.device)
        names = [linear.name for linear in self.runner.modules]
        bases = {name: Eigenbasis(*(read[f"{name}.{part}"] for part in BASIS)) for name in names}
        return {name: basis.to(self.job.device) for name, basis in bases.items()}

    def _curvature(self, store: Path) -> dict[str, LayerCurvature]:
        read = load_file(_at(store, "corrected_eigenvalues"), device=self.job.device)
        means = {name: read[name] / int(read["count"]) for name in read if name != "count"}
        bases = self._bases(store)
        return {name: LayerCurvature(basis, means[name], damping(means[name], 0.1)) for name, basis in bases.items()}


def _at(store: Path, stage: str) -> Path:
    return store / f"{stage}.safetensors"


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
