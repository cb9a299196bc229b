"""Curvature of a limited training as a method: between the gradient product and EK-FAC without damping."""

import pytest
import torch

from influence_assets.errors import InputError
from influence_assets.layouts.learning_rates import learning_rates
from influence_assets.methods.method import MethodContext
from influence_assets.methods.registry import attribution_methods
from influence_assets.methods.unrolled import Unrolled
from influence_assets.models.training_run import one_cycle
from influence_assets.study import Study
from tests import studies
from tests.methods.forms import FORMS, gradients


def prepared(form="whole", **context):
    curvature = FORMS[form]
    made = MethodContext(None, {"layer": curvature.basis}, {"layer": curvature}, **context)
    V = curvature.basis.rotate(gradients())
    P = attribution_methods()["unrolled"].prepare({"layer": V}, made)["layer"]
    return curvature.basis.rotate_back(P.clone())


def test_it_is_the_formula_in_the_eigenbasis():
    curvature, ηK = FORMS["whole"], 1.7
    V = curvature.basis.rotate(gradients())
    expected = curvature.basis.rotate_back(V * (1 - torch.exp(-ηK * curvature.Λ)) / curvature.Λ)
    torch.testing.assert_close(prepared(learning_rates=ηK), expected)


def test_what_the_study_says_comes_before_the_models_training():
    both = prepared(options=Unrolled(learning_rates=0.4), learning_rates=5.0)
    torch.testing.assert_close(both, prepared(learning_rates=0.4), rtol=0, atol=0)
    torch.testing.assert_close(prepared(options=Unrolled(), learning_rates=5.0), prepared(learning_rates=5.0))


def test_long_training_is_ekfac_without_damping_and_short_training_the_gradient_product():
    from dataclasses import replace

    curvature = FORMS["whole"]
    undamped = replace(curvature, λ=0.0)
    long = undamped.basis.rotate_back(undamped.precondition(undamped.basis.rotate(gradients())))
    torch.testing.assert_close(prepared(learning_rates=1e9), long)
    torch.testing.assert_close(prepared(learning_rates=1e-9) / 1e-9, gradients(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("options", [None, Unrolled()])
def test_without_a_training_its_length_must_be_given(options):
    with pytest.raises(InputError, match=r"method_options\.unrolled\.learning_rates: is missing"):
        prepared(options=options)


def test_the_length_of_a_training_is_its_rates_over_the_tokens_of_a_sequence(tmp_path):
    train = {"layers": 1, "width": 16, "heads": 2, "vocabulary": 300, "epochs": 3, "batch_sequences": 2}
    study = Study.load(studies.lay_out(tmp_path, model={"path": None, "train": train}))
    summary = {"training_steps": 9, "training_sequences": 5, "training_tokens": 55}
    expected = sum(one_cycle(step, 9, peak=4e-3) for step in range(9)) / 10
    assert learning_rates(study, summary) == pytest.approx(expected)
    assert learning_rates(Study.load(studies.lay_out(tmp_path / "brought")), {}) is None
