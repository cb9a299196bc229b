"""bergson 2.5.1, run by an interpreter of its own: its whole EK-FAC job with 32 queries, on the CPU or a GPU.

    python3.11 -m venv bergson-venv && bergson-venv/bin/pip install torch==2.13.0 bergson==2.5.1

Next to a torch without CUDA, torchvision and torchaudio from PyPI cannot be imported, and take bergson's import with
them: uninstall both, nothing here needs them. bergson allows no batch of more tokens than the model's context; so that
batches are as large as the others', that check is given a larger context.

python -m benchmarks.peer_bergson '<job as JSON>' result.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bergson.config.config import (
    DataConfig,
    HessianConfig,
    HessianPipelineConfig,
    IndexConfig,
    InversionConfig,
    PreprocessConfig,
    QuerySetConfig,
    ScoreConfig,
)
from bergson.data import load_scores
from bergson.hessians import pipeline
from bergson.utils import worker_utils
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from benchmarks.cases import Job
from benchmarks.measuring import Clock, bytes_of

IGNORED = -100


def main(job: Job) -> dict[str, Any]:
    """Lay out the inputs as bergson wants them, warm up, measure."""
    if job.stage != "total":
        raise SystemExit("only the whole job is driven")
    torch.set_num_threads(job.threads)
    size = job.size
    most = size.batch * size.tokens
    worker_utils.max_tokens_for_model = lambda *_arguments: most
    folder = Path(job.folder) / "bergson"
    tokens = np.load(job.inputs / "tokens.npz")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    tokenizer.save_pretrained(folder / "tokenizer")
    lay_out(folder / "few", tokens["train"][: size.batch], 0)
    lay_out(folder / "train", tokens["train"][: size.sequences], 0)
    lay_out(folder / "queries", tokens["queries"][:32], size.query_tokens // 2)
    run(job, folder, "few", "warm")
    clock = Clock(job.device)
    with clock.measured() as found:
        run(job, folder, "train", "run")
    scored = load_scores(folder / "run" / "scores")
    np.save(job.scores, np.asarray(scored[:]).T.astype(np.float64))
    return found | {"bytes_on_disk": bytes_of(folder / "run")}


def lay_out(place: Path, tokens: np.ndarray, first: int) -> None:
    """Tokens with labels; those of a prompt are ignored."""
    labels = tokens.astype(np.int64).copy()
    labels[:, :first] = IGNORED
    Dataset.from_dict({"input_ids": tokens.tolist(), "labels": labels.tolist()}).save_to_disk(str(place))


def run(job: Job, folder: Path, train: str, name: str) -> None:
    """bergson's own pipeline: query gradients, factors, their inverse applied, scores."""
    index = IndexConfig(
        run_path=str(folder / name),
        model=str(job.inputs / "model"),
        tokenizer=str(folder / "tokenizer"),
        data=DataConfig(dataset=str(folder / train)),
        token_batch_size=job.size.batch * job.size.tokens,
        include_bias=True,
        filter_modules="*attn*,*lm_head*",
        overwrite=True,
    )
    hessian = HessianConfig(method="kfac", ev_correction=True, use_dataset_labels=True)
    steps = HessianPipelineConfig(
        query=QuerySetConfig(dataset=str(folder / "queries"), aggregation="none"),
        inversion_cfg=InversionConfig(damping_factor=0.1),
    )
    pipeline.hessian_pipeline(index, hessian, ScoreConfig(), PreprocessConfig(), steps)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(main(Job.from_json(sys.argv[1]))))
