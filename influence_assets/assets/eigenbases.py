"""The asset `eigenbases`: a numbered generation, whose frozen bases all later measurements use."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from influence_assets.engine.checks import Check, EachOf, Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.generations import NumberedGeneration
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.storage.artifacts import Artifact

TOLERANCE = 1e-4
"""Relative rounding of covariances summed in float32."""

ORTHONORMAL = {"float64": 1e-8, "float32": 1e-4}
"""Rounding of the eigenvectors of wide layers, by the dtype that they are stored in."""

FIGURES = (
    "fitted_shards",
    "fitted_share",
    "fitted_sequences",
    "counted_tokens",
    "training_sequences",
    "training_tokens",
    "attributed_parameters",
    "total_parameters",
    "shapes",
)
"""What is known of a generation from its covariances, which are not kept."""


def _compute(work: Work) -> None:
    import torch

    from influence_assets.layouts import factors
    from influence_assets.maths.notation import accumulation_dtype
    from influence_assets.models.freed_memory import release_unused
    from influence_assets.models.kernels import use_fastest

    release_unused()  # the memory of the totals
    covariances = work.open("covariances")
    figures = covariances.manifest.summary
    layers, form = factors.layers_of(covariances), factors.form_of(covariances)
    use_fastest(work.workspace.kernels_cache, factors.factor_shapes(covariances))
    dtype = accumulation_dtype(getattr(torch, work.study.model.dtype))
    for done, layer in enumerate(layers, start=1):
        factors.write_basis(work.draft, layer, factors.fitted_basis(covariances, layer), dtype)
        work.progress(done, len(layers))
    # A generation whose files were damaged is the same one when it is computed again, as its number is.
    known = work.workspace.store.manifest(work.key)
    created_at = datetime.now(UTC).isoformat() if known is None else known.summary["created_at"]
    work.draft.summarise(
        layers=layers,
        **{name: figures[name] for name in FIGURES},
        **({} if form.rank is None else factors.summarised_form(form)),
        **factors.summarised_without_S(figures.get(factors.WITHOUT_S, [])),
        created_at=created_at,
    )


def factors_are_positive_semi_definite(artifact: Artifact, _open: Opener) -> Finding:
    """Find the most negative eigenvalue, relative to the largest of its factor."""
    worst = 0.0
    for name in artifact.array_names():
        if name.endswith((".eigenvalues_A", ".eigenvalues_S")):
            eigenvalues = artifact.array(name)
            relative = eigenvalues.min() / (eigenvalues.max() or 1.0) if eigenvalues.size else 0.0
            worst = min(worst, float(np.nan_to_num(relative, nan=-np.inf)))
    return Finding(worst > -TOLERANCE, {"most_negative_relative_eigenvalue": worst})


def bases_are_orthonormal(artifact: Artifact, _open: Opener) -> Finding:
    """Find the largest entry of QᵀQ − I over both bases of every layer."""
    worst, is_orthonormal = 0.0, True
    for name in artifact.array_names():
        if name.endswith((".Q_A", ".Q_S", ".U_A", ".U_S")):
            Q = artifact.array(name)
            deviation = float(np.nan_to_num(np.abs(Q.T @ Q - np.eye(Q.shape[1])), nan=np.inf).max(initial=0.0))
            is_orthonormal &= deviation < ORTHONORMAL[Q.dtype.name]
            worst = max(worst, deviation)
    return Finding(is_orthonormal, {"largest_deviation": worst})


def _cost(sizes: Any, _partition: Partition) -> Cost:
    shape = sizes.shape
    values = sum(sum(layer.kept) for layer in shape.layers)
    return Cost(sum(layer.decomposition() for layer in shape.layers), sizes.basis_bytes + 8 * values)


def _memory(sizes: Any) -> int:
    from influence_assets.capture.layer_groups import refuse_too_wide

    refuse_too_wide(sizes.room_for_decomposition, sizes.shape.layers, sizes.form)
    largest = max(layer.form.decomposition_bytes(layer.d_out, layer.d_in) for layer in sizes.shape.layers)
    return int(sizes.process_bytes + sizes.loaded_bytes + largest)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {
        "in_short": f"Generation {figures['generation_id']}: {len(figures['layers']):,} layers, fitted on "
        f"{len(figures['fitted_shards']):,} shards with {figures['counted_tokens']:,} tokens."
    }


ASSET = AssetDefinition(
    name="eigenbases",
    group="curvature",
    description=(
        "A numbered generation: the eigenvectors of the covariances of every layer, all or the leading ones, found in "
        "float64 and then frozen. Shards that come later are scored in it, so that scores stay comparable. Set "
        "`new_generation` in the launchpad to fit another one."
    ),
    kinds=frozenset({"torch", "zarr"}),
    inputs=("covariances",),
    code_version="2",
    settings=lambda study: {"dtype": study.model.dtype},
    compute=_compute,
    frozen=NumberedGeneration(
        model="language_model",
        fitted_on="token_sequences",
        identity_of=("token_sequences", "covariances", "eigenbases", "corrected_eigenvalues"),
    ),
    is_current=lambda _workspace, _manifest: True,  # generations that cannot be opened are not listed at all
    begins_generation=True,
    cost=CostModel(partition=_cost, memory=_memory),
    shown=_shown,
    checks=EachOf(
        Check(
            "factors_are_positive_semi_definite",
            "No merged A or S has a negative eigenvalue, to rounding.",
            factors_are_positive_semi_definite,
        ),
        Check("bases_are_orthonormal", "QᵀQ = I for both bases of every layer, or UᵀU = I.", bases_are_orthonormal),
    ),
    hidden=frozenset({"layers", "layers_without_S", "shapes", "seed", "fitted_shards", "identity"}),
)
