"""A pass over a shard that fails is told of, and its partitions are computed one by one."""

import pytest

from influence_assets.capture import one_pass
from tests import studies
from tests.commanding import influence
from tests.studies import EXTRA


@pytest.mark.slow
def test_it_is_told_and_each_partition_is_computed_by_itself(study, monkeypatch):
    measure = one_pass.measure

    def as_if_memory_were_short(*arguments):
        participants = arguments[2]
        if len(participants) > 1:
            raise MemoryError("several at once need more than there is")
        return measure(*arguments)

    before = studies.scores(study)
    monkeypatch.setattr(one_pass, "measure", as_if_memory_were_short)
    studies.write_extra(study)
    ended = influence("run", "--study", study)
    assert ended.code == 0, ended.out
    told, *later = [line for line in ended.out.splitlines() if line.startswith("Note: ")]
    assert told.startswith(f"Note: One pass over {EXTRA} for drift_statistics, gradient_sketches")
    assert all("failed (several at once need more than there is)" in line for line in (told, *later))
    assert "Computed" in ended.out
    assert len(studies.scores(study)) > len(before)
    assert influence("run", "--study", study).out.startswith("Nothing to do")
