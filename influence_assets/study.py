"""The study: one frozen, validated description of everything a run depends on.

A study is a YAML file. Every key is documented by its `Field` description, from which both the file that
`influence init` writes and the reference in docs/study.md are generated.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from influence_assets.errors import InputError
from influence_assets.extensions import add_folders
from influence_assets.overlaps import refuse_overlaps
from influence_assets.study_file import read_mapping

Dtype = Literal["float32", "bfloat16", "float64"]

SpecialTokens = Literal["text", "parse"]
"""What becomes of a special token's name in a text: it stays text, or it becomes the token."""

OnBadRow = Literal["refuse", "skip"]
"""What becomes of rows that cannot be used."""

LossOn = Literal["answers", "all"]
"""Which tokens of conversations, and of prompts with completions, carry a loss."""

Packing = Literal["packed", "one_document"]
"""How documents become sequences: one after the other, or each by itself."""

OWNER = r"^(team:[A-Za-z0-9_-]+|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,})$"

LARGEST_SEED = 2**63 - 1
"""The largest seed; random generators take keys of 64 bits."""

SEEDS_APART = 1_000_003
"""The distance between the seeds of an ensemble's members, which leaves those just above `seed` to other models."""


def _checked_path(path: str) -> str:
    """Return a path or URL after checking that a file system can be asked about it."""
    if "\0" in path:
        raise ValueError("a path cannot contain a NUL character")
    try:
        os.fsencode(path)
        if "://" not in path:
            Path(path).expanduser()
    except UnicodeEncodeError:
        raise ValueError("a path cannot contain half of a surrogate pair") from None
    except RuntimeError:
        raise ValueError(f"the home folder {Path(path).parts[0]} is not known; write the path in full") from None
    return path


_Path = Annotated[str, Field(min_length=1), AfterValidator(_checked_path)]


