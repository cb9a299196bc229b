"""The layout of factor statistics: one array for each layer and letter, and the counts in the manifest.

A factor in diagonal blocks has one array for each block: `layer.block0.A`, `layer.block1.A` etc. instead of `layer.A`.
"""

from collections.abc import Mapping
from itertools import count, takewhile

import numpy as np
import torch
from torch import Tensor

from influence_assets.capture.covariance import Covariances
from influence_assets.capture.runner import Runner
from influence_assets.maths.block_diagonal import BlockDiagonal, block_diagonal, blocks_of
from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature
from influence_assets.maths.moments import FactorMoment, SecondMoment, factor_moment
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.drafts import Draft


def write_covariances(draft: Draft, layers: Mapping[str, Covariances]) -> None:
    """Write A and S of each layer as totals; all layers count the same tokens."""
    for name, layer in layers.items():
        _write_blocks(draft, name, "A", layer.A.total)
        _write_blocks(draft, name, "S", layer.S.total)
    draft.summarise(layers=list(layers), counted_tokens=next(iter(layers.values())).A.count)


def read_covariances(artifact: Artifact, layer: str) -> Covariances:
    """Return A and S of one layer."""
    return Covariances(read_factor(artifact, layer, "A"), read_factor(artifact, layer, "S"))


def read_factor(artifact: Artifact, layer: str, letter: str) -> FactorMoment:
    """Return A or S of one layer."""
    return factor_moment(_read_blocks(artifact, layer, letter), _figure(artifact, "counted_tokens"))


def write_corrections(draft: Draft, layers: Mapping[str, SecondMoment[Tensor]]) -> None:
    """Write Λ of each layer as a total; all layers count the same sequences."""
    for name, moment in layers.items():
        _write(draft, f"{name}.corrected_eigenvalues", moment.total)
    draft.summarise(layers=list(layers), counted_sequences=next(iter(layers.values())).count)


def read_correction(artifact: Artifact, layer: str) -> SecondMoment[Tensor]:
    """Return Λ of one layer."""
    return SecondMoment(_read(artifact, f"{layer}.corrected_eigenvalues"), _figure(artifact, "counted_sequences"))


def write_basis(draft: Draft, layer: str, basis: Eigenbasis) -> None:
    """Write the eigenbasis of one layer, in float64."""
    _write_blocks(draft, layer, "Q_S", basis.Q_S)
    _write_blocks(draft, layer, "Q_A", basis.Q_A)
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


def read_curvature(
    eigenbases: Artifact, curvature: Artifact, device: str, dtype: torch.dtype
) -> dict[str, LayerCurvature]:
    """Return every layer's (G + λI), in the model's order."""
    damping = dict(curvature.manifest.summary["damping"])
    return {
        layer: LayerCurvature(
            read_basis(eigenbases, layer), _read(curvature, f"{layer}.corrected_eigenvalues"), float(damping[layer])
        ).to(device, dtype)
        for layer in layers_of(curvature)
    }


def read_layers(artifact: Artifact, kind: str, device: str, rows: slice) -> dict[str, Tensor]:
    """Return some rows of one array of each layer, such as query gradients."""
    read = {layer: artifact.rows(f"{layer}.{kind}", rows.start, rows.stop) for layer in layers_of(artifact)}
    return {layer: torch.from_numpy(np.ascontiguousarray(values)).to(device) for layer, values in read.items()}


def curvature_on(runner: Runner, eigenbases: Artifact, curvature: Artifact) -> dict[str, LayerCurvature]:
    """Return the generation's curvature on the runner's device, in the dtype that is used for sums."""
    dtype = torch.promote_types(runner.dtype, torch.float32)
    return read_curvature(eigenbases, curvature, runner.device, dtype)


def bases_on(runner: Runner, eigenbases: Artifact) -> dict[str, Eigenbasis]:
    """Return the generation's eigenbases on the runner's device, in the dtype that is used for sums."""
    dtype = torch.promote_types(runner.dtype, torch.float32)
    return {layer: read_basis(eigenbases, layer).to(runner.device, dtype) for layer in layers_of(eigenbases)}


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
