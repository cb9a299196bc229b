"""How factor statistics lie in an artifact: one array a layer and letter, and the counts in the manifest."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from influence_assets.capture.measurements import Covariances
from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature
from influence_assets.maths.moments import SecondMoment
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.drafts import Draft

BASIS = ("Q_S", "Q_A", "eigenvalues_S", "eigenvalues_A")


def write_covariances(draft: Draft, layers: Mapping[str, Covariances]) -> None:
    """A and S of each layer as totals; all layers count the same tokens."""
    for name, layer in layers.items():
        _write(draft, f"{name}.A", layer.A.total)
        _write(draft, f"{name}.S", layer.S.total)
    draft.summarise(layers=list(layers), counted_tokens=next(iter(layers.values())).A.count)


def read_covariances(artifact: Artifact, layer: str) -> Covariances:
    """A and S of one layer."""
    count = int(_figure(artifact, "counted_tokens"))
    A, S = (SecondMoment(_read(artifact, f"{layer}.{letter}"), count) for letter in "AS")
    return Covariances(A, S)


def write_corrections(draft: Draft, layers: Mapping[str, SecondMoment]) -> None:
    """Λ of each layer as a total; all layers count the same sequences."""
    for name, moment in layers.items():
        _write(draft, f"{name}.corrected_eigenvalues", moment.total)
    draft.summarise(layers=list(layers), counted_sequences=next(iter(layers.values())).count)


def read_correction(artifact: Artifact, layer: str) -> SecondMoment:
    """Λ of one layer."""
    return SecondMoment(_read(artifact, f"{layer}.corrected_eigenvalues"), int(_figure(artifact, "counted_sequences")))


def write_basis(draft: Draft, layer: str, basis: Eigenbasis) -> None:
    """The eigenbasis of one layer, in float64."""
    for part in BASIS:
        _write(draft, f"{layer}.{part}", getattr(basis, part))


def read_basis(artifact: Artifact, layer: str) -> Eigenbasis:
    """The eigenbasis of one layer."""
    return Eigenbasis(*(_read(artifact, f"{layer}.{part}") for part in BASIS))


def read_curvature(
    eigenbases: Artifact, curvature: Artifact, device: str, dtype: torch.dtype
) -> dict[str, LayerCurvature]:
    """Every layer's (G + λI), in the model's order."""
    damping = dict(curvature.manifest.summary["damping"])
    return {
        layer: LayerCurvature(
            read_basis(eigenbases, layer), _read(curvature, f"{layer}.corrected_eigenvalues"), float(damping[layer])
        ).to(device, dtype)
        for layer in layers_of(curvature)
    }


def write_layers(draft: Draft, kind: str, layers: Mapping[str, Tensor]) -> None:
    """One array a layer, such as query gradients."""
    for name, values in layers.items():
        _write(draft, f"{name}.{kind}", values)


def read_layers(artifact: Artifact, kind: str, device: str) -> dict[str, Tensor]:
    """What `write_layers` wrote."""
    return {layer: _read(artifact, f"{layer}.{kind}").to(device) for layer in layers_of(artifact)}


def layers_of(artifact: Artifact) -> list[str]:
    """The attributed layers, in the model's order."""
    return [str(layer) for layer in artifact.manifest.summary["layers"]]


def _write(draft: Draft, name: str, values: Tensor) -> None:
    draft.array(name, values.detach().cpu().numpy())


def _read(artifact: Artifact, name: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(artifact.array(name)))


def _figure(artifact: Artifact, name: str) -> int:
    return int(artifact.manifest.summary[name])
