"""The step of the group `model`: the language model, brought or trained."""

import json
import shutil
from pathlib import Path

import numpy as np

from influence_assets.corpus.packing import pack
from influence_assets.corpus.tokenization import Tokenization
from influence_assets.errors import InputError
from influence_assets.models.dimensions import context_length, embedding_rows
from influence_assets.models.tokenizers import export_tokenizer
from influence_assets.models.training import TrainingProgress, train_language_model, train_tokenizer
from influence_assets.models.weights import tokenizer_hash, weights_hash
from influence_assets.pipeline.corpus import stored_documents
from influence_assets.pipeline.steps import Work
from influence_assets.pipeline.workspace import Workspace
from influence_assets.storage.artifacts import Artifact


def language_model(work: Work) -> None:
    """The model's weights and tokenizer, known by their content.

    A model that the study brings stays where it is and is loaded once, to see that it is whole. One that the study
    trains is trained on all documents there are, and kept; shards that come later do not change it.
    """
    tokenizer = work.draft.folder("tokenizer")
    if work.study.model.train is None:
        folder = work.workspace.model_folder
        weights = work.workspace.model_file_hashes[0]
        origin: dict[str, object] = {"folder": str(folder)}
    else:
        folder, origin = _train(work)
        weights = weights_hash(folder, None)
    model = work.workspace.load_model(folder, weights)
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


def model_folder(workspace: Workspace, language_model: Artifact) -> Path:
    """Where the weights lie: in the artifact if they were trained, else where the study has them now.

    Not where the manifest says that they were when they were first seen: they may have moved since, or changed there.
    """
    return workspace.model_folder if workspace.study.model.train is None else language_model.path("model")


def _train(work: Work) -> tuple[Path, dict[str, object]]:
    """Train the study's own model into the draft; what a dead run had trained is taken up where it stopped."""
    training = work.study.model.train
    assert training is not None  # noqa: S101  # the caller has seen to it
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
        "training_steps": trained.steps,
        "training_tokens": int(lengths.sum()),
        "training_sequences": len(lengths),
        "resumed_from_step": trained.resumed_from_step,
        "config": json.loads((folder / "config.json").read_text(encoding="utf-8")),
    }
    return folder, origin
