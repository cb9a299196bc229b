"""Whether a subclass of a kind of module computes what the kind does."""

from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily


def computes_like(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether a module computes exactly what modules of `kind` do with its parameters.

    A subclass may keep its weights in another form, or change inputs or outputs. So a small copy of it is tried: the
    same attributes, with other numbers for weight and bias; its output and its gradients must be those of `kind`.

    Args:
        module: any module.
        kind: a class with a matrix `weight` and a vector `bias`, which may be None.
    """
    if type(module) is kind:
        return True
    if not isinstance(module, kind):
        return False
    if module not in _tried:
        with unset_fake_temporarily(), torch.enable_grad():
            _tried[module] = _small_copy_computes_like(module, kind)
    return _tried[module]


_tried: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _small_copy_computes_like(module: nn.Module, kind: type[nn.Module]) -> bool:
    own = {name: parameter for name, parameter in module.named_parameters() if parameter is not None}
    is_matrix = "weight" in own and own["weight"].ndim == 2 and own["weight"].is_floating_point()
    if not is_matrix or set(own) - {"weight", "bias"} or next(module.buffers(), None) is not None:
        return False
    generator = torch.Generator().manual_seed(0)
    small = {
        name: torch.randn((5, 5) if parameter.ndim > 1 else 5, generator=generator, dtype=torch.float64)
        for name, parameter in own.items()
    }
    x = torch.randn((2, 3, 5), generator=generator, dtype=torch.float64)
    outcomes = []
    for forward in (type(module).forward, kind.forward):
        copied = object.__new__(type(module))
        copied.__dict__ = {**vars(module), "_forward_hooks": {}, "_forward_pre_hooks": {}}
        copied._parameters = {"bias": None, **{name: nn.Parameter(value.clone()) for name, value in small.items()}}
        copied.__dict__.update(dict.fromkeys(("in_features", "out_features", "nf", "nx"), 5))
        inputs = x.clone().requires_grad_()
        try:
            output = forward(copied, inputs)
            variables = [inputs, *(parameter for parameter in copied._parameters.values() if parameter is not None)]
            outcomes.append((output, *torch.autograd.grad(output.square().sum(), variables)))
        except Exception:  # noqa: BLE001  # whatever it needs, it is not what the class needs
            return False
    ours, theirs = outcomes
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-10) for a, b in zip(ours, theirs, strict=True))
