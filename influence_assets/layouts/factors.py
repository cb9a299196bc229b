"""The layout of factor statistics: one array for each layer and letter, and the counts in the manifest.

Totals of A and S are in float64, and only the tiles on and below the diagonal are kept. Eigenvectors in diagonal blocks
have one array for each block: `layer.block0.Q_A`, `layer.block1.Q_A` etc. instead of `layer.Q_A`. Of low rank there are
`layer.U_A`, and Y and the trace for the totals of A (`maths/range_finder.py`). Which form it is, is in the manifest.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from influence_assets.capture.correction import CorrectionTotals
from influence_assets.capture.covariance import Covariances
from influence_assets.capture.form import AnyCovarianceTotals, covariance_totals
from influence_assets.capture.low_rank import CovarianceSketches
from influence_assets.capture.runner import Runner
from influence_assets.maths.block_diagonal import BlockDiagonal, block_diagonal, blocks_of
from influence_assets.maths.curvature import Basis, Curvature
from influence_assets.maths.curvature_form import CurvatureForm
from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature, LayerEigenvalues
from influence_assets.maths.identity import Identity
from influence_assets.maths.low_rank import LowRankBasis, LowRankCurvature, mean_eigenvalues
from influence_assets.maths.moments import GramAccumulator, SecondMoment, SquareAccumulator
from influence_assets.maths.notation import accumulation_dtype, device_of_sums, in_float64
from influence_assets.maths.range_finder import RangeAccumulator
from influence_assets.models.layers.rule import AttributedLayer
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.drafts import Draft


def summarise_layers(draft: Draft, layers: Sequence[AttributedLayer]) -> None:
    """Write the names and shapes of the attributed layers, in the model's order."""
    shapes = {layer.name: [layer.output_width, layer.input_width] for layer in layers}
    without_S = [layer.name for layer in layers if layer.outputs != "factor"]
    draft.summarise(layers=list(shapes), shapes=shapes, **summarised_without_S(without_S))


WITHOUT_S = "layers_without_S"
"""The key of a summary under which are the layers that have a row for each word, and so no S, if there are any."""


def summarised_without_S(layers: Sequence[str]) -> dict[str, list[str]]:  # noqa: N802  # the letter of S
    """Return these layers for the manifest, from which `layers_without_S` reads them; nothing if there are none."""
    return {WITHOUT_S: list(layers)} if layers else {}


def layers_without_S(artifact: Artifact) -> frozenset[str]:  # noqa: N802  # the letter of S
    """Return the layers of which an artifact has no S, because nothing rotates their outputs."""
    return frozenset(artifact.manifest.summary.get(WITHOUT_S, ()))


def factor_shapes(artifact: Artifact) -> list[tuple[int, int]]:
    """Return the shape of each layer's matrix, as `AttributedLayer.factor_shape` does."""
    without_S = layers_without_S(artifact)
    shapes = artifact.manifest.summary["shapes"].items()
    return [(d_in if name in without_S else d_out, d_in) for name, (d_out, d_in) in shapes]


def write_covariances(draft: Draft, layers: Sequence[AttributedLayer], totals: AnyCovarianceTotals) -> None:
    """Write the totals of A and S of some layers, or of their sketches, the numbers of a factor one after the other.

    They are not compressed: they are read once or twice, and then removed.
    """
    for layer in layers:
        for accumulator, letter in zip(totals.accumulators(layer), "AS", strict=True):
            if accumulator is None:
                continue
            numbers = accumulator.packed().cpu().numpy()
            draft.mappable_array(f"{layer.name}.{letter}", numbers.shape, numbers.dtype).append(numbers)


def read_covariances(artifact: Artifact, layers: Sequence[AttributedLayer], form: CurvatureForm) -> AnyCovarianceTotals:
    """Return the totals of A and S of some layers, or of their sketches, to which further ones can be added."""
    totals = covariance_totals(form, torch.float64)
    for layer in layers:
        has_S = layer.outputs == "factor"
        totals.A[layer.name] = _accumulator(
            artifact, f"{layer.name}.A", layer.input_width, form.of_layer(layer.outputs)
        )
        if has_S:
            totals.S[layer.name] = _accumulator(artifact, f"{layer.name}.S", layer.output_width, form)
    return totals


