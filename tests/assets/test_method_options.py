"""The options of all methods, the package's own and those that are assets."""

import pytest

from influence_assets.assets import asset_graph, open_workspace
from influence_assets.errors import InputError
from influence_assets.methods.registry import attribution_methods, options_of
from influence_assets.study import Study
from tests import studies

SCORED = {asset.method.name: asset.method for asset in asset_graph() if asset.method is not None}
WITH_OPTIONS = sorted(name for name, method in {**SCORED, **attribution_methods()}.items() if method.options)


def listing(name, options):
    described = {"path": "m"}
    if SCORED.get(name) or name == "unrolled":
        described = {"train": {}}
    return Study.model_validate(
        {
            "name": "tiny", "corpus": {"path": "c"}, "queries": {"path": "q"}, "model": described,
            "methods": ["ekfac", name], "method_options": {name: options},
        }
    )  # fmt: skip


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_whatever_they_are_it_is_known_what_versions_depend_on(name):
    """A document can be withdrawn from a study with a mistake in it."""
    study = listing(name, {"nonsense": 1})
    for asset in asset_graph():
        assert isinstance(dict(asset.settings(study)), dict)
        assert all(isinstance(partition, str) for partition in asset.listed(study))
        assert set(asset.inputs_of(study)) <= set(asset.inputs)
        assert asset.is_due_in(study) in (True, False)


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_unknown_ones_are_named_before_anything_is_computed(name, tmp_path):
    model = {"path": None, "train": {}} if name in SCORED or name == "unrolled" else {}
    study = studies.lay_out(tmp_path, model=model, methods=["ekfac", name], method_options={name: {"nonsense": 1}})
    with pytest.raises(InputError, match=rf"method_options\.{name}\.nonsense: there is no such option"):
        open_workspace(Study.load(study))


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("in_run_shapley", {"learning_rate": 0.1}, "that of `optimizer: sgd`"),
        ("in_run_shapley", {"queries": 0}, "greater than or equal to 1"),
        ("metagradient", {"queries": -1}, "greater than or equal to 1"),
        ("representer_points", {"decay": float("inf")}, "finite number"),
        ("knn_shapley", {"neighbours": 10**30}, "less than or equal to"),
    ],
)
def test_values_that_mean_nothing_are_refused(name, options, problem):
    with pytest.raises(InputError, match=problem):
        options_of(listing(name, options), SCORED[name])
