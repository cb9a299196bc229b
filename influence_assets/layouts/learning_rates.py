"""How long a study's model was trained, in the unit in which methods use it."""

from collections.abc import Mapping
from typing import Any

from influence_assets.models.training_run import one_cycle
from influence_assets.study import Study


def learning_rates(study: Study, language_model: Mapping[str, Any]) -> float | None:
    """Return ηK, the sum of the learning rates divided by the mean number of tokens of a sequence that carry a loss.

    Args:
        study: the study.
        language_model: the summary of its model's manifest. All tokens but the first of each sequence count, as in
            plain text; of conversations, some of them carry no loss.

    Returns:
        None if the study does not train its model, or the manifest does not say for how long.
    """
    training = study.model.train
    if training is None or "training_steps" not in language_model:
        return None
    steps, sequences = int(language_model["training_steps"]), int(language_model["training_sequences"])
    counted = int(language_model["training_tokens"]) - sequences
    total = sum(one_cycle(step, steps, peak=training.learning_rate) for step in range(steps))
    return total * sequences / max(1, counted)
