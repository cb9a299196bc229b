"""Whatever happens to a loader or beside it: what was published still stands, or the next state does, whole."""

import base64
import json
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import polars as pl
import pytest
from catalogue_sample import Sample, everything_in, states

from influence_assets.durable import locks
from influence_assets.errors import StorageError
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.catalogue import load_catalogue, query, reading, record_states

HERE = Path(__file__).parent
LOADER = """
    import json, os, resource, signal, sys, time
    from pathlib import Path
    from influence_assets.errors import StorageError
    from influence_assets.storage.artifacts import ArtifactStore
    from influence_assets.storage.catalogue import CatalogueContent, load_catalogue
    from influence_assets.storage.artifacts.manifest import ArtifactKey

    path, root, keys = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    content = CatalogueContent("topics", 1, [ArtifactKey(*key) for key in keys])

    def load():
        load_catalogue(path, content, ArtifactStore.open_or_create(root, "topics"))
"""
KILLED_AT_EVENT = """
    seen = 0
    def kill_at(number):
        def hook(event, arguments):
            global seen
            if "catalogue.duckdb" in str(arguments) or event == "fcntl.ioctl":
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)
        return hook

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            if int(line):
                sys.addaudithook(kill_at(int(line)))
            load()
            os._exit(0)
        print(os.waitpid(child, 0)[1], flush=True)
"""
KILLED_AT_TIME = """
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            load()
            os._exit(0)
        time.sleep(float(line))
        os.kill(child, signal.SIGKILL)
        print(os.waitpid(child, 0)[1], flush=True)
"""
LIMITED = """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), -1))
    try:
        load()
    except StorageError as error:
        print(error)
"""


@pytest.fixture
def sample(tmp_path):
    return Sample(tmp_path)


def loader(sample, content, code, *arguments):
    """A process that can load this content and does what the code says."""
    keys = [[key.asset, key.partition, key.data_version] for key in content.artifacts]
    code = textwrap.dedent(LOADER) + textwrap.dedent(code)
    command = [sys.executable, "-c", code, str(sample.path), str(sample.store.root), json.dumps(keys), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parents[1])


def beside(path):
    return sorted(each.name for each in path.parent.iterdir() if each.name.startswith((".catalogue", "catalogue")))


