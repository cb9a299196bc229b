"""The asset `left_out_models`: the model trained again without a group of its corpus, and on all of it beside that.

A partition is one group, or none, and a seed. What is kept of it is the log-probability of every query's completion.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from influence_assets.assets.grouped_corpus import GroupedCorpus
from influence_assets.assets.leave_one_out_options import BY_KEY, GROUPS_KEY, LEAVE_ONE_OUT, LeaveOneOut, given_options
from influence_assets.assets.method_rows import listed
from influence_assets.assets.retraining import (
    OfTrainedShards,
    questions,
    recipe_of,
    train_part,
    training_cost,
    training_memory,
)
from influence_assets.assets.retraining_at_once import room, train_parts_at_once
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, AtOnce, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.errors import InputError
from influence_assets.layouts.retraining import Units, reads_documents
from influence_assets.methods.registry import options_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study
from influence_assets.training_tokens import TrainingTokens

_PARTITION = re.compile(r"(full|group-(.+)|strongest-(\d+))\.seed-(\d+)")
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,100}")
_NAMES_SHOWN = 10


class _LeftOut(NamedTuple):
    """What a partition lacks: nothing, the group of a name in partition keys, or the strongest of a rank."""

    slug: str | None
    rank: int | None
    seed: int


def _slug(group: str) -> str:
    """Return a group's name as partition keys have it: itself, or a hash of names that keys cannot hold."""
    return group if _PLAIN.fullmatch(group) else "~" + hashlib.sha256(group.encode()).hexdigest()[:16]


def _listed(study: Study) -> list[str]:
    options = given_options(study)
    if options is None:
        return []
    if isinstance(options.groups, int):
        names = [f"strongest-{rank:03}" for rank in range(options.groups)]
    else:
        names = [f"group-{_slug(group)}" for group in dict.fromkeys(options.groups)]
    return [f"{name}.seed-{seed}" for name in ("full", *names) for seed in range(1, options.seeds + 1)]


def _left_out(partition: str) -> _LeftOut:
    match = _PARTITION.fullmatch(partition)
    if match is None:
        raise InputError(partition, "is no model without a group", "Name a partition such as group-wiki.seed-1.")
    return _LeftOut(match[2], None if match[3] is None else int(match[3]), int(match[4]))


def _settings(study: Study) -> Mapping[str, Any]:
    options = given_options(study)
    if options is None:
        return {}
    order = {"same_order": True} if options.same_order else {}
    return {"by": options.by, "dtype": study.model.dtype, **order}


def _uses(study: Study, name: str) -> bool:
    options = given_options(study)
    if name == "documents":
        return options is None or reads_documents(options.by)
    return name != "influence_scores" or (options is not None and isinstance(options.groups, int))


def _reads(partition: str | None, asset: str) -> bool:
    """Return whether a model depends on an asset: only the choice of the strongest groups depends on scores."""
    return asset != "influence_scores" or _left_out(str(partition)).rank is not None


class _Corpus:
    """The corpus of several partitions with the same inputs, and their parts of it."""

    def __init__(self, work: Work) -> None:
        self.options: LeaveOneOut = options_of(work.study, LEAVE_ONE_OUT)
        self.grouped = GroupedCorpus.of(work, self.options.by, BY_KEY)
        names = self.grouped.names
        self._by_slug = {_slug(name): number for number, name in enumerate(names)}

    def group(self, work: Work) -> int | None:
        """Return the number of the group that a partition lacks; None if it lacks none."""
        left = _left_out(str(work.partition.name))
        if left.rank is not None:
            return strongest_groups(work, self.grouped.units)[left.rank]
        return None if left.slug is None else self._by_slug[left.slug]

    def missing(self, work: Work) -> str | None:
        """Return a sentence if the corpus has no such group, or nothing beside it; None if there is a model to train.

        A group may be gone because its last document was withdrawn, which must hold nothing up.
        """
        left, names = _left_out(str(work.partition.name)), self.grouped.names
        if left.rank is None and left.slug is None:
            return None
        if len(names) == 1:
            return f"{BY_KEY} makes one group of the whole corpus, {names[0]!r}, so that none can be left out."
        if left.rank is not None:
            asks = (
                f"{GROUPS_KEY} asks for more groups than the corpus has by {self.options.by}, which are {len(names)}."
            )
            return asks if left.rank >= len(names) else None
        if left.slug in self._by_slug:
            return None
        assert not isinstance(self.options.groups, int)  # noqa: S101  # only lists give names
        named = next(name for name in self.options.groups if _slug(name) == left.slug)
        some = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
        return f"{GROUPS_KEY}: the corpus has no {self.options.by} {named!r}, so it has no row. It has: {some}."

    def part(self, group: int | None) -> TrainingTokens:
        """Return the sequences with the loss of all groups but one."""
        return self.grouped.part(
            np.arange(len(self.grouped.names)) != (-1 if group is None else group),
            keeps_sequences=self.options.same_order,
        )

    def write(self, work: Work, group: int | None, outcomes: pl.DataFrame) -> None:
        """Write what a model says."""
        work.draft.table("left_out_outcomes", outcomes)
        work.draft.summarise(group=None if group is None else self.grouped.names[group])


