"""The layout of factor statistics: one array for each layer and letter, and the counts in the manifest.

Totals of A and S are in float64, and only the tiles on and below the diagonal are kept. Eigenvectors in diagonal blocks
have one array for each block: `layer.block0.Q_A`, `layer.block1.Q_A` etc. instead of `layer.Q_A`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile

import numpy as np
import torch
from torch import Tensor

from influence_assets.capture.correction import CorrectionTotals
from influence_assets.capture.covariance import Covariances, CovarianceTotals
from influence_assets.capture.runner import Runner
from influence_assets.maths.block_diagonal import BlockDiagonal, block_diagonal, blocks_of
from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature
from influence_assets.maths.moments import GramAccumulator, SecondMoment, SquareAccumulator
from influence_assets.models.layers.rule import AttributedLayer
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.drafts import Draft


def summarise_layers(draft: Draft, layers: Sequence[AttributedLayer]) -> None:
    """Write the names and shapes of the attributed layers, in the model's order."""
    shapes = {layer.name: [layer.output_width, layer.input_width] for layer in layers}
    draft.summarise(layers=list(shapes), shapes=shapes)


def write_covariances(draft: Draft, layers: Sequence[AttributedLayer], totals: CovarianceTotals) -> None:
    """Write the totals of A and S of some layers, the tiles on and below the diagonal one after the other.

    They are not compressed: they are read once or twice, and then removed.
    """
    for layer in layers:
        for accumulator, letter in zip(totals.accumulators(layer), "AS", strict=True):
            numbers = accumulator.packed().cpu().numpy()
            draft.mappable_array(f"{layer.name}.{letter}", numbers.shape, numbers.dtype).append(numbers)


def read_covariances(artifact: Artifact, layers: Sequence[AttributedLayer], blocks: int) -> CovarianceTotals:
    """Return the totals of A and S of some layers, to which further ones can be added."""
    totals = CovarianceTotals(blocks, torch.float64)
    for layer in layers:
        for accumulators, letter, width in ((totals.A, "A", layer.input_width), (totals.S, "S", layer.output_width)):
            accumulators[layer.name] = _accumulator(artifact, f"{layer.name}.{letter}", width, blocks)
    return totals


def read_factors(artifact: Artifact, layer: str) -> Covariances:
    """Return A and S of one layer, counted over the artifact's tokens."""
    figures = artifact.manifest.summary
    (d_out, d_in), blocks = figures["shapes"][layer], int(figures["blocks"])
    A, S = _accumulator(artifact, f"{layer}.A", d_in, blocks), _accumulator(artifact, f"{layer}.S", d_out, blocks)
    return Covariances(A.moment(), S.moment())


def _accumulator(artifact: Artifact, name: str, width: int, blocks: int) -> GramAccumulator:
    return GramAccumulator.from_packed(_read(artifact, name), width, blocks, _figure(artifact, "counted_tokens"))


def write_corrections(
    draft: Draft, layers: Sequence[AttributedLayer], totals: CorrectionTotals, dtype: torch.dtype
) -> None:
    """Write the totals of Λ of some layers, in a dtype."""
    for layer in layers:
        _write(draft, f"{layer.name}.corrected_eigenvalues", totals.of(layer).total.to(dtype))


def read_corrections(artifact: Artifact, layers: Sequence[AttributedLayer]) -> CorrectionTotals:
    """Return the totals of Λ of some layers, to which further ones can be added."""
    totals = CorrectionTotals(torch.float64)
    for layer in layers:
        totals.Λ[layer.name] = SquareAccumulator.of(read_correction(artifact, layer.name))
    return totals


def read_correction(artifact: Artifact, layer: str) -> SecondMoment[Tensor]:
    """Return Λ of one layer, counted over the artifact's sequences."""
    return SecondMoment(_read(artifact, f"{layer}.corrected_eigenvalues"), _figure(artifact, "fitted_sequences"))


def write_basis(draft: Draft, layer: str, basis: Eigenbasis, dtype: torch.dtype) -> None:
    """Write the eigenbasis of one layer, its eigenvectors in a dtype: that in which they will be multiplied."""
    _write_blocks(draft, layer, "Q_S", basis.Q_S.to(dtype))
    _write_blocks(draft, layer, "Q_A", basis.Q_A.to(dtype))
    _write(draft, f"{layer}.eigenvalues_S", basis.eigenvalues_S)
    _write(draft, f"{layer}.eigenvalues_A", basis.eigenvalues_A)


