"""The batch size: as many sequences as fit into a share of the memory, measured with one of them.

One sequence goes forward and backward while the tensors that the pass keeps are counted, which works the same on every
device. The gradients of the largest layer, which every measurement computes first, are added. On a processor the batch
is no larger than speeds up the work.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from influence_assets.capture.available_memory import available_memory
from influence_assets.capture.batches import Sequences
from influence_assets.capture.hooks import Consumer, LayerTap
from influence_assets.capture.layer_vectors import Sized
from influence_assets.capture.losses import Head
from influence_assets.capture.passes import Pass
from influence_assets.maths.gradient_terms import GradientTerms
from influence_assets.maths.notation import accumulation_dtype
from influence_assets.maths.row_terms import ROWS_AT_ONCE, TERMS_A_TOKEN, RowTerms
from influence_assets.models.devices import input_device
from influence_assets.models.layers.rule import AttributedLayer

ENOUGH_TOKENS_OF_CPU = 1024
ENOUGH_BYTES_OF_CPU = 2**28
"""On a processor, matrices of this many rows are multiplied at full speed. A batch may have up to twice as many tokens
while it takes no more than these bytes (figures in docs/log.md)."""

MOST_SEQUENCES_OF_CPU = 16
"""Limits batches of short sequences, such as queries: each has its own gradients, whatever its length."""

MOST_SEQUENCES_OF_DEVICE = 64

LARGEST_BUDGET_OF_CPU = 2**30
SHARE_OF_CPU = 1 / 8
"""A share of the available memory that leaves room for two processes and for what they hold beside a batch."""

SHARE_OF_DEVICE = 1 / 2
"""A share of the free memory; the rest is for the accumulators and the products with queries."""

_measured: WeakKeyDictionary[PreTrainedModel, dict[tuple[object, ...], int]] = WeakKeyDictionary()
_fitting: WeakKeyDictionary[PreTrainedModel, dict[tuple[int, int], int]] = WeakKeyDictionary()


def batch_size(
    model: PreTrainedModel,
    head: Head | None,
    modules: Sequence[AttributedLayer],
    tokens: int,
    memory_bytes: int | None = None,
) -> int:
    """Return how many sequences of this length go through the model at once.

    Args:
        model: the frozen model.
        head: the model's head as the passes use it, see `plain_head`.
        modules: the attributed layers.
        tokens: length of the longest sequence.
        memory_bytes: the most that this process may take, on a processor; None: what there is.
    """
    devices = {linear.device for linear in modules} | {input_device(model)}
    needed = sequence_bytes(model, head, modules, tokens)
    # A model that is spread over devices is treated as if each of them held all of it.
    size = min(largest_batch(device, needed, tokens, memory_bytes) for device in devices)
    return size if devices == {torch.device("cpu")} else _fitting_size(model, head, modules, tokens, size)


def largest_batch(device: torch.device, bytes_of_sequence: int, tokens: int, memory_bytes: int | None = None) -> int:
    """Return how many sequences of this many tokens and bytes fit into the budget, up to a useful maximum."""
    most = MOST_SEQUENCES_OF_DEVICE
    if device.type == "cpu":
        enough = max(1, ENOUGH_TOKENS_OF_CPU // max(1, tokens))
        most = min(max(enough, ENOUGH_BYTES_OF_CPU // bytes_of_sequence), 2 * enough, MOST_SEQUENCES_OF_CPU)
    return max(1, min(most, memory_budget(device, memory_bytes) // bytes_of_sequence))


def memory_budget(device: torch.device, memory_bytes: int | None = None) -> int:
    """Return the bytes that a batch may take on a device; on a processor, of a process that may take `memory_bytes`."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(SHARE_OF_DEVICE * (torch.cuda.mem_get_info(device)[0] + unused))
    there_is = available_memory()
    return min(LARGEST_BUDGET_OF_CPU, int(SHARE_OF_CPU * min(there_is, memory_bytes or there_is)))


def sequence_bytes(model: PreTrainedModel, head: Head | None, modules: Sequence[AttributedLayer], tokens: int) -> int:
    """Return the most bytes that one sequence takes during a pass, measured once for each model and length."""
    measured = _measured.setdefault(model, {})
    key = (tokens, *(linear.name for linear in modules))
    if key not in measured:
        dtype = accumulation_dtype(model.dtype)
        layers = (layer_bytes(layer, tokens, dtype) for layer in modules)
        measured[key] = kept_bytes(model, modules, tokens, has_plain_head=head is not None) + max(layers)
    return measured[key]