def _write_nothing(work: Work, note: str) -> None:
    """Write that there is no model, and why."""
    none = pl.DataFrame(schema={"query_id": pl.String, "log_probability_nats": pl.Float64})
    work.draft.table("left_out_outcomes", none)
    seed = _left_out(str(work.partition.name)).seed
    work.draft.summarise(group=None, seed=seed, training_sequences=0, is_missing=True, notes=[note])


def strongest_groups(work: Work, units: Units) -> list[int]:
    """Return the numbers of the groups by Σ_q |Σ scores of the group's passages|, the largest first.

    Args:
        work: a partition that reads `influence_scores`.
        units: the groups.
    """
    artifacts, spans = work.open_all("influence_scores"), units.spans.lazy()
    documents = pl.len().over("sequence_id")
    whole = pl.concat(each.table("influence_scores") for each in artifacts).join(
        spans.filter(documents == 1), on="sequence_id"
    )
    parts = pl.concat(each.table("part_scores") for each in artifacts).join(
        spans.unique(["sequence_id", "document_id"]), on=["sequence_id", "document_id"]
    )
    scores = pl.concat(each.select("query_id", "unit", "influence_nats") for each in (whole, parts))
    of_groups = scores.group_by("unit", "query_id").agg(pl.col("influence_nats").sum().abs())
    sums = of_groups.group_by("unit").agg(pl.col("influence_nats").sum()).collect()
    ordered = sums.sort("influence_nats", "unit", descending=[True, False])["unit"].to_list()
    return [*map(int, ordered), *sorted(set(range(len(units.names))) - set(ordered))]


def _compute(work: Work) -> None:
    recipe_of(work.study, 0)  # refuses a model that cannot be trained again before anything is read
    corpus = _Corpus(work)
    if note := corpus.missing(work):
        _write_nothing(work, note)
        return
    group = corpus.group(work)
    corpus.write(work, group, train_part(work, corpus.part(group), _left_out(str(work.partition.name)).seed))


def _compute_at_once(works: Sequence[Work]) -> None:
    recipe_of(works[0].study, 0)  # as above
    corpus = _Corpus(works[0])
    for work in works:
        if note := corpus.missing(work):
            _write_nothing(work, note)
    works = [work for work in works if corpus.missing(work) is None]
    if not works:
        return
    groups = [corpus.group(work) for work in works]
    seeds = [_left_out(str(work.partition.name)).seed for work in works]
    outcomes = train_parts_at_once(works, [corpus.part(group) for group in groups], seeds)
    for work, group, of_model in zip(works, groups, outcomes, strict=True):
        corpus.write(work, group, of_model)


def _cost(sizes: Any, _partition: Partition) -> Cost:
    return training_cost(sizes, 1.0)  # a group is a small part


def _memory(sizes: Any) -> int:
    return max(training_memory(sizes), room(sizes.versions).bytes)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    if figures.get("is_missing"):
        return {"in_short": "No model: the corpus has no such group."}
    of_what = "on everything" if figures["group"] is None else f"without {figures['group']}"
    return {
        "in_short": f"Trained {of_what}, {figures['training_sequences']:,} sequences, to a loss of "
        f"{figures['final_loss_nats']:.3g} nats a token."
    }


ASSET = AssetDefinition(
    name="left_out_models",
    group="evaluation",
    description=(
        "Models trained again without one group of the corpus each, such as a source or a document, and on everything, "
        "each partition with one seed. What is kept is the log-probability of every query. For the method "
        "`leave_one_out`."
    ),
    kinds=frozenset({"torch"}),
    partitioned_by="listed",
    listed=_listed,
    inputs=("documents", "language_model", "token_sequences", "influence_scores"),
    reads=("questions",),
    uses=_uses,
    code_version="1",
    settings=_settings,
    source_content=questions,
    compute=_compute,
    at_once=AtOnce(most=lambda versions: room(versions).models, compute=_compute_at_once),
    frozen=OfTrainedShards(_reads),
    on_request=True,
    is_requested=listed(LEAVE_ONE_OUT.name),
    only_by_settings=True,
    holds_text=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=_memory, like="language_model"),
    shown=_shown,
    source_change=lambda _workspace, _partition, _last: "the queries changed",
)