def form_of(artifact: Artifact) -> CurvatureForm:
    """Return the form of the curvature that an artifact holds statistics of."""
    figures = artifact.manifest.summary
    return CurvatureForm(int(figures.get("blocks", 1)), figures.get("rank"), int(figures.get("seed", 0)))


def summarised_form(form: CurvatureForm) -> dict[str, Any]:
    """Return the form of the curvature for the manifest, from which `form_of` reads it."""
    return {"blocks": form.blocks} if form.rank is None else {"rank": form.rank, "seed": form.seed}


def read_factors(artifact: Artifact, layer: str) -> Covariances:
    """Return A and S of one layer, counted over the artifact's tokens."""
    A, S = _accumulators(artifact, layer)
    return Covariances(A.moment(), None if S is None else S.moment())


def fitted_basis(covariances: Artifact, layer: str) -> Basis:
    """Return the eigenvectors of the totals of one layer, in float64.

    Raises:
        ValueError: a factor is not finite.
    """
    form = form_of(covariances)
    if form.rank is None:
        return read_factors(covariances, layer).basis(covariances.manifest.summary["shapes"][layer][0])
    A, S = _accumulators(covariances, layer)
    return CovarianceSketches(A.sketch(), S.sketch()).basis(form)


def _accumulators(artifact: Artifact, layer: str) -> tuple[Any, Any]:
    d_out, d_in = artifact.manifest.summary["shapes"][layer]
    form = form_of(artifact)
    if layer in layers_without_S(artifact):
        return _accumulator(artifact, f"{layer}.A", d_in, replace(form, has_S=False)), None
    return _accumulator(artifact, f"{layer}.A", d_in, form), _accumulator(artifact, f"{layer}.S", d_out, form)


def _accumulator(artifact: Artifact, name: str, width: int, form: CurvatureForm) -> Any:
    """Return the sums of a factor: over tokens, or of a layer without S over sequences."""
    vector, count = _read(artifact, name), _figure(artifact, "counted_tokens" if form.has_S else "fitted_sequences")
    if form.rank is None:
        return GramAccumulator.from_packed(vector, width, form.blocks, count)
    return RangeAccumulator.from_packed(vector, form.finder(width), count)


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


def write_basis(draft: Draft, layer: str, basis: Basis, dtype: torch.dtype) -> None:
    """Write the basis of one layer.

    Args:
        draft: the artifact that is being written.
        layer: the layer's name.
        basis: the basis, in float64.
        dtype: the dtype of eigenvectors in which gradients are kept: that in which they will be multiplied. Those of
            low rank stay in float64 (`maths/low_rank.py`).
    """
    if isinstance(basis, LowRankBasis):
        _write(draft, f"{layer}.U_S", basis.U_S)
        _write(draft, f"{layer}.U_A", basis.U_A)
        _write(draft, f"{layer}.traces", torch.tensor([basis.trace_S, basis.trace_A], dtype=torch.float64))
    else:
        if not isinstance(basis.Q_S, Identity):
            _write_blocks(draft, layer, "Q_S", basis.Q_S.to(dtype))
        _write_blocks(draft, layer, "Q_A", basis.Q_A.to(dtype))
    if isinstance(basis, LowRankBasis) or not isinstance(basis.Q_S, Identity):
        _write(draft, f"{layer}.eigenvalues_S", basis.eigenvalues_S)
    _write(draft, f"{layer}.eigenvalues_A", basis.eigenvalues_A)


def read_basis(artifact: Artifact, layer: str) -> Basis:
    """Return the basis of one layer, in the dtypes that are stored."""
    if layer in layers_without_S(artifact):
        Q_A, of_A = block_diagonal(_read_blocks(artifact, layer, "Q_A")), _read(artifact, f"{layer}.eigenvalues_A")
        return Eigenbasis(Identity(artifact.manifest.summary["shapes"][layer][0]), Q_A, of_A[:0], of_A)
    eigenvalues = _read(artifact, f"{layer}.eigenvalues_S"), _read(artifact, f"{layer}.eigenvalues_A")
    if form_of(artifact).rank is not None:
        U_S, U_A = (_read(artifact, f"{layer}.{letter}") for letter in ("U_S", "U_A"))
        return LowRankBasis(U_S, U_A, *eigenvalues, *_read(artifact, f"{layer}.traces").tolist())
    Q_S, Q_A = (block_diagonal(_read_blocks(artifact, layer, letter)) for letter in ("Q_S", "Q_A"))
    return Eigenbasis(Q_S, Q_A, *eigenvalues)


