"""The moments in an optimiser's file, given to the parameters that they are of: against torch's own optimiser."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Trainer

from influence_assets.errors import InputError
from influence_assets.models.optimizer_state import optimizer_state
from tests import cases

MODELS = cases.ARCHITECTURES | {"gemma2": cases.gemma2, "mixtral": cases.mixtral}


def one_group(model):
    return [{"params": list(model.parameters())}]


def trainers_groups(model):
    """As `Trainer.create_optimizer` makes them, by its own rule of what is decayed, with rates of their own."""
    decayed = Trainer.get_decay_parameter_names(None, model)
    named = list(model.named_parameters())
    return [
        {"params": [p for name, p in named if name in decayed], "weight_decay": 0.1},
        {"params": [p for name, p in named if name not in decayed], "weight_decay": 0.0, "lr": 3e-3, "eps": 1e-6},
    ]


def named_backwards(model):
    named = list(model.named_parameters())[::-1]
    return [{"params": named[:3]}, {"params": named[3:5], "lr": 5e-3}, {"params": named[5:]}]


LAYOUTS = {"one group": one_group, "Trainer's": trainers_groups, "by name": named_backwards}


def stepped(model, groups, optimizer=torch.optim.AdamW, steps=3, **constants):
    """An optimiser after a few steps of random gradients, each parameter's of a size of its own."""
    model.requires_grad_(True)
    made = optimizer(groups, lr=2e-3, **constants)
    generator = torch.Generator().manual_seed(5)
    for _ in range(steps):
        for place, parameter in enumerate(model.parameters(), start=1):
            parameter.grad = place * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        made.step()
    return made


def saved(optimizer, folder, **options) -> Path:
    torch.save(optimizer.state_dict(), folder / "optimizer.pt", **options)
    return folder / "optimizer.pt"


