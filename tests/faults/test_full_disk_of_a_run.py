"""A full disk, for real: what stands still stands, the error says what to do, and with room the run goes on."""

import os
import shutil

import dagster as dg
import pytest
import yaml

from influence_assets.orchestration.instance import default_settings
from influence_assets.storage.catalogue import query
from tests.commanding import finished, influence_process
from tests.faults import comparison, working
from tests.faults.changing import FILES
from tests.tiers import slow_but, slow_rows_but

MEGABYTES = 24
ASKED = "select shard_id, document_id from documents order by all"


@pytest.fixture
def disk(ground, corpus, small_disk):
    """A study whose store lies on a disk that can be filled up to some last bytes."""
    folder = small_disk(MEGABYTES)
    described = yaml.safe_load(ground.study.read_text())
    described["storage"] = {"root": str(folder / "store")}
    ground.study.write_text(yaml.safe_dump(described))
    shutil.move(ground.store, folder / "store")
    return Disk(folder, corpus)


class Disk:
    def __init__(self, folder, corpus):
        self.folder, self.corpus = folder, corpus

    @property
    def catalogue(self):
        return self.folder / "store" / "influence.duckdb"

    def fill(self, *, but):
        """Leave so many bytes free."""
        free = os.statvfs(self.folder)
        (self.folder / "ballast").write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - but)))

    def make_room(self):
        (self.folder / "ballast").unlink()


@pytest.mark.parametrize(
    ("left", "told"),
    slow_rows_but(
        slow=[(0, "cannot be written (No space left on device)"), (2_000_000, "influence_catalogue: ")],
        of=[
            (0, "cannot be written (No space left on device)"),
            (40_000, f"[{FILES[2]}]: "),
            (200_000, "cannot be written (No space left on device)"),
            (2_000_000, "influence_catalogue: "),
        ],
    ),
)
def test_a_run_says_so_and_the_next_one_goes_on(ground, disk, left, told):
    """With two megabytes left only the catalogue cannot be loaded."""
    disk.corpus.write(FILES[2], [6, 7])
    before = query(disk.catalogue, ASKED)
    disk.fill(but=left)
    said = working.attempt(working.run, ground.study)
    failures = [said] if isinstance(said, str) else said.failures
    assert failures
    assert told in failures[0]
    assert all("Error: " in failure and "pace" in failure for failure in failures), failures
    assert all("InputError" in failure or "StorageError" in failure for failure in failures), failures
    assert query(disk.catalogue, ASKED).equals(before)
    assert not list((disk.folder / "store").rglob(".draft-*"))
    disk.make_room()
    standing = set(everything_held(ground.study))
    ran = working.run(ground.study)
    assert not ran.failures
    assert not set(ran.computed) & standing
    assert working.look(ground.study) == []
    comparison.assert_equal_catalogues(ground.study, comparison.from_scratch(ground.study))


def everything_held(study):
    store = comparison.workspace(study).store
    return [f"{m.asset}[{m.partition}]" if m.partition else m.asset for m in store.manifests() if m.asset not in AGAIN]


AGAIN = {
    "curvature_drift", "influence_details", "influence_catalogue", "method_vectors", "method_scores", "bm25_scores",
}  # fmt: skip
"""Of these there was another version before."""


@pytest.mark.parametrize(
    ("home", "left"),
    [("elsewhere", 300_000), ("on the disk", 600_000), ("on the disk", 20_000)],
)
@pytest.mark.soak
def test_the_command_says_so_without_a_traceback(ground, disk, home, left, tmp_path):
    """Dagster keeps its own files, on the full disk or on another."""
    folder = (disk.folder if home == "on the disk" else tmp_path) / "home"
    folder.mkdir()
    (folder / "dagster.yaml").write_text(default_settings())
    with dg.DagsterInstance.from_config(str(folder)):
        pass  # its databases are there now
    environment = {"DAGSTER_HOME": str(folder)}
    disk.corpus.write(FILES[2], [6, 7])
    before = query(disk.catalogue, ASKED)
    disk.fill(but=left)
    ended = finished(influence_process("run", folder=ground.folder, environment=environment))
    assert ended.code == 1, ended
    assert "Traceback" not in ended.out + ended.err, ended
    assert "Free some space" in ended.out + ended.err or "there is space" in ended.out + ended.err, ended
    assert query(disk.catalogue, ASKED).equals(before)
    disk.make_room()
    ended = finished(influence_process("run", folder=ground.folder, environment=environment))
    assert ended.code == 0, ended
    assert len(query(disk.catalogue, ASKED)) == len(before) + 2


@pytest.mark.slow
@pytest.mark.parametrize("left", slow_but(0, of=[0, 30_000], slow=()))
def test_garbage_is_collected_on_a_full_disk(ground, disk, left):
    """What is removed makes room; so does what must leave a record or a number behind."""
    disk.corpus.write(FILES[0], [0, 2, 8])
    assert not working.run(ground.study).failures
    before = query(disk.catalogue, ASKED)
    superseded = len(everything_held(ground.study))
    disk.fill(but=left)
    ended = finished(influence_process("gc", "--keep", "0", folder=ground.folder))
    assert "Traceback" not in ended.out + ended.err, ended
    assert "Removed" in ended.out, ended
    assert len(everything_held(ground.study)) < superseded
    assert query(disk.catalogue, ASKED).equals(before)
    disk.make_room()
    ended = finished(influence_process("gc", "--keep", "0", folder=ground.folder))
    assert ended.code == 0, ended
    assert working.look(ground.study) == []
    comparison.assert_equal_catalogues(ground.study, comparison.from_scratch(ground.study))
