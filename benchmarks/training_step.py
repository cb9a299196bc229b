"""The unit: forward and full backward of a training step over the same sequences, without the optimizer."""

from pathlib import Path

from torch.nn.functional import cross_entropy

from benchmarks import inputs
from benchmarks.cases import Job
from benchmarks.measuring import Clock
from influence_assets.capture.batches import IGNORED, Sequences
from influence_assets.models.freed_memory import keep_freed_memory
from influence_assets.models.loading import load_model
from influence_assets.study import Dtype


class TrainingStep:
    """All parameters' gradients; freed memory is kept, as in ours, which makes the unit the smaller one."""

    def __init__(self, job: Job) -> None:
        keep_freed_memory()
        self.job = job
        self.batch = job.size.batch
        dtype: Dtype = "bfloat16" if job.dtype == "bfloat16" else "float32"
        self.model = load_model(job.inputs / "model", dtype=dtype, device=job.device).requires_grad_(True)  # noqa: FBT003

    def run(self, _clock: Clock, _store: Path, sequences: Sequences, _queries: Sequences | None) -> int:
        """A step for each batch."""
        for batch in sequences.batches(self.job.size.batch, self.job.device):
            logits = self.model(input_ids=batch.tokens).logits.float()
            loss = cross_entropy(logits.flatten(0, 1), batch.labels().flatten(), ignore_index=IGNORED)
            loss.backward()  # type: ignore[no-untyped-call]
            self.model.zero_grad(set_to_none=True)
        return 0

    def warm(self, store: Path) -> None:
        """One batch."""
        few = inputs.read(self.job.inputs, inputs.TRAIN, self.job.size.batch)
        self.run(Clock(self.job.device), store, few, None)
