"""Factors and bases written to a store and read from it, also of layers that have no factor S."""

import numpy as np
import pytest
import torch

from influence_assets.capture.covariance import CovarianceTotals
from influence_assets.capture.one_pass import measure
from influence_assets.capture.runner import Runner
from influence_assets.layouts import factors
from influence_assets.maths.block_diagonal import blocks_of
from influence_assets.maths.curvature_form import CurvatureForm
from influence_assets.models.layers.selection import select_modules
from influence_assets.storage.artifacts import ArtifactStore
from influence_assets.storage.artifacts.manifest import ArtifactKey
from tests import cases

KEYS = {name: ArtifactKey(name, "all", "v1") for name in ("covariances", "eigenbases")}


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_what_is_read_goes_on_from_what_was_written(architecture, blocks, tmp_path):
    """Totals of half of the sequences, stored and taken up again, come to those of all, and so do their bases."""
    model, form = cases.ARCHITECTURES[architecture](), CurvatureForm(blocks)
    layers = select_modules(model, "mlp+embedding")
    runner, sequences = Runner(model, layers, 2), cases.sequences(6)
    halves, everything = [], CovarianceTotals(blocks, torch.float64)
    for rows in ([0, 1, 2], [3, 4, 5]):
        halves.append(CovarianceTotals(blocks, torch.float64))
        measure(runner, sequences.take(np.array(rows)), [halves[-1]], {}, None)
    measure(runner, sequences, [everything], {}, None)
    store = ArtifactStore.open_or_create(tmp_path, "topics")
    with store.write(KEYS["covariances"], inputs=[], code_version="1") as draft:
        factors.write_covariances(draft, layers, halves[0])
        factors.summarise_layers(draft, layers)
        counted = int(sequences.take(np.arange(3)).counted_tokens().sum())
        draft.summarise(counted_tokens=counted, fitted_sequences=3, **factors.summarised_form(form))
    stored = store.open(KEYS["covariances"])
    assert factors.layers_without_S(stored) == {layer.name for layer in layers if layer.outputs != "factor"} != set()
    taken_up = factors.read_covariances(stored, layers, form)
    taken_up.absorb(halves[1], layers)
    with store.write(KEYS["eigenbases"], inputs=[], code_version="1") as draft:
        for layer in layers:
            factors.write_basis(draft, layer.name, taken_up.of(layer).basis(layer.output_width), torch.float64)
        factors.summarise_layers(draft, layers)
    for layer in layers:
        found, expected = taken_up.of(layer), everything.of(layer)
        assert (found.S is None) is (layer.outputs != "factor")
        for a, b in ((found.A, expected.A), (found.S, expected.S)):
            if a is not None:
                assert a.count == b.count
                for one, other in zip(blocks_of(a.total), blocks_of(b.total), strict=True):
                    torch.testing.assert_close(one, other)
        basis = factors.read_basis(store.open(KEYS["eigenbases"]), layer.name)
        assert basis.shape == (layer.output_width, layer.input_width)
        Q_A = torch.block_diag(*blocks_of(basis.Q_A))
        A = torch.block_diag(*blocks_of(expected.A.total)) / expected.A.count
        torch.testing.assert_close(Q_A * basis.eigenvalues_A @ Q_A.T, A)
