"""The steps of the group `curvature`: factor statistics a shard, then one frozen, numbered generation."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import polars as pl
import torch
from torch import Tensor

from influence_assets.capture.batches import Sequences
from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import Covariances
from influence_assets.capture.covariance import covariances as measure_covariances
from influence_assets.capture.runner import Runner
from influence_assets.errors import InputError
from influence_assets.maths.ekfac import Eigenbasis, damping, eigenbasis
from influence_assets.maths.moments import SecondMoment, merged
from influence_assets.pipeline import factors, passes
from influence_assets.pipeline.drift import drift_statistics, packed
from influence_assets.pipeline.steps import Work


def covariances(work: Work) -> None:
    """Totals of a·aᵀ and Ds·Dsᵀ of every attributed layer over the shard's tokens, with sampled labels by default.

    They add up over shards; positions without a loss are not counted.
    """
    sequences = passes.shard_sequences(work.open("token_sequences"))
    fit = passes.fit_sequences(sequences, work.study.curvature)
    runner = passes.runner(work.workspace, work.open("language_model"), work.progress, len(fit))
    curvature = work.study.curvature
    found = measure_covariances(runner, fit, passes.labels(curvature), blocks=curvature.blocks)
    record_covariances(work, runner, sequences, len(fit), found)


def record_covariances(
    work: Work, runner: Runner, sequences: Sequences, fitted: int, found: dict[str, Covariances]
) -> None:
    """What was measured of so many of a shard's sequences, into the draft of `covariances`."""
    factors.write_covariances(work.draft, found)
    work.draft.summarise(
        fitted_sequences=fitted,
        training_sequences=len(sequences),
        training_tokens=int(sequences.lengths.sum()),
        attributed_parameters=sum(linear.parameters for linear in runner.modules),
        total_parameters=int(work.open("language_model").manifest.summary["parameters"]),
        shapes={linear.name: [linear.output_width, linear.input_width] for linear in runner.modules},
    )


def eigenbases(work: Work) -> None:
    """A new generation: the eigenvectors of the merged covariances of every layer, decomposed in float64.

    It is frozen. Shards that come later are scored in it, so that scores stay comparable.
    """
    shards = work.open_all("covariances")
    if not shards:
        problem, remedy = "has no document that is not withdrawn", "Put files with other documents into it."
        raise InputError(work.study.corpus.path, problem, remedy)
    layers = factors.layers_of(shards[0])
    for done, layer in enumerate(layers, start=1):
        A, S = (merged(factors.read_factor(shard, layer, letter) for shard in shards) for letter in "AS")
        factors.write_basis(work.draft, layer, eigenbasis(A, S))
        work.progress(done, len(layers))
    figures = [shard.manifest.summary for shard in shards]
    work.draft.summarise(
        layers=layers,
        fitted_shards={str(shard.key.partition): shard.key.data_version for shard in shards},
        counted_tokens=sum(f["counted_tokens"] for f in figures),
        training_sequences=sum(f["training_sequences"] for f in figures),
        training_tokens=sum(f["training_tokens"] for f in figures),
        attributed_parameters=figures[0]["attributed_parameters"],
        total_parameters=figures[0]["total_parameters"],
        shapes=figures[0]["shapes"],
        created_at=datetime.now(UTC).isoformat(),
    )


def corrected_eigenvalues(work: Work) -> None:
    """Totals of the squared, rotated sequence gradients Λ over the shard, in the generation's frozen eigenbasis.

    With them, as one short array, what the drift from that basis is computed from.
    """
    sequences = passes.shard_sequences(work.open("token_sequences"))
    fit = passes.fit_sequences(sequences, work.study.curvature)
    runner = passes.runner(work.workspace, work.open("language_model"), work.progress, len(fit))
    frozen = work.open("eigenbases")
    dtype = torch.promote_types(runner.dtype, torch.float32)
    bases = {layer: factors.read_basis(frozen, layer).to(runner.device, dtype) for layer in factors.layers_of(frozen)}
    found = eigenvalue_corrections(runner, fit, bases, passes.labels(work.study.curvature))
    totals = work.open("covariances")
    record_corrections(work, bases, found, partial(factors.read_covariances, totals))


def record_corrections(
    work: Work,
    bases: Mapping[str, Eigenbasis],
    found: dict[str, SecondMoment[Tensor]],
    covariances_of: Callable[[str], Covariances],
) -> None:
    """What was measured, and the shard's drift, into the draft of `corrected_eigenvalues`."""
    factors.write_corrections(work.draft, found)
    statistics = {layer: drift_statistics(covariances_of(layer), basis, found[layer]) for layer, basis in bases.items()}
    work.draft.array("drift", packed(statistics))


def curvature(work: Work) -> None:
    """The generation's curvature, ready to be inverted: merged Λ and a damping of each layer, with their spectra."""
    frozen, model = work.open("eigenbases"), work.open("language_model")
    shards = work.open_all("corrected_eigenvalues")
    figures = frozen.manifest.summary
    study, generation = work.study, figures["generation_id"]
    modules: list[dict[str, Any]] = []
    for layer in factors.layers_of(frozen):
        total = merged(factors.read_correction(shard, layer) for shard in shards)
        Λ = total.mean()
        λ = damping(Λ, study.curvature.damping_scale)
        work.draft.array(f"{layer}.corrected_eigenvalues", Λ.numpy())
        output_width, input_width = figures["shapes"][layer]
        modules.append(
            {
                "generation_id": generation,
                "module_name": layer,
                "input_width": input_width,
                "output_width": output_width,
                "parameters": input_width * output_width,
                "mean_eigenvalue": float(Λ.mean()),
                "damping": λ,
                "covariance_tokens": figures["counted_tokens"],
                "fit_sequences": total.count,
            }
        )
    described = model.manifest.summary
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
        damping={m["module_name"]: m["damping"] for m in modules},
        generation_id=generation,
        training_sequences=figures["training_sequences"],
        attributed_share=round(figures["attributed_parameters"] / figures["total_parameters"], 4),
    )
