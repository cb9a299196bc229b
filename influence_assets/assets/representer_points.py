"""The asset `representer_points`: what the tokens of each passage add to the logits of each query's completion."""

from collections.abc import Mapping
from typing import Any

from influence_assets.assets.method_rows import BYTES_PER_SCORE, FORWARD_PASS, listed, write_scores
from influence_assets.engine.checks import Check, EachOf, Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.layouts.representer import METHOD
from influence_assets.methods.registry import given_settings
from influence_assets.storage.artifacts import Artifact

LARGEST_ERROR = 1e-6
"""The largest difference between a logit and the sum over training tokens, of the largest logit."""


def _compute(work: Work) -> None:
    import torch

    from influence_assets.layouts.hidden_states import paired_shards, query_ids, query_points, training_points
    from influence_assets.layouts.representer import read_heads
    from influence_assets.maths.notation import device_of_sums
    from influence_assets.maths.representer_points import logits, values_of_parts

    head = work.open("refitted_head")
    figures, device = head.manifest.summary, str(device_of_sums(work.workspace.device))
    has_bias, heads = bool(figures["has_bias"]), read_heads(head, device)
    shards = paired_shards(work.open_all("hidden_states"), work.open_all("token_sequences"))
    training, passages = training_points(shards, with_ones=has_bias)
    asked = query_points(work.open("query_states"), device, with_ones=has_bias)
    values = values_of_parts(training, asked, heads, float(figures["decay"]))
    of_queries = logits(asked, heads[0])
    error = (values.sum(1) - of_queries).abs().max() / of_queries.abs().max().clamp(min=torch.finfo().tiny)
    write_scores(
        work, query_ids(work.open("query_states")), passages, values.cpu().numpy(), sequence_passes=_passes(work)
    )
    work.draft.summarise(training_tokens=len(training), completion_tokens=len(asked), relative_error=float(error))


def _passes(work: Work) -> float:
    """Return the passes of single sequences that the method took: for states, for the fit, and for these values.

    All query sets share those of the states and of the fit. A pass over a token takes about six operations for each of
    the model's parameters (Kaplan et al. 2020), and one over the states for the fit six for each of the head's.
    """
    head, model = work.open("refitted_head"), work.open("language_model").manifest.summary
    sequences = sum(shard.manifest.rows["sequences"] for shard in work.open_all("token_sequences"))
    of_head = int(head.manifest.summary["parameters"]) / int(model["parameters"])
    fit = int(head.manifest.summary["products"]) * of_head
    values = of_head * 2 / 3  # two products, no third one back
    return float(sequences * ((FORWARD_PASS + fit) / len(work.workspace.query_sets) + values))


def tokens_reproduce_the_logits(artifact: Artifact, _open: Opener) -> Finding:
    """Compare the sum over all training tokens with the refitted head's logits."""
    error = float(artifact.manifest.summary["relative_error"])
    return Finding(error <= LARGEST_ERROR, {"relative_error": error, "largest": LARGEST_ERROR})


def _cost(sizes: Any, partition: Partition) -> Cost:
    sequences, queries = sizes.all_sequences(), sizes.queries(str(partition.query_set))
    return Cost(2 * sequences * sizes.shape.head, sequences * queries * BYTES_PER_SCORE)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {
        "in_short": f"{figures['queries']:,} questions × {figures['sequences']:,} sequences; the sum over tokens gives "
        f"the refitted logits to {figures['relative_error']:.1e}."
    }


ASSET = AssetDefinition(
    name="representer_points",
    group="attribution",
    description=(
        "What the training tokens of each sequence, and of each document in it, add to the logits of each query's "
        "completion when the model's last layer is refitted with decay, so that it is a sum over training tokens."
    ),
    kinds=frozenset({"torch", "parquet"}),
    partitioned_by="query_set",
    inputs=("refitted_head", "hidden_states", "query_states", "token_sequences", "language_model"),
    code_version="1",
    settings=lambda study: given_settings(study, METHOD),
    compute=_compute,
    on_request=True,
    is_requested=listed(METHOD.name),
    only_by_settings=True,
    method=METHOD,
    holds_text=True,
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost),
    checks=EachOf(
        Check(
            "tokens_reproduce_the_logits",
            "The values of all training tokens sum to the refitted layer's logits of each completion.",
            tokens_reproduce_the_logits,
        )
    ),
    shown=_shown,
)
