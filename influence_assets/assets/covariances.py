"""The asset `covariances`: A and S of every layer, as totals over the shards that a generation is fitted on."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from influence_assets.assets.fitted_pass import FittedPass, curvature_form, fitted_settings
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.generations import FittedStatistics
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.errors import InputError
from influence_assets.storage.artifacts import Artifact

if TYPE_CHECKING:
    from influence_assets.capture.runner import Runner
    from influence_assets.models.layers.rule import AttributedLayer


def _compute(work: Work) -> None:
    from influence_assets.capture.fitted_totals import FittedCovariances
    from influence_assets.capture.form import refuse_rank_of_words
    from influence_assets.layouts.factors import read_covariances, summarise_layers, summarised_form, write_covariances

    fitted = FittedPass(work)
    form, layers = curvature_form(work.study), fitted.runner.modules
    refuse_rank_of_words(layers, form)
    _refuse_too_wide(work, layers)

    def begin(runner: "Runner", resumed: Artifact | None) -> FittedCovariances:
        totals = None if resumed is None else read_covariances(resumed, runner.modules, form)
        return FittedCovariances(runner, fitted.sampler, form, totals, write_covariances)

    for totals in fitted.totals(begin, lambda layer: FittedCovariances.bytes_of(layer, fitted.dtype, form)):
        _refuse_nothing(work, fitted.figures())
        totals.save(work.draft)
        del totals  # before the next group is measured
    summarise_layers(work.draft, layers)
    work.draft.summarise(
        **fitted.figures(),
        **summarised_form(form),
        attributed_parameters=sum(layer.parameters for layer in layers),
        total_parameters=int(work.open("language_model").manifest.summary["parameters"]),
    )


def _refuse_nothing(work: Work, figures: Mapping[str, Any]) -> None:
    if not figures["fitted_shards"]:
        problem, remedy = "has no document that is not withdrawn", "Put files with other documents into it."
        raise InputError(work.study.corpus.path, problem, remedy)
    if not figures["counted_tokens"] and figures["fitted_share"] < 1:
        raise InputError("curvature.fit_sequences", "so few that none was drawn", "Give more, or null for all.")
    if not figures["counted_tokens"]:
        problem = "holds no token that can be predicted from one before it"
        raise InputError(work.study.corpus.path, problem, "Put files with text into it.")


def _refuse_too_wide(work: Work, layers: "Sequence[AttributedLayer]") -> None:
    """Raise now, and not after hours, if a factor cannot be decomposed in the memory that there is."""
    import torch

    from influence_assets.capture.layer_groups import refuse_too_wide, room_for_layers

    room = room_for_layers(torch.device("cpu"), work.study.compute.memory_bytes, 0)
    refuse_too_wide(room, layers, curvature_form(work.study))


def _cost(sizes: Any, _partition: Partition) -> Cost:
    passes = len(_groups(sizes)) * sizes.shape.passes()
    return Cost(sizes.all_fitted_sequences * (passes + sizes.shape.covariances()), sizes.factor_totals_bytes)


def _memory(sizes: Any) -> int:
    return int(sizes.pass_memory(max(group.bytes for group in _groups(sizes))))


def _groups(sizes: Any) -> list[Any]:
    from influence_assets.capture.fitted_totals import FittedCovariances

    return list(sizes.fitted_groups(FittedCovariances.bytes_of))


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    fitted, sequences = figures["fitted_sequences"], figures["training_sequences"]
    return {"in_short": f"Measured on {fitted:,} of {sequences:,} sequences, in {len(figures['layers']):,} layers."}


ASSET = AssetDefinition(
    name="covariances",
    group="curvature",
    description=(
        "Totals of a·aᵀ and Ds·Dsᵀ of every attributed layer, or sketches of them (`curvature.rank`), over the shards "
        "that a generation is fitted on, with sampled labels by default. They are added up shard by shard, and are not "
        "kept once the generation's eigenvectors are known. Positions without a loss are not counted."
    ),
    kinds=frozenset({"torch", "zarr"}),
    inputs=("language_model", "token_sequences"),
    code_version="2",
    settings=fitted_settings,
    compute=_compute,
    frozen=FittedStatistics(fitted_on="token_sequences", precedes=True),
    needed_until="eigenbases",
    runs_model=True,
    cost=CostModel(partition=_cost, memory=_memory),
    shown=_shown,
    hidden=frozenset({"layers", "layers_without_S", "shapes", "blocks", "seed", "fitted_shards"}),
)
