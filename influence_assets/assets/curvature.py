"""The asset `curvature`: a generation's curvature, ready to be inverted."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import polars as pl

from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.generations import FrozenWithGeneration
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown, Table
from influence_assets.errors import InputError
from influence_assets.storage.artifacts import Artifact


def _compute(work: Work) -> None:
    from influence_assets.layouts import factors
    from influence_assets.maths.ekfac import damping
    from influence_assets.models.layers.rule import MODULES_KEY

    frozen, model, corrected = work.open("eigenbases"), work.open("language_model"), work.open("corrected_eigenvalues")
    figures = frozen.manifest.summary
    study, generation = work.study, figures["generation_id"]
    words = factors.layers_without_S(frozen)
    modules: list[dict[str, Any]] = []
    dampings: dict[str, float] = {}
    for layer in factors.layers_of(frozen):
        found = factors.layer_figures(frozen, corrected, layer)
        if found.mean:
            dampings[layer] = damping(found.mean, study.curvature.damping_scale)
        work.draft.array(f"{layer}.corrected_eigenvalues", found.Λ.numpy())
        output_width, input_width = figures["shapes"][layer]
        modules.append(
            {
                "generation_id": generation,
                "module_name": layer,
                "input_width": input_width,
                "output_width": output_width,
                "has_output_factor": layer not in words,
                "parameters": input_width * output_width,
                "mean_eigenvalue": found.mean,
                "damping": dampings.get(layer),
                "covariance_tokens": figures["counted_tokens"],
                "fit_sequences": found.count,
            }
        )
    if not dampings:
        raise InputError(MODULES_KEY, "no attributed layer ever affects the loss", "Name others, or look at the model.")
    # No fitted token went through these experts. Later ones may: then the others' mean damping stands for theirs.
    unreached = sum(dampings.values()) / len(dampings)
    for module in modules:
        module["damping"] = dampings.setdefault(module["module_name"], unreached)
    described, rank = model.manifest.summary, factors.form_of(frozen).rank
    generations = {
        "generation_id": generation,
        "weights_hash": described["weights_hash"],
        "model_path": str(described.get("folder") or "trained by the study"),
        "tokenizer_hash": described["tokenizer_hash"],
        "dtype": study.model.dtype,
        "fisher": study.curvature.fisher,
        "damping_scale": study.curvature.damping_scale,
        "sequence_length_tokens": study.sequences.length,
        "training_sequences": figures["training_sequences"],
        "training_tokens": figures["training_tokens"],
        "attributed_parameters": figures["attributed_parameters"],
        "total_parameters": figures["total_parameters"],
        "created_at": datetime.fromisoformat(str(figures["created_at"])),
    }
    work.draft.table("modules", pl.DataFrame(modules))
    work.draft.table("generations", pl.DataFrame([generations]))
    work.draft.summarise(
        layers=factors.layers_of(frozen),
        **({} if rank is None else {"rank": rank}),
        damping={m["module_name"]: m["damping"] for m in modules},
        generation_id=generation,
        training_sequences=figures["training_sequences"],
        attributed_share=round(figures["attributed_parameters"] / figures["total_parameters"], 4),
    )


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {
        "in_short": f"Generation {figures['generation_id']}: {figures['attributed_share']:.0%} of the model's "
        f"parameters are attributed, in {len(figures['damping']):,} layers.",
        "layers": Table(artifact.table("modules").drop("generation_id").collect()),
    }


def _cost(sizes: Any, _partition: Partition) -> Cost:
    return Cost(0, sizes.eigenvalue_bytes, amount=1)


ASSET = AssetDefinition(
    name="curvature",
    group="curvature",
    description=(
        "The generation's curvature, ready to be inverted: Λ and the damping of each layer, with their spectra."
    ),
    kinds=frozenset({"torch", "zarr"}),
    inputs=("language_model", "eigenbases", "corrected_eigenvalues"),
    code_version="2",
    settings=lambda study: {"damping_scale": study.curvature.damping_scale},
    compute=_compute,
    frozen=FrozenWithGeneration(),
    is_published=True,
    cost=CostModel(partition=_cost),
    shown=_shown,
    hidden=frozenset({"layers", "damping"}),
)
