"""A model whose own maps are multiplied otherwise says the same, and is itself again afterwards."""

import pytest
import torch
from torch.testing import assert_close

from influence_assets.models.frozen_products import frozen_products
from tests import cases


def said(model):
    """Logits, and their gradient at the embeddings."""
    inputs = model.get_input_embeddings()(torch.arange(10)[None] % cases.VOCABULARY).detach().requires_grad_()
    logits = model(inputs_embeds=inputs).logits
    (gradient,) = torch.autograd.grad(logits.square().sum(), inputs)
    return logits, gradient


@pytest.mark.parametrize("architecture", cases.ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_outputs_and_gradients_are_the_models_own(architecture, dtype):
    model = cases.ARCHITECTURES[architecture]().to(dtype).requires_grad_(False)
    own = said(model)
    with frozen_products(model):
        found = said(model)
    exact = dtype == torch.float64
    assert_close(found, own, rtol=1e-10 if exact else 1e-3, atol=1e-10 if exact else 1e-3)


def test_afterwards_the_model_is_itself_again():
    model = cases.gpt2().requires_grad_(False)
    with frozen_products(model):
        assert any("forward" in vars(module) for module in model.modules())
        with pytest.raises(RuntimeError):
            model(input_ids=torch.tensor([[0.5]]))
    assert not any("forward" in vars(module) for module in model.modules())


def test_weights_that_are_trained_keep_their_gradient():
    model = cases.gpt2().requires_grad_(True)
    with frozen_products(model):
        assert not any("forward" in vars(module) for module in model.modules())


def test_a_forward_that_somebody_replaced_is_left_alone():
    model = cases.gpt2().requires_grad_(False)
    module = model.transformer.h[0].mlp.c_fc
    module.forward = theirs = module.forward
    with frozen_products(model):
        assert module.forward is theirs
    assert module.forward is theirs
