"""The shape of a model and the operations of its own pass, counted by running torch on tensors without memory."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from influence_assets.capture.batch_size import bring_empty_logits, kept_bytes
from influence_assets.capture.form import refuse_rank_of_words
from influence_assets.capture.hooks import LayerTap
from influence_assets.capture.operations import ModelShape
from influence_assets.capture.words_shape import shape_of
from influence_assets.maths.curvature_form import CurvatureForm
from influence_assets.models.adapters import add_matrices
from influence_assets.models.dimensions import total_parameters
from influence_assets.models.layers.rule import AttributedLayer
from influence_assets.models.layers.selection import select_modules
from influence_assets.models.loading import fuse_activations
from influence_assets.study import Dtype


def _attention(q: torch.Size, k: torch.Size, v: torch.Size, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(q, k, v))  # type: ignore[no-untyped-call]


def _attention_backward(grad: torch.Size, q: torch.Size, k: torch.Size, v: torch.Size, *_: object, **__: object) -> int:
    return int(sdpa_backward_flop_count(grad, q, k, v))  # type: ignore[no-untyped-call]


_ATTENTION_OF_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Operators that torch's own counter does not know."""


def model_shape(  # noqa: PLR0913  # keywords
    config: PretrainedConfig,
    dtype: Dtype,
    modules: str | Sequence[str],
    *,
    tokens: int,
    form: CurvatureForm = CurvatureForm(),  # noqa: B008  # it is frozen
    trust_remote_code: bool = False,
    adapter: Path | None = None,
) -> ModelShape:
    """Return the shape and costs of a model of this configuration, built without memory for its weights.

    Args:
        config: the model's configuration.
        dtype: the precision of the passes.
        modules: `curvature.modules`.
        tokens: number of tokens in a sequence.
        form: how much of A and S is kept.
        trust_remote_code: whether the model's own code may run.
        adapter: the folder of an adapter whose matrices are attributed, or None.

    Raises:
        InputError: `modules` cannot be attributed in this model.
    """
    precision: torch.dtype = getattr(torch, dtype)
    build: Any = partial(
        AutoModelForCausalLM.from_config, config, dtype=precision, trust_remote_code=trust_remote_code
    )  # untyped
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        model: PreTrainedModel = build() if adapter is None else _with_adapter(build, adapter, fake)
        model.requires_grad_(requires_grad=False).train(mode=False)
        fuse_activations(model)
        selected = select_modules(model, modules)
        refuse_rank_of_words(selected, form)
        forward, backward = _counted_pass(model, selected, tokens)
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        rows, width = head.weight.shape
        return ModelShape(
            tuple(shape_of(m, form) for m in selected),
            tokens,
            total_parameters(model),
            forward,
            backward,
            2 * (tokens - 1) * rows * width,
            kept_bytes(model, selected, tokens, has_plain_head=not any(m.module is head for m in selected)),
            width,
            precision,
        )


def _with_adapter(build: Callable[[], PreTrainedModel], adapter: Path, fake: FakeTensorMode) -> PreTrainedModel:
    """Return a model with an adapter; PEFT changes layers on the meta device, but no tensors of the given mode."""
    with unset_fake_temporarily(), torch.device("meta"):
        model = build()
        add_matrices(model, adapter)
    made: dict[Tensor, Tensor] = {}
    with fake:
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in list(tensors.items()):
                    if tensor is not None:
                        new = torch.empty(tensor.shape, dtype=tensor.dtype)
                        new = nn.Parameter(new) if isinstance(tensor, nn.Parameter) else new
                        setattr(module, name, made.setdefault(tensor, new))
    return model


def _counted_pass(model: PreTrainedModel, modules: Sequence[AttributedLayer], tokens: int) -> tuple[int, int]:
    """Return the operations of a forward and of a backward pass over one sequence, without the head."""
    ids = torch.zeros((1, tokens), dtype=torch.long, device=model.device)
    with LayerTap([m for m in modules if m.module is not model.get_output_embeddings()]) as tap:  # type: ignore[no-untyped-call]
        tap.start(ids)
        with FlopCounterMode(display=False, custom_mapping=_ATTENTION_OF_CPU) as forward:
            hidden = model.base_model(input_ids=ids, use_cache=False)[0]
        counting = FlopCounterMode(display=False, custom_mapping=_ATTENTION_OF_CPU)
        with counting as backward, tap.consuming(lambda *_: None):
            bring_empty_logits(tap, hidden, model.get_output_embeddings().weight.shape[0])  # type: ignore[no-untyped-call]
            hidden.backward(torch.zeros_like(hidden))
    return forward.get_total_flops(), backward.get_total_flops()
