"""The asset `language_model`: the model whose completions are explained, either given or trained."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.generations import FrozenBySettings
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study


def _settings(study: Study) -> Mapping[str, Any]:
    # The length matters to a given model too: the model is refused if its context is shorter.
    train = study.model.train
    length = {"length": study.sequences.length}
    return length if train is None else {"train": train.model_dump(), **length}


def _uses(study: Study, name: str) -> bool:
    """Return whether the model reads an input: a trained model reads documents, a given one its own files."""
    return (name == "model_files") == (study.model.train is None)


def _source_content(workspace: Workspace, _partition: Partition) -> Mapping[str, Any]:
    return {"content": list(workspace.model_file_hashes)} if workspace.study.model.train is None else {}


def _compute(work: Work) -> None:
    """Train the study's own model, or load the given one once to check that it is complete; store its tokenizer."""
    from influence_assets.layouts.model import load_model
    from influence_assets.models.dimensions import context_length, embedding_rows
    from influence_assets.models.tokenizers import export_tokenizer
    from influence_assets.models.weights import tokenizer_hash, weights_hash

    tokenizer = work.draft.folder("tokenizer")
    if work.study.model.train is None:
        folder = work.workspace.model_folder
        weights = work.workspace.model_file_hashes[0]
        origin: dict[str, object] = {"folder": str(folder)}
    else:
        folder, origin = _train(work)
        weights = weights_hash(folder, None)
    model = load_model(work.workspace, folder, weights)
    context = context_length(model.config)
    if work.study.sequences.length > context:
        raise InputError(
            "sequences.length",
            f"{work.study.sequences.length} is more than the model's context of {context} tokens",
            f"Give at most {context}.",
        )
    rows = embedding_rows(model)
    export_tokenizer(folder, tokenizer, embedding_rows=rows)
    work.draft.summarise(
        weights_hash=weights,
        tokenizer_hash=tokenizer_hash(tokenizer / "tokenizer.json"),
        architecture=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        context_tokens=context,
        vocabulary=rows,
        **origin,
    )


def _train(work: Work) -> tuple[Path, dict[str, object]]:
    """Train the study's own model into the draft, continuing where an interrupted run stopped."""
    import numpy as np

    from influence_assets.corpus.packing import pack
    from influence_assets.corpus.tokenization import Tokenization
    from influence_assets.layouts.sequences import stored_documents
    from influence_assets.models.training import TrainingProgress, train_language_model, train_tokenizer

    training = work.study.model.train
    assert training is not None  # noqa: S101  # the caller has checked it
    length = work.study.sequences.length
    shards = work.open_all("documents")
    texts = (text for shard in shards for batch in stored_documents(shard) for text in batch["text"])
    tokenizer = train_tokenizer(texts, training.vocabulary)
    separator = tokenizer.token_to_id("<|endoftext|>")
    tokenization = Tokenization.of(tokenizer, separator, tokenizer.get_vocab_size())
    packed = [
        part
        for shard in shards
        for part in pack(stored_documents(shard), tokenization, length, str(shard.manifest.key.partition))
    ]
    tokens, lengths = (np.concatenate([getattr(p, name) for p in packed]) for name in ("tokens", "lengths"))
    checkpoint = work.workspace.store.root / ".training" / work.key.data_version

    def progress(state: TrainingProgress) -> None:
        work.progress(state.step, state.steps)

    trained = train_language_model(
        tokens, lengths, training, tokenizer=tokenizer, workspace=checkpoint, progress=progress
    )
    folder = work.draft.folder("model")
    shutil.copytree(trained.folder, folder, dirs_exist_ok=True)
    shutil.rmtree(checkpoint)
    origin: dict[str, object] = {
        "final_loss_nats": trained.final_loss,
        "epoch_losses_nats": list(trained.epoch_losses),
        "training_steps": trained.steps,
        "training_tokens": int(lengths.sum()),
        "training_sequences": len(lengths),
        "resumed_from_step": trained.resumed_from_step,
        "config": json.loads((folder / "config.json").read_text(encoding="utf-8")),
    }
    return folder, origin


def _cost(sizes: Any, _partition: Partition) -> Cost:
    training, shape = sizes.study.model.train, sizes.shape
    if training is None:
        return Cost(bytes=None, amount=1)
    return Cost(training.epochs * sizes.all_sequences() * shape.training_step(), 4 * shape.parameters)


def _memory(sizes: Any) -> int:
    # A gradient and two moments of Adam for each weight.
    copies = 3 if sizes.study.model.train is not None else 0
    return int(sizes.pass_memory(copies * sizes.weight_bytes))


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    trained = figures.get("final_loss_nats")
    training = "" if trained is None else f", trained to a loss of {trained:.3g} nats a token"
    return {"in_short": f"{figures['architecture']} of {figures['parameters']:,} parameters{training}."}


ASSET = AssetDefinition(
    name="language_model",
    group="model",
    description=(
        "The model's weights and tokenizer, identified by their content. A model that the study names stays where it "
        "is and is loaded once to check that it is complete. A model that the study trains is trained on all current "
        "documents and stored here; later shards do not change it."
    ),
    kinds=frozenset({"torch", "huggingface"}),
    inputs=("documents",),
    reads=("model_files",),
    uses=_uses,
    code_version="1",
    settings=_settings,
    source_content=_source_content,
    compute=_compute,
    frozen=FrozenBySettings(),
    identity=("model", lambda manifest: [manifest.summary["weights_hash"], manifest.summary["tokenizer_hash"]]),
    runs_model=True,
    cost=CostModel(partition=_cost, memory=_memory),
    shown=_shown,
    hidden=frozenset({"config", "epoch_losses_nats"}),
    source_change=lambda _workspace, _partition, _last: "the model's files changed",
)
