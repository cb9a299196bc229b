"""The self-test of a study's model: where its weights and its first texts come from."""

from collections.abc import Iterator
from pathlib import Path

from influence_assets.capture.available_memory import available_memory
from influence_assets.capture.self_test import Line, Loaded, self_test, shortened
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError
from influence_assets.layouts.attributed import known_modules
from influence_assets.layouts.model import adaptation
from influence_assets.layouts.samples import sample
from influence_assets.maths.notation import device_of_sums
from influence_assets.models.dimensions import context_length, embedding_rows, total_parameters
from influence_assets.models.layers.selection import select_modules
from influence_assets.models.loading import load_model
from influence_assets.models.tokenizers import export_tokenizer
from influence_assets.study import Dtype

SEQUENCES, QUERIES, TOKENS = 16, 4, 128
"""How many of the first sequences and queries are tried, and how many of their tokens."""


def lines_of(workspace: Workspace, scratch: str) -> Iterator[Line]:
    """Yield what is measured of the study's model.

    Args:
        workspace: the study and its files.
        scratch: a folder for a tokenizer.

    Raises:
        InputError: the model or the texts cannot be read, or the model is still to be trained.
    """
    study = workspace.study
    folder = workspace.model_folder if study.model.train is None else _trained(workspace)

    def load(dtype: Dtype) -> Loaded:
        model = load_model(
            folder,
            dtype=dtype,
            device=str(device_of_sums(workspace.device)) if dtype == "float64" else workspace.device,
            trust_remote_code=study.model.trust_remote_code,
            device_map=study.model.device_map,
            adaptation=adaptation(workspace),
        )
        return Loaded(model, select_modules(model, known_modules(Versions(workspace), model.config)))

    model = load(study.model.dtype).model
    needed = 8 * total_parameters(model)
    if workspace.device == "cpu" and needed > available_memory():
        raise InputError(
            "model.path",
            f"in float64, to which it is compared, the model takes {needed / 1e9:,.0f} GB, more than is free",
            "Check the study on a machine with more memory, or a smaller model of the same architecture.",
        )
    tokenizer, context = Path(scratch), context_length(model.config)
    export_tokenizer(
        folder if study.model.train is not None else workspace.model_folders.tokenizer,
        tokenizer,
        embedding_rows=embedding_rows(model),
        trust_remote_code=study.model.trust_remote_code,
    )
    del model
    first = sample(workspace, tokenizer, context, sequences=SEQUENCES, queries=QUERIES)
    yield from self_test(
        load, study.model.dtype, shortened(first.sequences, TOKENS), first.queries, study.curvature.seed
    )


def _trained(workspace: Workspace) -> Path:
    asset, versions = workspace.graph["language_model"], Versions(workspace)
    key = versions.key(asset, Partition())
    if key is None or not versions.stands(asset, Partition()):
        raise InputError(
            "model.train", "the model is not trained yet", "Check it after the first `influence run`, which trains it."
        )
    return workspace.store.open(key).path("model")
