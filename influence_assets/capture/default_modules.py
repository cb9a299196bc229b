"""The layers that are attributed unless a study names some: the MLPs, with the embedding where that costs little."""

from functools import lru_cache
from typing import Any, Literal

from transformers import PretrainedConfig

from influence_assets.study import Dtype

MOST = 1.3
"""How many times the work of the MLPs alone attributing the embedding too may take."""

DefaultModules = Literal["mlp", "mlp+embedding"]


def default_modules(
    config: PretrainedConfig, dtype: Dtype, *, tokens: int, trust_remote_code: bool = False
) -> DefaultModules:
    """Return what `curvature.modules: auto` is for models of this configuration.

    Scores of the MLPs and the embedding agree better with retraining (docs/evaluation.md). Their work is counted as
    the plan counts it: three passes over a sequence, and what they measure of it. What a whole study takes once, such
    as eigenvectors, is left out, so that the choice does not depend on the size of the corpus.

    Args:
        config: the model's configuration.
        dtype: the precision of the passes.
        tokens: number of tokens in a sequence.
        trust_remote_code: whether the model's own code may run.
    """
    return _chosen(_Configuration(config), dtype, tokens, trust_remote_code)


class _Configuration:
    """A configuration that is equal to others with the same entries."""

    def __init__(self, config: PretrainedConfig) -> None:
        self.config, self.text = config, type(config).__name__ + config.to_json_string(use_diff=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Configuration) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


@lru_cache(maxsize=32)
def _chosen(configuration: _Configuration, dtype: Dtype, tokens: int, trust_remote_code: bool) -> DefaultModules:  # noqa: FBT001
    def work(modules: DefaultModules) -> int:
        from influence_assets.capture.model_shape import model_shape

        shape: Any = model_shape(
            configuration.config, dtype, modules, tokens=tokens, trust_remote_code=trust_remote_code
        )
        return int(3 * shape.passes() + shape.covariances() + shape.statistics())

    try:
        return "mlp+embedding" if work("mlp+embedding") <= MOST * work("mlp") else "mlp"
    except Exception:  # noqa: BLE001  # a model that cannot be counted without running it, or cannot be attributed so
        return "mlp"
