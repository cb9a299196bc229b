"""The message about a corpus that has drifted from its generation."""

from collections.abc import Mapping

from rich.markup import escape


def drift_proposal(drift: Mapping[str, object]) -> str:
    """Return a message about the largest drift and the two ways to fit another generation."""
    return (
        f"[yellow]The corpus has moved from the generation's curvature[/]: {drift['largest_drift_measure']} of "
        f"{escape(str(drift['largest_drift_layer']))} by {drift['largest_drift']:.2f}, past the threshold of "
        f"{drift['threshold']:g}. Fit another with `influence run --new-generation`, or set curvature.new_generation "
        "to automatic."
    )
