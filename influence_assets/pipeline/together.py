"""What can be computed of a shard by one pass of the model."""

from influence_assets.pipeline.graph import BY_NAME
from influence_assets.pipeline.steps import Partition, Step
from influence_assets.pipeline.versions import Versions
from influence_assets.storage.manifest import ArtifactKey

STEPS_OF_ONE_PASS = ("covariances", "corrected_eigenvalues", "gradient_sketches", "influence_scores")

LARGEST_QUESTIONS_BYTES = 4 * 2**30
"""Query gradients, on disk, that one pass holds at a time; those of further query sets get passes of their own."""


def together(versions: Versions, shard: str, sizes: dict[ArtifactKey, int]) -> list[tuple[Step, Partition]]:
    """The outstanding partitions of a shard that one pass can compute: their other inputs stand.

    Args:
        versions: by which they are asked for.
        shard: the shard.
        sizes: bytes of the query gradients that were looked at already, kept from shard to shard.
    """
    places: list[tuple[Step, Partition]] = []
    keys, room = set(), LARGEST_QUESTIONS_BYTES
    for name in STEPS_OF_ONE_PASS:
        step = BY_NAME[name]
        if name in ("covariances", "corrected_eigenvalues") and versions.workspace.study.curvature.fit_sequences:
            continue  # measured on fewer sequences than are scored
        for partition in _of_shard(versions, step, shard):
            found = None if versions.stands(step, partition) else versions.find(step, partition)
            if found is None or not all(key in keys or versions.holds(key) for key in found[1]):
                continue
            asked = [key for key in found[1] if key.asset == "query_gradients"]
            for key in asked:
                if key not in sizes:
                    sizes[key] = versions.workspace.store.open(key).manifest.bytes
            needed = sum(sizes[key] for key in asked)
            if needed <= room:
                room -= needed
                places.append((step, partition))
                keys.add(found[0])
    return places


def _of_shard(versions: Versions, step: Step, shard: str) -> list[Partition]:
    if step.partitioning == "shard":
        return [Partition(shard=shard)]
    return [Partition(shard, query_set) for query_set in versions.workspace.query_sets]