@dataclass(frozen=True)
class LayerFigures:
    """What the corrected eigenvalues of one layer say.

    Args:
        Λ: as they are stored.
        mean: the mean of all d_out·d_in eigenvalues.
        count: the number of sequences that they are the mean of.
    """

    Λ: Tensor
    mean: float
    count: int


def layer_figures(eigenbases: Artifact, corrected: Artifact, layer: str) -> LayerFigures:
    """Return the means of one layer's corrected eigenvalues, whose totals an artifact holds."""
    total = read_correction(corrected, layer)
    if form_of(eigenbases).rank is None:
        Λ = total.mean()
        return LayerFigures(Λ, float(in_float64(Λ).mean()), total.count)
    d_out, d_in = eigenbases.manifest.summary["shapes"][layer]
    basis = read_basis(eigenbases, layer)
    assert isinstance(basis, LowRankBasis)  # noqa: S101  # as its form says
    mean = float(in_float64(total.mean()).sum()) / (d_out * d_in)
    return LayerFigures(mean_eigenvalues(total, basis), mean, total.count)


class StoredCurvature(Mapping[str, LayerEigenvalues | LowRankCurvature]):
    """What sketches need of the curvature of all layers, in the model's order, read when it is used.

    Of the eigenvectors those of low rank alone are read: otherwise gradients are stored in their coordinates.

    Args:
        eigenbases: the generation.
        curvature: its curvature.
        dtype: the dtype to return eigenvalues in that gradients are divided by.
    """

    def __init__(self, eigenbases: Artifact, curvature: Artifact, dtype: torch.dtype) -> None:
        self._eigenbases = eigenbases
        self._curvature = curvature
        self._dtype = dtype

    def __getitem__(self, layer: str) -> LayerEigenvalues | LowRankCurvature:
        Λ, λ = _read_damped(self._curvature, layer)
        if form_of(self._eigenbases).rank is None:
            return LayerEigenvalues(Λ.to(self._dtype), λ)
        basis = read_basis(self._eigenbases, layer)
        assert isinstance(basis, LowRankBasis)  # noqa: S101  # as its form says
        return LowRankCurvature(basis, Λ.double(), λ)

    def __iter__(self) -> Iterator[str]:
        return iter(layers_of(self._curvature))

    def __len__(self) -> int:
        return len(layers_of(self._curvature))


def _read_damped(curvature: Artifact, layer: str) -> tuple[Tensor, float]:
    return _read(curvature, f"{layer}.corrected_eigenvalues"), float(curvature.manifest.summary["damping"][layer])


def read_layer(artifact: Artifact, layer: str, kind: str, device: str, rows: slice) -> Tensor:
    """Return some rows of one array of a layer, such as query gradients."""
    values = np.ascontiguousarray(artifact.rows(f"{layer}.{kind}", rows.start, rows.stop))
    return torch.from_numpy(values).to(device)


def curvature_on(runner: Runner, eigenbases: Artifact, curvature: Artifact) -> dict[str, Curvature]:
    """Return the curvature of the runner's layers on its device, in the dtype that is used for sums.

    That of low rank is in float64 where the device has it (`maths/low_rank.py`).
    """
    layers: dict[str, Curvature] = {}
    for name, basis in bases_on(runner, eigenbases).items():
        Λ, λ = _read_damped(curvature, name)
        if isinstance(basis, LowRankBasis):
            layers[name] = LowRankCurvature(basis, Λ.to(basis.U_S), λ)
        else:
            layers[name] = LayerCurvature(basis, Λ.to(runner.device, accumulation_dtype(runner.dtype)), λ)
    return layers


def bases_on(runner: Runner, eigenbases: Artifact) -> dict[str, Basis]:
    """Return the bases of the runner's layers on its device, in dtypes as in `curvature_on`."""
    bases: dict[str, Basis] = {}
    for layer in runner.modules:
        basis = read_basis(eigenbases, layer.name)
        dtype = accumulation_dtype(runner.dtype)
        if isinstance(basis, LowRankBasis) and device_of_sums(runner.device) == torch.device(runner.device):
            dtype = torch.float64
        bases[layer.name] = basis.to(runner.device, dtype)
    return bases


def bases_of(curvature: Mapping[str, Curvature]) -> dict[str, Basis]:
    """Return the basis of every layer."""
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
