"""An executor of one file, chosen by the study: it keeps the contract, and a whole study runs with it."""

import hashlib
import sys
from pathlib import Path
from unittest import mock

import pytest

from influence_assets import extensions
from influence_assets.engine.executor import executor_of
from influence_assets.extensions import MODULE_PREFIX
from tests import studies
from tests.commanding import influence
from tests.engine import small_assets
from tests.engine.executor_contract import ExecutorContract

EXAMPLE = "worker_pool"
FOLDER = Path(__file__).parent / EXAMPLE


@pytest.fixture(scope="module", autouse=True)
def _no_process_outlives_these_tests():
    yield
    for name, module in list(sys.modules.items()):
        pool = module.EXECUTOR._pool if name.startswith(MODULE_PREFIX) and name.endswith(f".{EXAMPLE}") else None
        if pool is not None:
            pool.shutdown()
            module.EXECUTOR._pool = None


class TestWorkerPool(ExecutorContract):
    @pytest.fixture
    def executor(self, extend, tmp_path):
        extend(EXAMPLE)
        return executor_of(small_assets.lay_out(tmp_path / "named", {"a.txt": "a"}, EXAMPLE))


def test_it_is_discovered_by_an_entry_point(install, tmp_path):
    install(EXAMPLE, "influence_assets.engine.executors")
    executor = executor_of(small_assets.lay_out(tmp_path, {"a.txt": "a"}, EXAMPLE))
    assert (executor.name, type(executor).__module__) == (EXAMPLE, f"made_up_{EXAMPLE}")


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """A whole study, computed by the executor that its own extension folder holds, and what the run printed."""
    study = studies.lay_out(tmp_path_factory.mktemp("by_a_pool"), compute={"executor": EXAMPLE})
    with study.open("a") as file:
        file.write(f"extensions: [{FOLDER}]\n")
    with mock.patch.object(extensions, "_folders", {}):
        finished = influence("run", "--study", study)
    assert (finished.code, finished.err) == (0, ""), finished.out
    return study, finished.out


@pytest.fixture
def study(first_run, tmp_path):
    """A copy of that study, to be changed at will."""
    return studies.copied(first_run[0], tmp_path)


def titles(study):
    return set(studies.ask_sql(study, "select title from documents")["title"])


@pytest.mark.slow
def test_a_whole_study_is_the_same_as_by_the_default(first_run, standing):
    study, printed = first_run
    assert f"Computed {len(studies.everything())} partitions" in printed
    assert studies.data_versions(study) == studies.data_versions(standing)
    by_default = studies.scores(standing)
    assert studies.scores(study) == pytest.approx(by_default, rel=1e-9)
    assert len(by_default) == 17 * 3
    studies.assert_no_stale_row(study)
    assert influence("run", "--study", study).out.startswith("Nothing to do")
    assert influence("verify", "--study", study).code == 0


@pytest.mark.soak
def test_damage_is_found_and_mended(first_run, study):
    folder = studies.artifact(study, "documents", shard=studies.COAST).folder
    table = folder / "documents.parquet"
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    assert influence("verify", "--study", study).code == 1
    finished = influence("run", "--study", study)
    assert (finished.code, finished.err) == (0, ""), finished.out
    assert influence("verify", "--study", study).code == 0
    assert studies.scores(study) == pytest.approx(studies.scores(first_run[0]), rel=1e-9)


@pytest.mark.soak
def test_a_document_is_forgotten_and_what_is_superseded_collected(study):
    (gulls, kept) = (studies.COAST_ROWS[3], studies.COAST_ROWS[:3] + studies.TRADES_ROWS)
    assert titles(study) == {row["title"] for row in [gulls, *kept]}
    document_id = hashlib.sha256(gulls["text"].encode()).hexdigest()[:32]
    finished = influence("forget", "--document", document_id, "--study", study)
    assert (finished.code, finished.err) == (0, ""), finished.out
    assert titles(study) == {row["title"] for row in kept}
    assert influence("gc", "--keep", "0", "--study", study).code == 0
    assert influence("run", "--study", study).out.startswith("Nothing to do")
    assert influence("verify", "--study", study).code == 0
    studies.assert_no_stale_row(study)
