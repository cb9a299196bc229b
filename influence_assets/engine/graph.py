"""The graph of assets, in an order in which they can be computed, and the assets with a special part in it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from influence_assets.engine.definition import ALL_PUBLISHED, METHODS, AssetDefinition
from influence_assets.engine.generations import FrozenWithGeneration, NumberedGeneration
from influence_assets.errors import InputError


class AssetGraph:
    """The assets of a study.

    Args:
        assets: their definitions, in any order.
        groups: groups in the order in which people read them; other groups follow by name, and the catalogue is last.

    Raises:
        InputError: an input is not defined, or assets depend on one another in a cycle.
    """

    def __init__(self, assets: Iterable[AssetDefinition], groups: Sequence[str] = ()) -> None:
        definitions = list(assets)
        self._groups = groups
        published = tuple(asset.name for asset in definitions if asset.is_published)
        gathering = {asset.name for asset in definitions if asset.inputs == ALL_PUBLISHED}
        methods = sorted(asset.name for asset in definitions if asset.method is not None)
        resolved = [
            replace(asset, inputs=published if asset.name in gathering else _with_methods(asset.inputs, methods))
            for asset in definitions
        ]
        ordered = list(_ordered({asset.name: asset for asset in resolved}, groups))
        # Versions list inputs in their definition's order; here that must be the graph's, not the order of discovery.
        published = tuple(asset.name for asset in ordered if asset.is_published)
        self.assets = tuple(replace(asset, inputs=published) if asset.name in gathering else asset for asset in ordered)
        self._by_name: Mapping[str, AssetDefinition] = {asset.name: asset for asset in self.assets}

    def __iter__(self) -> Iterator[AssetDefinition]:
        return iter(self.assets)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> AssetDefinition:
        return self._by_name[name]

    def get(self, name: str) -> AssetDefinition | None:
        """Return an asset, or None if the graph has none with this name, such as one of another release."""
        return self._by_name.get(name)

    @cached_property
    def generation(self) -> AssetDefinition | None:
        """The asset that is a numbered generation."""
        return self._single(asset for asset in self if isinstance(asset.frozen, NumberedGeneration))

    @cached_property
    def generation_end(self) -> AssetDefinition | None:
        """The asset that completes a generation."""
        return self._single(asset for asset in self if isinstance(asset.frozen, FrozenWithGeneration))

    @cached_property
    def drift(self) -> AssetDefinition | None:
        """The asset that says whether a new generation is due."""
        return self._single(asset for asset in self if asset.reports_drift)

    @cached_property
    def text_source(self) -> AssetDefinition | None:
        """The asset that copies the documents' text into the store."""
        return self._single(asset for asset in self if asset.document_ids is not None)

    @cached_property
    def catalogue(self) -> AssetDefinition | None:
        """The asset that is the DuckDB file."""
        return self._single(asset for asset in self if asset.is_catalogue)

    @cached_property
    def holding_text(self) -> frozenset[str]:
        """The names of the assets that hold text, tokens or scores of single sequences."""
        return frozenset(asset.name for asset in self if asset.holds_text)

    @cached_property
    def of_members(self) -> "AssetGraph":
        """The part of the graph that each member of an ensemble has."""
        wanted = {asset.name for asset in self if asset.is_of_members}
        for asset in reversed(self.assets):  # after all that read it
            wanted |= set(asset.inputs) if asset.name in wanted else set()
        return AssetGraph((asset for asset in self if asset.name in wanted), self._groups)

    def sharing_a_pass_with(self, asset: AssetDefinition) -> list[AssetDefinition]:
        """Return the assets that can share a pass with this one, itself included, in the graph's order."""
        if asset.measures is None:
            return [asset]
        shared = asset.measures.shared_pass
        return [other for other in self if other.measures is not None and other.measures.shared_pass is shared]

    def _single(self, assets: Iterable[AssetDefinition]) -> AssetDefinition | None:
        several = list(assets)
        if len(several) > 1:
            names = " and ".join(asset.name for asset in several)
            raise InputError(names, "both have a part that only one asset can have", "Leave one of them out.")
        return several[0] if several else None


def _with_methods(inputs: Sequence[str], methods: Sequence[str]) -> tuple[str, ...]:
    """Return the inputs with the assets that are methods in the place of `METHODS`."""
    return tuple(name for each in inputs for name in (methods if each == METHODS else [each]))


def _ordered(assets: Mapping[str, AssetDefinition], groups: Sequence[str]) -> Iterator[AssetDefinition]:
    """Yield each asset after those that it reads; if several could come next, the first by group, then by name."""
    waiting = dict(assets)
    for asset in assets.values():
        for name in asset.inputs:
            if name not in assets:
                raise InputError(asset.name, f"reads {name}, but there is no such asset", "Correct its `inputs`.")
    while waiting:
        ready = [asset for asset in waiting.values() if not any(name in waiting for name in asset.inputs)]
        if not ready:
            raise InputError(", ".join(waiting), "depend on one another in a cycle", "Correct their `inputs`.")
        following = min(ready, key=lambda asset: _rank(asset, groups))
        del waiting[following.name]
        yield following


def _rank(asset: AssetDefinition, groups: Sequence[str]) -> tuple[bool, int, str, str]:
    position = groups.index(asset.group) if asset.group in groups else len(groups)
    return asset.is_catalogue, position, asset.group, asset.name