def read_basis(artifact: Artifact, layer: str) -> Eigenbasis:
    """Return the eigenbasis of one layer."""
    return Eigenbasis(
        block_diagonal(_read_blocks(artifact, layer, "Q_S")),
        block_diagonal(_read_blocks(artifact, layer, "Q_A")),
        _read(artifact, f"{layer}.eigenvalues_S"),
        _read(artifact, f"{layer}.eigenvalues_A"),
    )


@dataclass(frozen=True)
class LayerEigenvalues:
    """The corrected eigenvalues of one layer and its damping, without the eigenvectors."""

    Λ: Tensor
    λ: float


class StoredEigenvalues(Mapping[str, LayerEigenvalues]):
    """The corrected eigenvalues and dampings of all layers, in the model's order, read when they are used.

    Args:
        curvature: the artifact.
        dtype: the dtype to return eigenvalues in.
    """

    def __init__(self, curvature: Artifact, dtype: torch.dtype) -> None:
        self._curvature = curvature
        self._dtype = dtype

    def __getitem__(self, layer: str) -> LayerEigenvalues:
        Λ = _read(self._curvature, f"{layer}.corrected_eigenvalues").to(self._dtype)
        return LayerEigenvalues(Λ, float(self._curvature.manifest.summary["damping"][layer]))

    def __iter__(self) -> Iterator[str]:
        return iter(layers_of(self._curvature))

    def __len__(self) -> int:
        return len(layers_of(self._curvature))


def read_layers(artifact: Artifact, kind: str, device: str, rows: slice) -> dict[str, Tensor]:
    """Return some rows of one array of each layer, such as query gradients."""
    read = {layer: artifact.rows(f"{layer}.{kind}", rows.start, rows.stop) for layer in layers_of(artifact)}
    return {layer: torch.from_numpy(np.ascontiguousarray(values)).to(device) for layer, values in read.items()}


def curvature_on(runner: Runner, eigenbases: Artifact, curvature: Artifact) -> dict[str, LayerCurvature]:
    """Return the curvature of the runner's layers on its device, in the dtype that is used for sums."""
    stored = StoredEigenvalues(curvature, torch.promote_types(runner.dtype, torch.float32))
    layers = {}
    for name, basis in bases_on(runner, eigenbases).items():
        of_layer = stored[name]
        layers[name] = LayerCurvature(basis, of_layer.Λ.to(runner.device), of_layer.λ)
    return layers


def bases_on(runner: Runner, eigenbases: Artifact) -> dict[str, Eigenbasis]:
    """Return the eigenbases of the runner's layers on its device, in the dtype that is used for sums."""
    dtype = torch.promote_types(runner.dtype, torch.float32)
    return {layer.name: read_basis(eigenbases, layer.name).to(runner.device, dtype) for layer in runner.modules}


def bases_of(curvature: Mapping[str, LayerCurvature]) -> dict[str, Eigenbasis]:
    """Return the eigenbasis of every layer."""
    return {name: layer.basis for name, layer in curvature.items()}


def layers_of(artifact: Artifact) -> list[str]:
    """Return the attributed layers, in the model's order."""
    return [str(layer) for layer in artifact.manifest.summary["layers"]]


def _write_blocks(draft: Draft, layer: str, letter: str, M: Tensor | BlockDiagonal) -> None:
    blocks = blocks_of(M)
    names = [f"{layer}.{letter}"] if len(blocks) == 1 else (_block(layer, index, letter) for index in count())
    for name, block in zip(names, blocks, strict=False):
        _write(draft, name, block)


def _read_blocks(artifact: Artifact, layer: str, letter: str) -> list[Tensor]:
    stored = set(artifact.array_names())
    blocks = takewhile(stored.__contains__, (_block(layer, index, letter) for index in count()))
    return [_read(artifact, name) for name in list(blocks) or [f"{layer}.{letter}"]]


def _block(layer: str, index: int, letter: str) -> str:
    return f"{layer}.block{index}.{letter}"


def _write(draft: Draft, name: str, values: Tensor) -> None:
    draft.array(name, values.detach().cpu().numpy())


def _read(artifact: Artifact, name: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(artifact.array(name)))


def _figure(artifact: Artifact, name: str) -> int:
    return int(artifact.manifest.summary[name])