class Same(nn.Module):
    """Four parameters of one shape, whose order the shapes do not tell."""

    def __init__(self, *names):
        super().__init__()
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.zeros(3)))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_each_parameter_is_divided_by_what_its_own_steps_were(tmp_path, model, layout):
    """Without decay, the last step of each was −m̂ / divisor, whatever its place in the file."""
    model = model()
    groups = [{**group, "weight_decay": 0.0} for group in layout(model)]
    optimizer = stepped(model, groups, betas=(0.8, 0.95), eps=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    state = optimizer_state(saved(optimizer, tmp_path), model)
    assert state.keys() == before.keys()
    for name, parameter in model.named_parameters():
        m = optimizer.state[parameter]["exp_avg"] / (1 - 0.8**4)
        torch.testing.assert_close(parameter.detach() - before[name], -m / state[name].divisor(), rtol=1e-8, atol=1e-13)


def test_amsgrad_divides_by_the_largest_mean_there_was(tmp_path):
    model = cases.gpt2()
    optimizer = stepped(model, one_group(model), amsgrad=True, betas=(0.5, 0.5), weight_decay=0.0)
    for parameter in model.parameters():
        parameter.grad.zero_()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    state = optimizer_state(saved(optimizer, tmp_path), model)
    for name, parameter in model.named_parameters():
        m = optimizer.state[parameter]["exp_avg"] / (1 - 0.5**4)
        torch.testing.assert_close(parameter.detach() - before[name], -m / state[name].divisor(), rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("order", [one_group, trainers_groups])
def test_where_shapes_do_not_tell_the_order_names_do(tmp_path, order):
    model = Same("scale_1", "bias_1", "scale_2", "bias_2")
    path = saved(stepped(model, [group for group in order(model) if group["params"]]), tmp_path)
    with pytest.raises(InputError, match=r"model\.optimizer: .*fit the model's parameters in two orders.*names"):
        optimizer_state(path, model)
    optimizer = stepped(model, model.named_parameters())
    state = optimizer_state(saved(optimizer, tmp_path), model)
    assert all(torch.equal(state[name].v, optimizer.state[p]["exp_avg_sq"]) for name, p in model.named_parameters())


def test_two_orders_that_are_the_same_are_one(tmp_path):
    model = Same("scale_1", "scale_2", "bias_1", "bias_2")
    for layout in (one_group, trainers_groups):
        optimizer = stepped(model, layout(model))
        state = optimizer_state(saved(optimizer, tmp_path), model)
        assert all(torch.equal(state[name].v, optimizer.state[p]["exp_avg_sq"]) for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([{"lr": 2e-3}, {"lr": 5e-3}], [2e-3, 5e-3]),
        ([{"lr": 0.0, "initial_lr": 4e-3}, {"lr": 0.0, "initial_lr": 6e-3}], [4e-3, 6e-3]),
        ([{"lr": 0.0}, {"lr": 0.0}], [1.0, 1.0]),
        ([{}, {}], [1.0, 1.0]),
    ],
)
def test_the_rate_is_the_last_unless_the_schedule_ended_in_zero(tmp_path, rates, expected):
    model = cases.gpt2()
    described = stepped(model, trainers_groups(model)).state_dict()
    for group, given in zip(described["param_groups"], rates, strict=True):
        del group["lr"]
        group.update(given)
    torch.save(described, tmp_path / "optimizer.pt")
    state = optimizer_state(tmp_path / "optimizer.pt", model)
    assert [state[f"transformer.ln_f.{name}"].rate for name in ("weight", "bias")] == [expected[1]] * 2
    assert state["transformer.wte.weight"].rate == expected[0]


def test_the_older_format_of_torch_is_read_too(tmp_path):
    model = cases.gpt2()
    optimizer = stepped(model, one_group(model))
    state = optimizer_state(saved(optimizer, tmp_path, _use_new_zipfile_serialization=False), model)
    assert all(torch.equal(state[name].v, optimizer.state[p]["exp_avg_sq"]) for name, p in model.named_parameters())


def split_elsewhere(model):
    parameters = list(model.parameters())
    return [{"params": parameters[:1]}, {"params": parameters[1:]}]


def reordered(model):
    return [{"params": list(model.parameters())[::-1]}]


def not_all(model):
    return [{"params": list(model.parameters())[:-1]}]


def renamed(model):
    return [{"params": [(f"module.{name}", p) for name, p in model.named_parameters()]}]


@pytest.mark.parametrize("layout", [split_elsewhere, reordered, not_all, renamed])
def test_groups_that_are_not_known_are_refused(tmp_path, layout):
    model = cases.gpt2()
    with pytest.raises(
        InputError, match=r"model\.optimizer: .* does not fit the model (by name|in either).*Name the state of"
    ):
        optimizer_state(saved(stepped(model, layout(model)), tmp_path), model)


def test_the_state_of_another_model_is_refused(tmp_path):
    path = saved(stepped(other := cases.gpt2(width=16), one_group(other)), tmp_path)
    with pytest.raises(InputError, match="does not fit the model"):
        optimizer_state(path, cases.gpt2())


class Code:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, zipped):
    model = cases.gpt2()
    described = stepped(model, one_group(model)).state_dict()
    path, ran = tmp_path / "optimizer.pt", tmp_path / "ran"
    torch.save(described | {"more": Code(ran)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"model\.optimizer: .*could run code when it is read.*torch\.save"):
        optimizer_state(path, model)
    assert not ran.exists()
    torch.load(path, weights_only=False)
    assert ran.exists(), "the file is harmless, so that the refusal shows nothing"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_damaged_file_is_refused(tmp_path, zipped, kept):
    model = cases.gpt2()
    path = saved(stepped(model, one_group(model)), tmp_path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(InputError, match=r"model\.optimizer: .*optimizer\.pt (is damaged|cannot be read)"):
        optimizer_state(path, model)


def test_what_is_not_the_state_of_adam_is_refused(tmp_path):
    model, path = cases.gpt2(), tmp_path / "optimizer.pt"
    torch.save(model.state_dict(), path)
    with pytest.raises(InputError, match="is not the state of an optimiser"):
        optimizer_state(path, model)
    saved(stepped(model, one_group(model), torch.optim.SGD, momentum=0.9), tmp_path)
    with pytest.raises(InputError, match=r"has no second moment .*of parameter 0"):
        optimizer_state(path, model)
    torch.save({"state": [], "param_groups": [3]}, path)
    with pytest.raises(InputError, match="is not the state of torch's Adam"):
        optimizer_state(path, model)
    described = stepped(model, one_group(model)).state_dict()
    described["state"][4]["exp_avg_sq"][0] = float("nan")
    torch.save(described, path)
    with pytest.raises(InputError, match="the second moment of parameter 4"):
        optimizer_state(path, model)