def layer_bytes(layer: Sized, tokens: int, dtype: torch.dtype) -> int:
    """Return the bytes of a layer's input, output gradient and gradient for one sequence, and of all three rotated.

    Of a row for each word, gradients are made some at a time; that of the logits counts with what a pass keeps.
    """
    d_out, d_in = layer.output_width, layer.input_width
    if layer.outputs != "factor":
        return (2 * TERMS_A_TOKEN * tokens * d_in + 2 * min(ROWS_AT_ONCE, d_out * d_in)) * dtype.itemsize
    return 2 * (tokens * (d_in + d_out) + d_out * d_in) * dtype.itemsize


def kept_bytes(model: PreTrainedModel, modules: Sequence[AttributedLayer], tokens: int, *, has_plain_head: bool) -> int:
    """Return the bytes that a pass over one sequence keeps between forward and backward.

    Args:
        model: the frozen model.
        modules: the attributed layers.
        tokens: length of the sequence.
        has_plain_head: whether the logits are never in memory all at once, see `plain_head`.
    """
    saved = _Storages(model)
    ids = torch.zeros((1, tokens), dtype=torch.long, device=input_device(model))
    with LayerTap(modules) as tap, saved_tensors_hooks(saved.pack, saved.unpack):
        tap.start(ids)
        if has_plain_head:
            output = model.base_model(input_ids=ids, use_cache=False)[0]
        else:
            output = model(input_ids=ids, use_cache=False).logits
        with tap.consuming(lambda *_: None):
            logits = _bring_no_logits(model, tap, output) if has_plain_head else 0
            output.backward(torch.zeros_like(output))
    return saved.bytes + tap.input_bytes + logits


def _bring_no_logits(model: PreTrainedModel, tap: LayerTap, hidden: Tensor) -> int:
    """Bring the logits that the tap needs, without memory for them; return what they take."""
    if not tap.needs_logits:
        return 0
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    words = int(head.weight.shape[0])
    bring_empty_logits(tap, hidden, words)
    return hidden.shape[0] * hidden.shape[1] * (words + hidden.shape[2]) * accumulation_dtype(hidden.dtype).itemsize


def bring_empty_logits(tap: LayerTap, hidden: Tensor, words: int) -> None:
    """Bring logits of no value, for a pass that is only measured; nothing if none are needed."""
    if tap.needs_logits:
        p = hidden.new_zeros(1).expand(*hidden.shape[:2], words)
        tap.bring_logits(RowTerms.spoken(p, hidden.detach()))


def _fitting_size(
    model: PreTrainedModel, head: Head | None, modules: Sequence[AttributedLayer], tokens: int, size: int
) -> int:
    """Return the size, halved until a pass of that many sequences fits into memory; results are remembered."""
    sizes = _fitting.setdefault(model, {})
    if (tokens, size) not in sizes:
        sizes[tokens, size] = size
        while sizes[tokens, size] > 1 and not _fits(model, head, modules, (sizes[tokens, size], tokens)):
            sizes[tokens, size] //= 2
    return sizes[tokens, size]


def _fits(
    model: PreTrainedModel, head: Head | None, modules: Sequence[AttributedLayer], shape: tuple[int, int]
) -> bool:
    def consume(_linear: AttributedLayer, terms: GradientTerms) -> None:
        for rows in terms.row_blocks():
            torch.empty_like(terms.gradients(rows=rows))  # stands for the rotated gradients

    try:
        _pass(model, head, modules, shape, consume)
    except torch.OutOfMemoryError:
        return False
    return True


def _pass(
    model: PreTrainedModel,
    head: Head | None,
    modules: Sequence[AttributedLayer],
    shape: tuple[int, int],
    consume: Consumer,
) -> None:
    """Run sequences that consist of the token 0 forward and backward."""
    count, tokens = shape
    sequences = Sequences(np.zeros(shape, np.int32), np.full(count, tokens, np.int32), np.arange(count))
    for batch in sequences.batches(count, str(input_device(model))):
        with LayerTap(modules) as tap:
            Pass(model, head, tap, batch).backward(consume)


class _Storages:
    """A count of the memory that autograd saves, each block once, without the model's parameters and buffers."""

    def __init__(self, model: PreTrainedModel) -> None:
        tensors_of_model = (*model.parameters(), *model.buffers())
        self._seen = {tensor.untyped_storage()._cdata for tensor in tensors_of_model}
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self.bytes += storage.nbytes()
        return tensor

    @staticmethod
    def unpack(tensor: Tensor) -> Tensor:
        return tensor
