"""The asset `language_model`: the model whose completions are explained, either given or trained."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.generations import FrozenBySettings
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError
from influence_assets.layouts.attributed import ALONE, ATTRIBUTED, choice, modules_of, settled
from influence_assets.layouts.token_settings import packing_settings, token_settings
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.manifest import Manifest
from influence_assets.study import Study

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHAT_TEMPLATE_FILE = "chat_template.jinja"
TEXTS_COMPARED = 64
CHARACTERS_COMPARED = 10_000
"""Of so many first documents, so many characters each, transformers' tokenizer is compared with tokenizer.json."""


def _settings(study: Study) -> Mapping[str, Any]:
    # The length matters to a given model too: the model is refused if its context is shorter.
    train = study.model.train
    length = {"length": study.sequences.length}
    if train is None:
        return length
    return {
        "train": train.model_dump(exclude={"members"}),
        **length,
        **packing_settings(study),
        **token_settings(study, study.corpus),
    }


def _uses(study: Study, name: str) -> bool:
    """Return whether the model reads an input: a trained model reads documents, a given one its own files."""
    return (name == "model_files") == (study.model.train is None)


def _source_content(workspace: Workspace, _partition: Partition) -> Mapping[str, Any]:
    return {"content": list(workspace.model_file_hashes)} if workspace.study.model.train is None else {}


def _compute(work: Work) -> None:
    """Train the study's own model, or load the given one once to check that it is complete; store its tokenizer."""
    from influence_assets.layouts.model import attributed_layers, load_model
    from influence_assets.models.dimensions import context_length, embedding_rows
    from influence_assets.models.tokenizers import export_tokenizer
    from influence_assets.models.weights import commit_of, tokenizer_hash, weights_hash

    tokenizer = work.draft.folder("tokenizer")
    if work.study.model.train is None:
        folder, adapter = work.workspace.model_folder, work.workspace.model_folders.adapter
        weights = work.workspace.model_file_hashes[0]
        commit = commit_of(folder)
        origin: dict[str, object] = {"folder": str(folder), **({} if commit is None else {"revision": commit})}
        if adapter is not None:
            origin |= {"adapter": str(adapter), "adapter_attribution": work.study.model.adapter_attribution}
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
    chosen = _choice(work, model)
    attributed_layers(model, modules_of(work.study, chosen))  # what cannot be is refused before text is tokenized
    rows = embedding_rows(model)
    exported = export_tokenizer(
        work.workspace.model_folders.tokenizer if work.study.model.train is None else folder,
        tokenizer,
        embedding_rows=rows,
        trust_remote_code=work.study.model.trust_remote_code,
        # They decide nothing but which of two tokenizers is stored that are equal as far as is known.
        texts=_first_texts(work.workspace) if work.study.model.train is None else (),
    )
    content: dict[str, Any] = {"weights_hash": weights, "tokenizer_hash": tokenizer_hash(tokenizer / "tokenizer.json")}
    content |= {"tokens_around": exported.corrected} if exported.corrected else {}
    _refuse_as_member(work, content)
    work.draft.summarise(
        **content,
        architecture=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        context_tokens=context,
        vocabulary=rows,
        **chosen,
        **({"notes": list(exported.notes)} if exported.notes else {}),
        **origin,
    )


def _choice(work: Work, model: "PreTrainedModel") -> dict[str, str]:
    """Return the entry of the summary with what `curvature.modules: auto` stands for.

    An artifact that is computed again keeps its entry, and one of an earlier release that it has none, so that what was
    fitted stays. A member of an ensemble has that of the first, because their scores are averaged.
    """
    from influence_assets.layouts.model import attributed_layers

    earlier = work.workspace.store.manifest(work.key)
    if work.study.first is not None:
        earlier = work.open("language_model").manifest
    if earlier is not None:
        return {name: str(value) for name, value in earlier.summary.items() if name == ATTRIBUTED}
    chosen = choice(work.workspace, model.config)
    try:
        attributed_layers(model, chosen[ATTRIBUTED])
    except InputError:
        return {ATTRIBUTED: ALONE}
    return chosen


def _first_texts(workspace: Workspace) -> Iterator[str]:
    """Yield the beginnings of the corpus's first documents; a shard that cannot be read has an error of its own."""
    from influence_assets.corpus.documents import read_documents

    def texts() -> Iterator[str]:
        for shard in workspace.shards.values():
            with suppress(InputError):
                for frame in read_documents(shard, workspace.study.corpus, workspace.withdrawn.of(shard)):
                    yield from frame["text"].str.slice(0, CHARACTERS_COMPARED)

    return islice(texts(), TEXTS_COMPARED)


def _refuse_as_member(work: Work, content: Mapping[str, Any]) -> None:
    """Raise if a model cannot be a member of the study's ensemble.

    Raises:
        InputError: it has another tokenizer than the first member, or the same weights as another.
    """
    if work.study.first is None:
        return
    path = str(work.study.model.path)
    weights, *tokenizer = _content(work.open("language_model").manifest.summary)
    own_weights, *own_tokenizer = _content(content)
    if own_tokenizer != tokenizer:
        problem = "has another tokenizer than the study's own model, so that it would be scored on other sequences"
        raise InputError(path, problem, "Name models with the same tokenizer in `model.members`.")
    if own_weights == weights:
        raise InputError(path, "has the weights of the study's own model, which adds nothing", "Name another model.")