class TestRefusal:
    """A load that cannot be done leaves what was published, to the byte, and nothing beside it."""

    @pytest.fixture
    def published(self, sample):
        sample.load(sample.shard(0))
        before = sample.path.read_bytes()
        yield sample
        assert sample.path.read_bytes() == before
        assert beside(sample.path) == ["catalogue.duckdb", "catalogue.duckdb.lock"]

    def test_a_table_with_other_columns_is_named_among_many(self, published):
        wrong = published.write(ArtifactKey("documents", "b", "v1"), documents=pl.DataFrame({"document_id": ["d"]}))
        with pytest.raises(
            StorageError, match=rf"{wrong.key.data_version}/documents\.parquet: cannot be loaded"
        ) as said:
            published.load(published.shard(1), [wrong], published.shard(2))
        assert "/b/" in str(said.value)

    @pytest.mark.parametrize("damage", ["flip", "cut"])
    def test_a_damaged_table_is_named(self, published, damage):
        shard = published.shard(1)
        table = shard[2].folder / "influence_scores.parquet"
        content = bytearray(table.read_bytes())
        content[len(content) // 2] ^= 1
        table.write_bytes(content if damage == "flip" else content[:-9])
        with pytest.raises(StorageError, match=r"influence_scores\.parquet"):
            published.load(shard)

    def test_rows_that_a_file_lost_are_missed(self, published, monkeypatch):
        """Were a file's rows to find no artifact, or a statement to drop some, the counts would tell."""
        monkeypatch.setattr("glob.escape", lambda path: path.replace("b.jsonl", "a.jsonl"))
        with pytest.raises(StorageError, match="0 rows were read from files that have 1"):
            published.load([published.shard(1)[0]])

    def test_a_file_that_may_not_grow(self, published):
        """The system refuses DuckDB's write in the middle of the load."""
        content = published.content(published.shard(0), [big_artifact(published)])
        process = loader(published, content, LIMITED, "6000000")
        said, _ = process.communicate()
        assert process.returncode == 0
        assert "cannot be written" in said
        assert "The published catalogue is unchanged" in said

    @pytest.mark.parametrize(("megabytes", "refused"), [(4, "copy"), (8, "commit"), (20, "checkpoint")])
    def test_a_full_disk(self, sample, small_disk, megabytes, refused):
        """Full in the middle of copying, of the transaction, and of writing it into the file; then there is space."""
        sample.path = small_disk(megabytes) / "catalogue.duckdb"
        sample.load(sample.shard(0))
        before = sample.path.read_bytes()
        with pytest.raises(StorageError, match=r"No space left.*Free some space"):
            sample.load(sample.shard(0), [big_artifact(sample)])
        if refused == "copy":
            with pytest.raises(StorageError, match=r"No space left.*Free some space"):
                record_states(sample.path, states([("documents", None, "missing", *[None] * 3)]))
        assert sample.path.read_bytes() == before
        assert beside(sample.path) == ["catalogue.duckdb", "catalogue.duckdb.lock"]
        assert sample.scores() == [1.0, 2.0]
        if refused != "copy":
            assert sample.load(sample.shard(1)).loaded == 3

    @pytest.fixture
    def small_disk(self, tmp_path):
        folder = tmp_path / "disk"
        folder.mkdir()

        def mount(megabytes):
            command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
            mounted = subprocess.run(command, capture_output=True, text=True, check=False)
            if mounted.returncode:
                pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
            return folder

        yield mount
        subprocess.run(["umount", str(folder)], capture_output=True, check=False)


class TestKill:
    """Killed anywhere, a load has happened or it has not; the next one is not disturbed by what is left of it."""

    @pytest.fixture
    def states_of(self, sample):
        """The tables before and after the load of a changed and a new shard in place of one that vanished."""
        old = sample.content(sample.shard(0), sample.shard(1))
        new = sample.content(sample.shard(0, "v2"), sample.shard(2))
        found = []
        for content in (new, old):
            load_catalogue(sample.path, content, sample.store)
            found.append(everything_in(sample.path))
        return {"old": old, "new": new, "before": found[1], "after": found[0], "file": sample.path.read_bytes()}

    def outcome(self, sample, states_of):
        """What the killed loader left published; then the next load makes it right, and the old state is put back."""
        left = everything_in(sample.path)
        assert left in (states_of["before"], states_of["after"])
        load_catalogue(sample.path, states_of["new"], sample.store)
        assert everything_in(sample.path) == states_of["after"]
        assert beside(sample.path) == ["catalogue.duckdb", "catalogue.duckdb.lock"]
        sample.path.write_bytes(states_of["file"])
        return "before" if left == states_of["before"] else "after"

    @pytest.mark.slow
    def test_at_every_step_that_touches_a_file(self, sample, states_of):
        """The steps are those that Python tells of: locking, copying, bringing to the disk, renaming, cleaning up."""
        outcomes, left_behind = [], []
        with loader(sample, states_of["new"], KILLED_AT_EVENT) as process:
            for number in range(1, 100):
                status = ask(process, number)
                if status == 0:
                    break
                assert status == signal.SIGKILL
                left_behind.append(".catalogue.duckdb.loading" in beside(sample.path))
                outcomes.append(self.outcome(sample, states_of))
            process.stdin.close()
        assert len(outcomes) > 6
        assert outcomes == sorted(outcomes, reverse=True)  # first before, then after
        assert set(outcomes) == {"before", "after"}
        assert any(left_behind)

    @pytest.mark.soak
    def test_at_many_times(self, sample, states_of):
        """Which is in the middle of DuckDB's own work, too, of which Python does not tell."""
        with loader(sample, states_of["new"], KILLED_AT_EVENT) as process:
            ask(process, 0)  # the first reads the SQL
            sample.path.write_bytes(states_of["file"])
            started = time.monotonic()
            assert ask(process, 0) == 0
            seconds = time.monotonic() - started
            process.stdin.close()
        sample.path.write_bytes(states_of["file"])
        with loader(sample, states_of["new"], KILLED_AT_TIME) as process:
            for step in range(12):
                ask(process, seconds * step / 10)
                self.outcome(sample, states_of)
            process.stdin.close()

    @pytest.mark.parametrize("anew", [False, True])
    def test_what_a_killed_loader_had_committed_to_its_copy_is_not_taken_up(self, sample, anew):
        """DuckDB replays a log that it finds beside a file of its name."""
        shard = sample.shard(0)
        sample.load(shard)
        copy = sample.path.with_name(".catalogue.duckdb.loading")
        shutil.copyfile(sample.path, copy)
        with duckdb.connect(str(copy)) as killed:
            killed.execute("pragma disable_checkpoint_on_shutdown").complete()
            killed.execute("insert into influence_scores from influence_scores").complete()
        assert beside(sample.path) == [copy.name, f"{copy.name}.wal", "catalogue.duckdb", "catalogue.duckdb.lock"]
        load_catalogue(sample.path, sample.content(shard, sample.shard(1)), sample.store, anew=anew)
        assert sample.scores() == [1.0, 2.0, 3.0, 4.0]
        assert beside(sample.path) == ["catalogue.duckdb", "catalogue.duckdb.lock"]


class TestReaders:
    @pytest.mark.slow
    def test_one_that_polls_sees_only_complete_states_and_no_error(self, sample):
        """Twenty loads while a process asks as fast as it can; each answer is one load's, the last one the last's."""
        first, second = sample.shard(0), sample.shard(1)
        sample.load(first)
        code = """
            import sys, time
            from pathlib import Path
            from influence_assets.storage.catalogue import query
            is_last = False
            while not is_last:
                is_last = Path(sys.argv[2]).exists()
                row = query(Path(sys.argv[1]), '''
                    select (select count(*) from shards), (select count(*) from sequences),
                    (select count(*) from documents), (select count(*) from influence_scores),
                    (select count(*) from materializations), (select count(*) from materialization_inputs),
                    (select count(*) from catalogue)
                ''').row(0)
                print(row, flush=True)
        """
        done = sample.path.with_name("done")
        command = [sys.executable, "-c", textwrap.dedent(code), sample.path, done]
        reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        answers = [reader.stdout.readline()]  # the first load only begins when the reader is at work
        listener = threading.Thread(target=lambda: answers.extend(reader.stdout))
        listener.start()
        for _ in range(10):
            sample.load(first)
            sample.load(first, second)
        done.touch()
        listener.join()
        assert reader.wait() == 0
        of_first, of_both = "(1, 2, 1, 2, 5, 4, 1)\n", "(2, 4, 2, 4, 8, 8, 1)\n"
        assert set(answers) == {of_first, of_both}
        assert (answers[0], answers[-1]) == (of_first, of_both)

    @pytest.mark.soak
    def test_threads_that_poll_while_the_same_process_loads(self, sample):
        first, second = sample.shard(0), sample.shard(1)
        sample.load(first)
        is_done, has_begun = threading.Event(), threading.Semaphore(0)

        def poll():
            answers, is_last = [tuple(sample.scores())], False
            has_begun.release()
            while not is_last:
                is_last = is_done.is_set()
                answers.append(tuple(sample.scores()))
            return answers

        with ThreadPoolExecutor() as pool:
            readers = [pool.submit(poll) for _ in range(2)]
            for _ in readers:
                has_begun.acquire()
            try:
                for _ in range(10):
                    sample.load(first)
                    sample.load(first, second)
            finally:
                is_done.set()
            for reader in readers:
                answers = reader.result()
                assert set(answers) == {(1.0, 2.0), (1.0, 2.0, 3.0, 4.0)}
                assert (answers[0], answers[-1]) == ((1.0, 2.0), (1.0, 2.0, 3.0, 4.0))

    def test_one_that_stays_keeps_its_state_and_the_next_sees_the_new_one(self, sample):
        """DuckDB would give the second connection of a process the first one's old file."""
        first = sample.shard(0)
        sample.load(first)
        everything = "select sum(influence_nats), count(*) from current_scores"
        with reading._reader(sample.path) as reader:
            for number in range(1, 8):
                sample.load(*([] if number % 2 else [first]), sample.shard(number))
                assert reader.execute(everything).fetchall() == [(3.0, 2)]
                assert query(sample.path, "select count(*) from shards").item() == 2 - number % 2
            with reading._reader(sample.path) as other:  # beside the first
                assert other.execute("select shard_id from shards").fetchall() == [("h.jsonl",)]
            load_catalogue(sample.path, sample.content(sample.shard(1)), sample.store, anew=True)
            assert reader.execute(everything).fetchall() == [(3.0, 2)]

    def test_the_folder_may_be_read_only(self, sample):
        sample.load(sample.shard(0))
        folder = sample.path.parent
        folder.chmod(0o500)
        try:
            assert sample.scores() == [1.0, 2.0]
        finally:
            folder.chmod(0o700)


def test_a_load_waits_for_the_one_before(sample):
    shard = sample.shard(0)
    with locks.locked(sample.path.with_name("catalogue.duckdb.lock")):
        waiting = threading.Thread(target=sample.load, args=(shard,))
        waiting.start()
        waiting.join(0.3)
        assert not sample.path.exists()
    waiting.join()
    assert sample.scores() == [1.0, 2.0]


def test_two_loads_at_once_leave_one_of_them(sample):
    contents = [sample.content(sample.shard(number)) for number in range(2)]
    expected = []
    for content in contents:
        load_catalogue(sample.path, content, sample.store)
        expected.append(everything_in(sample.path))
    for _ in range(3):
        loaders = [threading.Thread(target=load_catalogue, args=(sample.path, c, sample.store)) for c in contents]
        for each in loaders:
            each.start()
        for each in loaders:
            each.join()
        assert everything_in(sample.path) in expected


def ask(process, said):
    process.stdin.write(f"{said}\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def big_artifact(sample):
    """An artifact of text that does not compress: 12 MB."""
    chance = random.Random(0)
    texts = [base64.b64encode(chance.randbytes(1500)).decode() for _ in range(6000)]
    rows = {"sequence_id": range(1000, 7000), "sequence_index": range(6000), "text": texts}
    sequences = pl.DataFrame(rows).with_columns(shard_id=pl.lit("z.jsonl"), tokens=4)
    return sample.write(ArtifactKey("token_sequences", "z.jsonl", "v1"), sequences=sequences)
