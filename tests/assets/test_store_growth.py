"""What a store keeps of the curvature does not grow with the number of shards, but for a short vector of each."""

import numpy as np
import pytest

from tests import studies

OF_CURVATURE = ("covariances", "eigenbases", "corrected_eigenvalues", "curvature", "drift_statistics")


def numbers_kept(study):
    """How many numbers the artifacts of the curvature hold, but for the vectors of drift; and those of the vectors."""
    store = studies.versions_of(study).workspace.store
    factors, drift = 0, 0
    for asset in OF_CURVATURE:
        for manifest in store.manifests(asset):
            for name, record in manifest.arrays.items():
                size = int(np.prod(record.shape))
                drift += size if name.startswith("drift") else 0
                factors += 0 if name.startswith("drift") else size
    return factors, drift


@pytest.fixture
def study(tmp_path):
    return studies.lay_out(tmp_path)


@pytest.mark.slow
def test_it_is_the_same_for_two_shards_and_for_six(study, tmp_path):
    studies.compute(study)
    factors, drift = numbers_kept(study)
    widths = [(32, 9), (8, 33), (32, 9), (8, 33)]
    eigenvectors = sum(d_out**2 + d_in**2 + d_out + d_in for d_out, d_in in widths)
    assert factors == eigenvectors + 2 * sum(d_out * d_in for d_out, d_in in widths), "Λ as a total and as a mean"

    many = studies.lay_out(tmp_path / "many")
    for number in range(4):
        studies.write_jsonl(tmp_path / "many" / "corpus" / f"{number}.jsonl", [{"text": f"Bell {number} rings."}])
    studies.compute(many)
    of_many, drift_of_many = numbers_kept(many)
    assert of_many == factors
    assert drift_of_many == 3 * drift

    # Shards that come later leave the same as those that the generation is fitted on.
    studies.write_jsonl(tmp_path / "many" / "corpus" / "later.jsonl", [{"text": "The last bell rings."}])
    studies.compute(many)
    later, drift_with_later = numbers_kept(many)
    assert later == factors
    assert drift_with_later == drift_of_many + drift // 2 - 1, "and its number of sequences in the manifest"