class _Section(BaseModel):
    """A section of the study. Unknown keys are refused, so that a misspelt key does not silently leave a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=False)


class Corpus(_Section):
    """Where the training documents are and how a row becomes a document."""

    path: _Path = Field(
        description="A folder, or the fsspec URL of one (s3://…, gs://…), with .jsonl, .parquet, .txt and .md files, "
        "plain or .gz/.zst. It is read recursively. Each file is one shard, or several if it is large; a .txt or .md "
        "file is one document.",
    )
    text_column: str = Field(
        "text",
        description="The column of .jsonl and .parquet rows that holds the text, or a list of messages. Rows without "
        "it can have `messages`, or `prompt` and `completion`: see fine-tuning.md.",
    )
    id_column: str | None = Field(
        None,
        description="A column with your own id of each document, stored as external_id. "
        "The document_id is always a hash of the text.",
    )
    special_tokens: SpecialTokens = Field(
        "text",
        description="What becomes of the names of special tokens in documents, such as <|im_start|>: `text` splits "
        "them like any other text, which is right for text from the web; `parse` makes each the token itself, for text "
        "that is written in the model's own format. Tokens that a document then has at its start or end are not added "
        "again.",
    )
    loss_on: LossOn = Field(
        "answers",
        description="Which tokens carried a loss when the model was fine-tuned: `answers` are what the assistant says "
        "in rows with `messages`, with the end of each turn, and the completion in rows with `prompt` and "
        "`completion`; `all` is every token. Rows of text carry it everywhere.",
    )
    on_bad_row: OnBadRow = Field(
        "refuse",
        description="What becomes of a row that cannot be used, such as one that is not JSON or has no text: `refuse` "
        "ends in an error that names every such row of the file; `skip` leaves it out, counts it, and lists it in the "
        "table skipped_rows. What was computed with rows left out is not used under `refuse`.",
    )
    max_document_bytes: int = Field(
        64 * 2**20,
        ge=1,
        description="A document with more UTF-8 bytes than this cannot be used; see `on_bad_row`.",
    )
    shard_bytes: int = Field(
        64 * 2**20,
        ge=1,
        description="A larger file is cut between rows into shards of about this many uncompressed bytes, so that rows "
        "appended to it change only its last shard. Changing this value recomputes all such shards.",
    )
    withdrawn: _Path | None = Field(
        None,
        description="A list of documents that must not be used: a .jsonl file with document_id, reason and "
        "withdrawn_at, or a text file with one document_id per line. The file must exist, if need be empty.",
    )

    @field_validator("withdrawn")
    @classmethod
    def _is_local(cls, withdrawn: str | None) -> str | None:
        if withdrawn is not None and "://" in withdrawn:
            raise ValueError("must be a local file")
        return withdrawn


class Training(_Section):
    """A small GPT-2, trained from scratch on the corpus with its own byte-level BPE tokenizer."""

    layers: int = Field(3, ge=1, description="Transformer blocks.")
    width: int = Field(128, ge=8, description="Width of the residual stream; a multiple of `heads`.")
    heads: int = Field(4, ge=1, description="Attention heads.")
    vocabulary: int = Field(2048, ge=257, description="Size of the byte-level BPE vocabulary.")
    epochs: int = Field(10, ge=1, description="Passes over the corpus.")
    batch_sequences: int = Field(16, ge=1, description="Sequences in one optimiser step.")
    learning_rate: float = Field(
        4e-3, gt=0, allow_inf_nan=False, description="Peak learning rate of the one-cycle schedule (AdamW)."
    )
    seed: int = Field(
        0, ge=0, le=LARGEST_SEED, description="Seed of the initial weights and of the order of sequences."
    )
    members: int = Field(
        1,
        ge=1,
        description="The number of models in the study's ensemble: this one and others that differ from it in their "
        "seed alone. Their scores are averaged in the views `ensemble_scores` and `ensemble_by_document`, with an "
        "interval from their spread. Each takes as long as the first; four are a good number.",
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class Tuning(_Section):
    """What a brought model was fine-tuned from and how, by which evaluation trains it again."""

    base: _Path = Field(
        description="The checkpoint that the model in `path` was fine-tuned from: a folder, or a Hugging Face id. All "
        "weights are trained again from it, on parts of the corpus.",
    )
    revision: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="The branch, tag or commit of a checkpoint on Hugging Face."
    )
    epochs: int = Field(3, ge=1, description="Passes over the corpus.")
    batch_sequences: int = Field(16, ge=1, description="Sequences in one optimiser step.")
    learning_rate: float = Field(
        5e-5, gt=0, allow_inf_nan=False, description="Peak learning rate of the one-cycle schedule (AdamW)."
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of the order of sequences and of dropout.")

    @property
    def recipe(self) -> dict[str, Any]:
        """How it is trained, without what it is trained from, which is known by its content."""
        return self.model_dump(exclude={"base", "revision"})


class LanguageModel(_Section):
    """The causal language model whose completions are explained."""

    path: _Path | None = Field(
        None,
        description="A Hugging Face id, or a folder with config.json, *.safetensors and the tokenizer's files; or "
        "either of a LoRA adapter of PEFT, which names its model. Give either `path` or `train`.",
    )
    revision: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="The branch, tag or commit of a Hugging Face model; null is its main branch. The commit that a run "
        "found is kept, and is used until this key changes.",
    )
    adapter: _Path | None = Field(
        None,
        description="The folder of a LoRA adapter of PEFT for the model in `path`, with adapter_config.json and "
        "adapter_model.safetensors. Needs the extra `lora`. Leave it out if `path` is an adapter itself.",
    )
    adapter_attribution: Literal["adapter", "merged"] = Field(
        "adapter",
        description="What is attributed of a model with an adapter: `adapter`, the adapter's matrices A and B alone, "
        "which are what its training changed; or `merged`, the model's own matrices, into which it is merged.",
    )
    train: Training | None = Field(
        None, description="Train a small GPT-2 on the corpus instead. It is trained once; new shards do not retrain it."
    )
    optimizer: _Path | None = Field(
        None,
        description="A file with the state of the AdamW that trained the model in `path`, at the end of its training: "
        "the optimizer.pt of a checkpoint of transformers' Trainer, or what "
        "`torch.save(optimizer.state_dict(), file)` wrote. Only the method `adam_metric` reads it; docs/methods.md "
        "says which files fit.",
    )
    tuned: Tuning | None = Field(
        None,
        description="What the model in `path` was fine-tuned from and how, if `influence evaluate` is to train it "
        "again. Scores do not depend on it.",
    )
    members: tuple[_Path, ...] = Field(
        (),
        description="Further models in an ensemble with the one in `path`, such as the same model trained with other "
        "seeds, each like `path`: a folder, a Hugging Face id, or an adapter. They have the tokenizer of `path`. See "
        "`train.members`.",
    )
    dtype: Dtype = Field(
        "float32",
        description="Precision of the model's passes: float32, bfloat16 (sums use float32) or float64 (for checks).",
    )
    device_map: Literal["auto"] | None = Field(
        None,
        description="`auto` spreads a model that is too large for one device over all available devices and ignores "
        "`compute.device`; null keeps it on that one device. Needs the package accelerate.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Allow the model's own Python code to run. Leave this off unless you have read that code.",
    )

    @field_validator("optimizer")
    @classmethod
    def _is_local(cls, optimizer: str | None) -> str | None:
        if optimizer is not None and "://" in optimizer:
            raise ValueError("must be a local file")
        return optimizer

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.train is None):
            raise ValueError("give exactly one of `path` and `train`")
        if self.train is not None and self.adapter is not None:
            raise ValueError("`adapter` belongs to the model in `path`; leave it out of a study that trains its own")
        if self.train is not None and self.optimizer is not None:
            raise ValueError("`optimizer` belongs to the model in `path`; leave it out of a study that trains its own")
        if self.train is not None and self.tuned is not None:
            raise ValueError("`tuned` belongs to the model in `path`; leave it out of a study that trains its own")
        if self.train is not None and self.members:
            raise ValueError("`members` belongs to the model in `path`; give the number of members in `train.members`")
        if len({self.path, *self.members}) <= len(self.members):
            raise ValueError("`members` names a model twice, or the one in `path`; a copy adds nothing to an ensemble")
        return self


class Sequences(_Section):
    """How documents become training sequences."""

    length: int = Field(
        128,
        ge=2,
        description="Tokens in a sequence; at most the model's context. Use the length that it was trained with.",
    )
    packing: Packing = Field(
        "packed",
        description="`packed` joins documents and cuts them into sequences of this length, as language models are "
        "trained; with `one_document` each document begins a sequence of its own, and one that is too long goes on in "
        "the next.",
    )
    documents_see_each_other: bool = Field(
        True,  # noqa: FBT003
        description="Whether the model reads the documents before a document in the same packed sequence. Set it to "
        "false if it was trained with attention and positions that start anew at each document.",
    )
    separator: str | None = Field(
        None,
        description="The token that ends each document, as tokenizer.json writes it, such as </s>; '' for none. null "
        "is the tokenizer's own end-of-text token (eos_token), if it has one.",
    )
    prefix: tuple[str, ...] | None = Field(
        None,
        description="The tokens that begin each document and each query, such as [<s>]; [] for none. null is what the "
        "tokenizer's own template puts before a text. A query without a prompt begins with the separator if there is "
        "no prefix.",
    )


class Curvature(_Section):
    """The EK-FAC approximation of the Gauss-Newton Hessian (Grosse et al. 2023)."""

    modules: (
        Literal["auto", "mlp", "linear", "mlp+embedding", "linear+embedding", "embedding"]
        | Annotated[tuple[str, ...], Field(min_length=1)]
    ) = Field(
        "auto",
        description="The layers that are attributed: `mlp` (the paper's choice), `linear` (attention too), either with "
        "`+embedding`, `embedding` alone, or a list of glob patterns for module names, such as ['*.mlp.*', "
        "'*.attn.c_proj']. `embedding` is the matrix in which the model looks its tokens up, and with which it "
        "predicts them: one layer if both are the same, else two. A pattern can name the former, such as "
        "'transformer.wte'. `auto` is `mlp+embedding`, whose scores retraining bears out better, where that takes at "
        "most 1.3 times the work of `mlp`, and else `mlp`, as it is with `rank` and beside an adapter; a study of an "
        "earlier release keeps `mlp` until its model changes or you name the layers.",
    )
    blocks: int = Field(
        1,
        ge=1,
        description="The number of diagonal blocks that A and S of each layer are cut into; their widths differ by at "
        "most one column. For wide layers: it divides the memory and time of the factors by about this number.",
    )
    rank: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="The number of leading eigenvectors of A and of S that are kept of each layer; what lies outside "
        "of them counts with the mean of the eigenvalues that are left. null keeps all. For wide layers: what the "
        "curvature takes then grows with a layer's width and not with its square. Sketches keep no more coordinates "
        "than rank² of each layer. Not together with `blocks`.",
    )
    fisher: Literal["true", "empirical"] = Field(
        "true",
        description="`true` samples labels from the model, as the paper does; `empirical` uses those of the data.",
    )
    fit_sequences: Literal["auto"] | Annotated[int, Field(ge=1)] | None = Field(
        "auto",
        description="About how many of the corpus's sequences a generation is fitted on, drawn by `seed`; null uses "
        "all of them, and `auto` at most 100,000.",
    )
    damping_scale: float = Field(
        0.1,
        gt=0,
        allow_inf_nan=False,
        description="The damping λ of a layer, as a multiple of the mean of its corrected eigenvalues.",
    )
    seed: int = Field(
        0,
        ge=0,
        le=LARGEST_SEED,
        description="Seed of the sampled labels, of the draw of `fit_sequences` and of what `rank` is found with.",
    )
    drift_threshold: float = Field(
        0.2,
        gt=0,
        allow_inf_nan=False,
        description="How far a layer's statistics over all shards may move from the frozen generation before a new one "
        "is due: the share of A's or S's energy that is off the diagonal in the frozen basis, or with `rank` has moved "
        "into or out of it, or the relative change of Λ.",
    )
    new_generation: Literal["propose", "automatic"] = Field(
        "propose",
        description="What happens above `drift_threshold`: `propose` warns, and you decide; `automatic` fits a new "
        "generation and computes all scores again in it.",
    )

    @model_validator(mode="after")
    def _blocks_have_all_eigenvectors(self) -> "Curvature":
        if self.rank is not None and self.blocks > 1:
            raise ValueError("`rank` keeps the leading eigenvectors of whole factors; leave `blocks` at 1, or out")
        if self.rank is not None and isinstance(self.modules, str) and "embedding" in self.modules:
            raise ValueError("`rank` has no form for an embedding; leave out `embedding` in `modules`, or `rank`")
        return self

    @field_validator("fisher", mode="before")
    @classmethod
    def _yaml_reads_true_as_a_boolean(cls, value: object) -> object:
        return "true" if value is True else value


class Queries(_Section):
    """The prompts and completions to explain."""

    path: _Path = Field(
        description="A .jsonl file, or a folder of them; each file is one query set. Each row has `prompt`, "
        "`completion` and optionally `query_id`; any further columns are available in SQL.",
    )
    special_tokens: SpecialTokens = Field(
        "text",
        description="What becomes of the names of special tokens in prompts and completions, as in "
        "`corpus.special_tokens`. With `parse` a completion can end with the token that ends a turn.",
    )
    rank: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="The largest rank that the gradient of a query is kept to in each layer. null truncates only "
        "gradients of more than 20 MB over all layers, to the rank that fits, but to no less than 24. The table "
        "`queries` has the error.",
    )


class Scores(_Section):
    """The influence scores that are stored."""

    details_per_query: int = Field(
        10,
        ge=0,
        description="For this many of each query's highest scores, and as many of its lowest, the split over layers "
        "and tokens is stored too.",
    )
    self_influence: bool = Field(
        default=False,
        description="Whether each sequence's and each document's influence on itself is computed too, in the same "
        "pass: by how much its own log-likelihood would rise if it were added once more. See the view "
        "`self_influence_by_document`. Turning it on later takes one more pass over the corpus.",
    )


class Sketches(_Section):
    """Compressed training gradients, from which new questions are answered without a pass over the corpus."""

    coordinates: int = Field(
        131_072,
        ge=8,
        description="The number of signs stored of each sequence's whitened gradient, one bit each; more signs give "
        "better estimates.",
    )


class Evaluation(_Section):
    """The models that are trained again on parts of the corpus, by which scores are judged. Only on request."""

    subsets: int = Field(
        64,
        ge=4,
        description="How many random subsets of the corpus models are trained on again. More can be added later; those "
        "that are trained stay valid.",
    )
    seeds: int = Field(
        2,
        ge=1,
        description="Models of each subset, which differ in their initial weights and the order of sequences. From two "
        "on, it is known how far retraining agrees with itself, which no score can surpass.",
    )
    share: float = Field(
        0.5, gt=0, lt=1, allow_inf_nan=False, description="The share of the units that is in each subset."
    )
    by: str = Field(
        "sequence",
        min_length=1,
        description="The units that are drawn: `sequence`, `document`, `shard`, or the name of a column of the corpus, "
        "such as source, whose rows with the same value stay together. The loss of what is left out is masked; "
        "sequences are packed as before.",
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of the draw of the subsets.")
    removal_queries: int = Field(
        5,
        ge=1,
        description="For how many queries, drawn by `seed`, models are trained without the sequences that each method "
        "scores highest.",
    )
    removal_share: float = Field(
        0.01, gt=0, lt=1, allow_inf_nan=False, description="The share of all sequences that such a model lacks."
    )
    random_removals: int = Field(
        10, ge=2, description="Models that lack as many sequences at random, with which these are compared."
    )
    keep_weights: bool = Field(
        default=False,
        description="Keep the weights of the models that are trained on subsets, for uses of your own. Otherwise only "
        "the log-probabilities of all queries are kept.",
    )

    def retrainings(self) -> list[str]:
        """Return the partition keys of the retrained models, such as subset-0007.seed-1, subset after subset."""
        return [
            f"subset-{subset:04}.seed-{seed}" for subset in range(self.subsets) for seed in range(1, self.seeds + 1)
        ]


class Storage(_Section):
    """Where everything that is computed is stored."""

    root: _Path = Field(
        "store",
        description="A local folder for the arrays, the tables and the DuckDB file, which holds nothing else; or a URL "
        "with the scheme of a storage backend.",
    )


class Compute(_Section):
    """How the machine is used."""

    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, mps, cuda or cuda:N.")
    batch_sequences: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Sequences in one pass of the model; fewer need less memory. `auto` measures one sequence and uses "
        "as many as fit in a share of the free memory; on a CPU, no more than are useful. Results depend on it only "
        "through rounding.",
    )
    memory_bytes: Annotated[int, Field(ge=2**28)] | None = Field(
        None,
        description="The most memory that a process may take, in bytes; null is what the machine, or its container, "
        "has left. Passes that would hold more are repeated for groups of layers. Results depend on it only through "
        "rounding.",
    )
    executor: str = Field(
        "in_process",
        description="What computes partitions: `in_process`, one after the other in the run's process, or the name of "
        "an executor in an extension.",
    )


class Automation(_Section):
    """What Dagster does automatically while it runs, and who owns the assets."""

    enabled: bool = Field(
        default=True,
        description="Compute what is outstanding automatically when files change, while `dagster dev` runs.",
    )
    interval_seconds: int = Field(30, ge=1, description="The interval at which the files are checked.")
    owners: tuple[Annotated[str, Field(pattern=OWNER)], ...] = Field(
        (), description="The owners of the assets in Dagster's UI: e-mail addresses, or team:NAME."
    )


class Lineage(_Section):
    """Where lineage is reported, besides the tables."""

    openlineage_url: Annotated[str, Field(pattern=r"^https?://")] | None = Field(
        None,
        description="The URL of an OpenLineage collector, such as http://localhost:5000. Needs the extra "
        "`openlineage`.",
    )


class Study(_Section):
    """An attribution study; docs/study.md is the reference of its keys."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,62}$",
        description="Lowercase letters, digits and _. It prefixes the assets and marks the store as this study's.",
    )
    corpus: Corpus
    model: LanguageModel
    queries: Queries
    sequences: Sequences = Sequences()
    curvature: Curvature = Curvature()
    methods: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = Field(
        ("ekfac",),
        description="The attribution methods whose scores are computed, the study's own first, which is `ekfac`: the "
        "scores in nats that all views hold. Scores of the others, such as gradient_dot or a method in `extensions`, "
        "are in the table `method_scores`, for comparison; docs/methods.md says what each of them answers.",
    )
    method_options: dict[str, dict[str, Any]] = Field(
        {},
        description="Settings of single methods, by the method's name, such as {conjugate_gradients: {iterations: 5}}. "
        "docs/methods.md has those of each method.",
    )
    scores: Scores = Scores()
    sketches: Sketches = Sketches()
    evaluation: Evaluation = Evaluation()
    storage: Storage = Storage()
    compute: Compute = Compute()
    automation: Automation = Automation()
    lineage: Lineage = Lineage()
    extensions: tuple[_Path, ...] = Field(
        (),
        description="Folders with your own methods, assets, source formats etc., one in each file, in subfolders named "
        "like those of the package (`methods/nearest.py`). Their code is executed, so name only folders that you "
        "trust. No version depends on this key. Commands are read from `INFLUENCE_EXTENSIONS` instead.",
    )
    _first: "Study | None" = PrivateAttr(None)
    _number: int = PrivateAttr(0)

    @property
    def first(self) -> "Study | None":
        """The study that a member of its ensemble belongs to; None for that study itself."""
        return self._first

    @property
    def number(self) -> int:
        """The number of a member in its ensemble: 0 for the study's own model, then 1, 2, ...."""
        return self._number

    @property
    def members(self) -> "tuple[Study, ...]":
        """The studies of the ensemble's further members: this one with another model, and nothing else to compare."""
        if self.first is not None:
            return ()
        models = _further_models(self.model)
        return tuple(self._with_model(model, number) for number, model in enumerate(models, start=1))

    def _with_model(self, model: LanguageModel, number: int) -> "Study":
        member = self.model_copy(update={"model": model, "methods": self.methods[:1], "method_options": {}})
        member._first, member._number = self, number
        return member

    @model_validator(mode="before")
    @classmethod
    def _baselines_are_methods(cls, described: Any) -> Any:
        """Read `scores.baselines`, by which earlier releases listed all methods but the first."""
        scores = described.get("scores") if isinstance(described, dict) else None
        if not isinstance(scores, dict) or "baselines" not in scores:
            return described
        if described.get("methods") is not None:
            raise ValueError("`scores.baselines` is the older form of `methods`; leave it out")
        others = {name: value for name, value in scores.items() if name != "baselines"}
        baselines = scores["baselines"]
        if not isinstance(baselines, list | tuple | None):
            raise ValueError("`scores.baselines` is the older form of `methods`; list the methods there")
        return {**described, "scores": others, "methods": ["ekfac", *(baselines or ())]}

    @model_validator(mode="before")
    @classmethod
    def _empty_sections_have_defaults(cls, described: Any) -> Any:
        """Replace null by defaults: `scores:` with every key commented out is null in YAML."""
        if not isinstance(described, dict):
            return described
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {key: value for key, value in described.items() if value is not None or key not in optional}

    @classmethod
    def load(cls, path: str | Path, *, needs_extensions: bool = True) -> "Study":
        """Read and validate a study file; relative paths in it are relative to its folder.

        From now on, the parts in its `extensions` are discovered in this process.

        Args:
            path: the file.
            needs_extensions: whether to refuse a study that names an extension folder that does not exist.

        Raises:
            InputError: the file cannot be read, a key or value is not allowed, or the store overlaps with a source.
        """
        try:
            path = Path(os.path.realpath(Path(_checked_path(str(path))).expanduser()))
        except ValueError as error:
            raise InputError(str(path), f"is not a path ({error})", "Name the study file.") from None
        if os.path.exists(path) and not path.is_file():  # noqa: PTH110  # Path's raises for names that are too long
            # Opening a pipe would wait for somebody who writes into it.
            raise InputError(str(path), "cannot be read (it is not a regular file)", "A study is a UTF-8 YAML file.")
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError(str(path), "no such study", "Write one with `influence init DIR`.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(str(path), f"cannot be read ({error})", "A study is a UTF-8 YAML file.") from error
        described = read_mapping(path, text)
        try:
            study = cls.model_validate(described)
        except ValidationError as error:
            raise _readable(path, error) from None
        study = study.resolved(path.parent)
        study.refuse_overlaps()
        folders = map(Path, study.extensions)
        add_folders(folder for folder in folders if needs_extensions or folder.is_dir())
        return study

    def refuse_overlaps(self) -> None:
        """Raise if the store is inside, or contains, what the study reads, so that neither changes the other.

        Raises:
            InputError: the store overlaps with a source; the error names both keys.
        """
        sources = {
            "corpus.path": self.corpus.path,
            "queries.path": self.queries.path,
            "model.path": self.model.path if self.model.path and _exists(self.model.path, Path()) else None,
            "model.adapter": self.model.adapter,
            "model.optimizer": self.model.optimizer,
            "model.tuned.base": None
            if self.model.tuned is None or not _exists(self.model.tuned.base, Path())
            else self.model.tuned.base,
            **{
                f"model.members.{place}": path for place, path in enumerate(self.model.members) if _exists(path, Path())
            },
        }
        extensions = {f"extensions.{number}": folder for number, folder in enumerate(self.extensions)}
        refuse_overlaps(self.storage.root, sources, {"corpus.withdrawn": self.corpus.withdrawn, **extensions})

    def resolved(self, folder: Path) -> "Study":
        """Return the study with its paths made absolute; relative paths are relative to `folder`."""
        model = self.model
        if model.path is not None and _exists(model.path, folder):
            model = model.model_copy(update={"path": _absolute(model.path, folder)})
        if model.adapter is not None:
            model = model.model_copy(update={"adapter": _absolute(model.adapter, folder)})
        if model.optimizer is not None:
            model = model.model_copy(update={"optimizer": _absolute(model.optimizer, folder)})
        if model.tuned is not None and _exists(model.tuned.base, folder):
            tuned = model.tuned.model_copy(update={"base": _absolute(model.tuned.base, folder)})
            model = model.model_copy(update={"tuned": tuned})
        members = (_absolute(path, folder) if _exists(path, folder) else path for path in model.members)
        model = model.model_copy(update={"members": tuple(members)})
        corpus = {"path": _absolute(self.corpus.path, folder)}
        if self.corpus.withdrawn is not None:
            corpus["withdrawn"] = _absolute(self.corpus.withdrawn, folder)
        return self.model_copy(
            update={
                "corpus": self.corpus.model_copy(update=corpus),
                "queries": self.queries.model_copy(update={"path": _absolute(self.queries.path, folder)}),
                "storage": self.storage.model_copy(update={"root": _absolute(self.storage.root, folder)}),
                "model": model,
                "extensions": tuple(_absolute(extension, folder) for extension in self.extensions),
            }
        )


def _further_models(model: LanguageModel) -> list[LanguageModel]:
    """Return the models of an ensemble's further members."""
    if model.train is None:
        alone = {"members": (), "revision": None, "adapter": None, "optimizer": None, "tuned": None}
        return [model.model_copy(update={"path": path, **alone}) for path in model.members]
    train = model.train
    seeds = [(train.seed + SEEDS_APART * number) % (LARGEST_SEED + 1) for number in range(1, train.members)]
    trained = [train.model_copy(update={"seed": seed, "members": 1}) for seed in seeds]
    return [model.model_copy(update={"train": each}) for each in trained]


def _absolute(path: str, folder: Path) -> str:
    return path if "://" in path else os.path.realpath(folder / Path(path).expanduser())


def _exists(path: str, folder: Path) -> bool:
    return os.path.exists(folder / Path(path).expanduser())  # noqa: PTH110  # Path's raises for names that are too long


def _readable(path: Path, error: ValidationError) -> InputError:
    """Return an error that says for each wrong key its path in the file, its value and what is allowed."""
    lines = []
    problems = [(_key(problem["loc"]), problem) for problem in error.errors()]
    for parts, problem in problems:
        if any(deeper[: len(parts)] == parts and len(deeper) > len(parts) for deeper, _ in problems):
            continue  # a wrong item makes the list that holds it wrong too, and empty
        key = ".".join(parts) or "the study"
        if problem["type"] == "extra_forbidden":
            allowed = ", ".join(_keys_at(problem["loc"][:-1]))
            lines.append(f"`{key}` is not a key of a study (allowed here: {allowed})")
        elif problem["type"] == "missing":
            lines.append(f"`{key}` is missing")
        else:
            # YAML has lists, not tuples.
            allowed = problem["msg"].removeprefix("Value error, ").replace("tuple", "list")
            lines.append(f"`{key}` = {problem['input']!r}: {allowed}")
    return InputError(str(path), "; ".join(dict.fromkeys(lines)), "Correct these keys; docs/study.md lists all keys.")


def _key(location: tuple[int | str, ...]) -> tuple[str, ...]:
    """Return the path of a key in the file."""
    return tuple(str(part) for part in location if not _is_union_branch(str(part)))


def _is_union_branch(part: str) -> bool:
    """Return whether a part of an error's path is Pydantic's name for the branch of a union, not a key of the file."""
    return any(mark in part for mark in ("literal[", "tuple[", "constrained-", "[str"))


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    section: Any = Study
    for part in location:
        annotation = section.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        section = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return list(section.model_fields)
