"""An artifact with something of every kind in it, and what reading it must give."""

import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from influence_assets.storage.artifacts import ArtifactStore
from influence_assets.storage.artifacts.manifest import ArtifactKey

STUDY = "topics"
KEY = ArtifactKey("token_sequences", "manual/topics.jsonl.gz", "v1")
INPUTS = [ArtifactKey("documents", "manual/topics.jsonl.gz", "d1")]
TOKENS = np.random.default_rng(0).integers(0, 9999, (40, 3), dtype=np.int32)
TEXT = "a text that nobody else wrote"


def store_in(folder: Path) -> ArtifactStore:
    return ArtifactStore.open_or_create(folder, STUDY)


def write(store: ArtifactStore, key: ArtifactKey = KEY) -> None:
    with store.write(key, inputs=INPUTS, code_version="3", run_id="r1") as draft:
        draft.array("tokens", TOKENS)
        draft.growing_array("stream", (3,), "int32").append(TOKENS)
        draft.mappable_array("signs", TOKENS.shape, "int32").append(TOKENS)
        draft.table("sequences", pl.DataFrame({"text": [TEXT] * 5}))
        (draft.folder("model") / "config.json").write_text('{"layers": 12}')
        draft.summarise(sequences=40, loss=0.25)


def record_beside(place: Path) -> Path:
    """The record of the artifact in a folder of a local store."""
    return place.with_name(f".record-{place.name}.json")


def read_everything(store: ArtifactStore, key: ArtifactKey = KEY) -> None:
    """Read all of an artifact, each in every way there is, and see that it is what was written."""
    artifact = store.open(key)
    for name in ("tokens", "stream", "signs"):
        np.testing.assert_array_equal(artifact.array(name), TOKENS)
        np.testing.assert_array_equal(artifact.rows(name, 0, 20), TOKENS[:20])
        np.testing.assert_array_equal(artifact.rows(name, 20, 40), TOKENS[20:])
    for block in artifact.mapped("signs").blocks():
        np.testing.assert_array_equal(block.rows, TOKENS[block.start : block.stop])
    assert artifact.table("sequences").collect()["text"].to_list() == [TEXT] * 5
    assert artifact.path("model/config.json").read_text() == '{"layers": 12}'
    assert (artifact.path("model") / "config.json").read_text() == '{"layers": 12}'
    assert artifact.manifest.summary == {"sequences": 40, "loss": 0.25}
    assert artifact.manifest.inputs == tuple(INPUTS)


@contextmanager
def another_process(code: str, *arguments: object):
    """A process that runs the code with `store` and `key` at hand; killed in the end. Lines go both ways."""
    beginning = """
        import sys
        from pathlib import Path
        from tests.storage.stored import KEY, store_in, write
        store = store_in(Path(sys.argv[1]))
        def say(text): print(text, flush=True)
        def wait(): sys.stdin.readline()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(beginning) + textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def hear(process: subprocess.Popen[str], expected: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{expected}\n"


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