def _identity(manifest: Manifest) -> list[Any]:
    """Return what determines tokens and scores; what surrounds a text only if earlier releases had it otherwise."""
    return _content(manifest.summary)


def _content(summary: Mapping[str, Any]) -> list[Any]:
    return [summary["weights_hash"], summary["tokenizer_hash"], *summary.get("tokens_around", ())]


def _is_current(workspace: Workspace, manifest: Manifest) -> bool:
    """Return whether the stored tokenizer is that of tokenizer.json; those of earlier releases were not compared."""
    if workspace.study.model.train is not None or "tokenizer/origin.json" in manifest.files:
        return True
    file = workspace.model_folders.tokenizer / "tokenizer.json"
    if not file.is_file():
        return True
    from tokenizers import Tokenizer

    from influence_assets.models.tokenizer_comparison import difference
    from influence_assets.tokenizer_template import template_surroundings

    folder = workspace.store.open(manifest.key).path("tokenizer")
    prefix = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))["prefix_ids"]
    try:
        made, own = (Tokenizer.from_file(str(path)) for path in (folder / "tokenizer.json", file))
        return difference(made, own) is None and list(template_surroundings(own)[0]) == prefix
    except Exception:  # noqa: BLE001  # tokenizers raises bare Exceptions; the computation says what is wrong
        return False


def _train(work: Work) -> tuple[Path, dict[str, object]]:
    """Train the study's own model into the draft, continuing where an interrupted run stopped."""
    import numpy as np
    import polars as pl
    from tokenizers import Tokenizer

    from influence_assets.corpus.packing import pack
    from influence_assets.corpus.tokenization import Tokenization
    from influence_assets.layouts.chat import preparation_of
    from influence_assets.layouts.sequences import has_forms, stored_documents
    from influence_assets.layouts.tokens import as_studied
    from influence_assets.models.chat_templates import CHATML, CHATML_TOKENS
    from influence_assets.models.training import train_language_model, train_tokenizer
    from influence_assets.models.training_run import TrainingProgress

    training = work.study.model.train
    assert training is not None  # noqa: S101  # the caller has checked it
    sequences = work.study.sequences
    shards = work.open_all("documents")
    texts = (text for shard in shards for batch in stored_documents(shard) for text in batch["text"])
    has_chats = any(_has_chats(shard) for shard in shards)
    if work.study.first is None:
        tokenizer = train_tokenizer(texts, training.vocabulary, CHATML_TOKENS if has_chats else ())
    else:  # the first member's, because all are scored on the same sequences
        tokenizer = Tokenizer.from_file(str(work.open("language_model").path("model") / "tokenizer.json"))
    separator = tokenizer.token_to_id("<|endoftext|>")
    tokenization = Tokenization.of(tokenizer, separator, tokenizer.get_vocab_size())
    tokenization = as_studied(tokenization, work.study, work.study.corpus.special_tokens)
    prepare = preparation_of(work.workspace, tokenization)
    packed = [
        part
        for shard in shards
        for part in pack(
            stored_documents(shard),
            tokenization,
            sequences.length,
            str(shard.manifest.key.partition),
            packing=sequences.packing,
            documents_see_each_other=sequences.documents_see_each_other,
            prepare=prepare,
        )
    ]
    tokens, lengths = (np.concatenate([getattr(p, name) for p in packed]) for name in ("tokens", "lengths"))
    loss = None
    if prepare.has_mask and any(map(has_forms, shards)):
        loss = np.concatenate([part.loss for part in packed])
    checkpoint = work.workspace.scratch(work.key)

    def progress(state: TrainingProgress) -> None:
        work.progress(state.step, state.steps)

    trained = train_language_model(
        tokens, lengths, training, tokenizer=tokenizer, workspace=checkpoint, progress=progress, loss_mask=loss
    )
    folder = work.draft.folder("model")
    shutil.copytree(trained.folder, folder, dirs_exist_ok=True)
    if has_chats:
        (folder / CHAT_TEMPLATE_FILE).write_text(CHATML, encoding="utf-8")
    shutil.rmtree(checkpoint)
    ids = pl.concat([part.sequence_documents["document_id"] for part in packed]).unique().sort()
    work.draft.table("trained_documents", ids.to_frame())
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


def _has_chats(documents: Artifact) -> bool:
    from influence_assets.corpus.forms import MESSAGES
    from influence_assets.layouts.sequences import FORMS, has_forms

    if not has_forms(documents):
        return False
    return any(MESSAGES in json.loads(form) for form in documents.table(FORMS).collect()["form"])


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
    adapter = f", with an adapter ({figures['adapter_attribution']} attributed)" if "adapter" in figures else ""
    return {"in_short": f"{figures['architecture']} of {figures['parameters']:,} parameters{training}{adapter}."}


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
    identity=("model", _identity),
    settles=lambda study, manifest: settled(study, manifest.summary),
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=_memory),
    shown=_shown,
    is_current=_is_current,
    hidden=frozenset({"config", "epoch_losses_nats", "tokens_around"}),
    damage="its files are damaged, or its tokenizer is not that of the model's tokenizer.json",
    source_change=lambda _workspace, _partition, _last: "the model's files changed",
)
