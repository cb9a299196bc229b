"""Checks of an asset's artifacts, and their outcomes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.manifest import ArtifactKey

Opener = Callable[[ArtifactKey], Artifact]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        passed: whether the property holds.
        figures: what was measured, for display: numbers, texts or a `shown.Table`.
        blocking: whether a failure is an error; otherwise it is a warning.
    """

    passed: bool
    figures: Mapping[str, Any]
    blocking: bool = True


class Checks(Protocol):
    """The checks of one asset."""

    def descriptions(self) -> Mapping[str, str]:
        """Return the reason for each check, by the check's name."""
        ...

    def findings(self, artifact: Artifact, open_input: Opener) -> Iterator[tuple[str, Finding]]:
        """Run each check on an artifact; `open_input` opens the artifacts that it was computed from."""
        ...


@dataclass(frozen=True)
class Check:
    """A property that every artifact of an asset must have.

    Args:
        name: the property, as a statement.
        description: why it must hold.
        look: runs the check; its second argument opens the artifact's inputs.
        blocking: whether a failure is an error; otherwise it is a warning.
    """

    name: str
    description: str
    look: Callable[[Artifact, Opener], Finding]
    blocking: bool = True


class EachOf:
    """Checks that run one by one.

    Args:
        checks: in the order in which they are reported.
    """

    def __init__(self, *checks: Check) -> None:
        self._checks = checks

    def descriptions(self) -> Mapping[str, str]:
        """Return the reason for each check, by the check's name."""
        return {check.name: check.description for check in self._checks}

    def findings(self, artifact: Artifact, open_input: Opener) -> Iterator[tuple[str, Finding]]:
        """Run one check after the other."""
        for check in self._checks:
            finding = check.look(artifact, open_input)
            yield check.name, Finding(finding.passed, finding.figures, check.blocking)


NO_CHECKS = EachOf()
