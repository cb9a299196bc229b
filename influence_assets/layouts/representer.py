"""The method `representer_points` as two assets know it, and the file of the head that one writes and one reads."""

from typing import TYPE_CHECKING

from pydantic import Field

from influence_assets.methods.method import MethodOptions, ScoredMethod
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.drafts import Draft

if TYPE_CHECKING:
    from influence_assets.maths.representer_points import Heads

FOLDER, FILE = "head", "head.safetensors"


class Options(MethodOptions):
    """Settings of the method."""

    decay: float = Field(
        0.003,
        gt=0,
        allow_inf_nan=False,
        description="λ, the decay of the refitted last layer: the smaller, the nearer to the model's own, and the "
        "longer the fit.",
    )


METHOD = ScoredMethod(name="representer_points", unit="logits", options=Options)


def write_heads(draft: Draft, heads: "Heads") -> None:
    """Write the refitted head and the model's own; those of a head with a bias have it as their last column."""
    from safetensors.torch import save_file

    refitted, own = (head.cpu().contiguous() for head in heads)
    save_file({"refitted": refitted, "own": own}, draft.folder(FOLDER) / FILE)


def read_heads(refitted_head: Artifact, device: str) -> "Heads":
    """Return the refitted head and the model's own, on a device."""
    from safetensors.torch import load_file

    found = load_file(refitted_head.path(FOLDER) / FILE, device=device)
    return found["refitted"], found["own"]
