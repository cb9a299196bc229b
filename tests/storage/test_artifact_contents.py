"""What arrays and tables keep: every type, every shape, in bounded memory."""

import subprocess
import sys
import textwrap

import numpy as np
import polars as pl
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from influence_assets.errors import DamagedError, InputError, StorageError
from influence_assets.storage.artifacts import ArtifactStore, arrays, mapped
from influence_assets.storage.artifacts.manifest import ArtifactKey

KEY = ArtifactKey("gradient_sketches", "a.jsonl", "v1")


@pytest.fixture
def store(tmp_path):
    return ArtifactStore.open_or_create(tmp_path / "store", "topics")


@pytest.fixture
def written(store):
    """Writes one artifact with a function of the draft, and opens it."""

    def write(fill):
        with store.write(KEY, inputs=[], code_version="1") as draft:
            fill(draft)
        return store.open(KEY)

    return write


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 64 bytes, two to a shard, so that small arrays have many."""
    monkeypatch.setattr(arrays, "_CHUNK_BYTES", 64)
    monkeypatch.setattr(arrays, "_CHUNKS_PER_SHARD", 2)
    monkeypatch.setattr(arrays, "_MAPPABLE_CHUNK_BYTES", 128)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (0,), (0, 5), (3, 0), (37, 3), (2, 3, 40), (1, 200)])
@pytest.mark.usefixtures("small_chunks")
def test_any_shape_and_type_comes_back(written, dtype, shape):
    values = (np.random.default_rng(0).random(shape) * 100).astype(dtype)
    artifact = written(lambda draft: draft.array("values", values))
    back = artifact.array("values")
    assert back.dtype == values.dtype
    assert back.shape == values.shape
    np.testing.assert_array_equal(back, values)
    assert artifact.array_record("values").shape == shape


@pytest.mark.usefixtures("small_chunks")
def test_zeros_are_written_so_that_a_lost_chunk_cannot_pass_for_them(written):
    artifact = written(lambda draft: draft.array("zeros", np.zeros((40, 4), np.float32)))
    lost = next(path for path in (artifact.folder / "arrays/zeros/c").rglob("*") if path.is_file())
    lost.unlink()
    with pytest.raises(StorageError, match="chunk is missing"):
        artifact.array("zeros")


@pytest.mark.usefixtures("small_chunks")
def test_rows_are_read_alone(written):
    values = np.arange(120, dtype=np.int32).reshape(40, 3)
    artifact = written(lambda draft: draft.array("values", values, rows_per_chunk=4))
    np.testing.assert_array_equal(artifact.rows("values", 5, 11), values[5:11])
    np.testing.assert_array_equal(artifact.rows("values", 39, 40), values[39:])


def test_arrays_are_compressed_under_a_checksum_and_sharded_when_large(written):
    artifact = written(lambda draft: draft.array("values", np.zeros((80, 2**17), np.float64)))
    array = zarr.open_array(artifact.folder / "arrays" / "values", mode="r")
    assert [type(codec).__name__ for codec in array.compressors] == ["ZstdCodec", "Crc32cCodec"]
    assert array.chunks == (4, 2**17)
    assert array.shards == (64, 2**17)
    assert artifact.manifest.bytes < 2**17


@pytest.mark.parametrize("name", ["transformer.h.0.mlp.c_fc", "a/b", "A", "a", "ünï cödé", "m" * 300])
def test_names_of_arrays_are_free_text(written, name):
    artifact = written(lambda draft: draft.array(name, np.arange(3)))
    assert artifact.array_names() == [name]
    np.testing.assert_array_equal(artifact.array(name), np.arange(3))


def test_a_modules_name_stays_readable_in_its_folder(written):
    artifact = written(lambda draft: draft.array("transformer.h.0.mlp.c_fc", np.arange(3)))
    assert (artifact.folder / "arrays" / "transformer.h.0.mlp.c_fc" / "zarr.json").is_file()


def test_bfloat16_is_kept_as_its_bits(written):
    bits = np.array([0x3F80, 0xC000], np.uint16)  # 1.0 and -2.0
    artifact = written(lambda draft: draft.array("bits", bits, logical_dtype="bfloat16"))
    np.testing.assert_array_equal(artifact.array("bits"), bits)
    assert artifact.array_record("bits").logical_dtype == "bfloat16"
    assert zarr.open_array(artifact.folder / "arrays/bits", mode="r").attrs["logical_dtype"] == "bfloat16"


@pytest.mark.parametrize("blocks", [[], [0], [1], [5, 3], [100], [1] * 50, [16, 16, 16], [33, 1, 66]])
@pytest.mark.parametrize("kind", ["growing", "mappable"])
@pytest.mark.usefixtures("small_chunks")
def test_blocks_of_any_size_become_one_array(written, blocks, kind):
    values = np.random.default_rng(1).normal(size=(sum(blocks), 4)).astype(np.float32)

    def fill(draft):
        if kind == "growing":
            writer = draft.growing_array("stream", (4,), "float32", logical_dtype="x")
        else:
            writer = draft.mappable_array("stream", values.shape, "float32", logical_dtype="x")
        start = 0
        for rows in blocks:
            writer.append(values[start : start + rows])
            start += rows
        assert writer.rows == len(values)

    artifact = written(fill)
    np.testing.assert_array_equal(artifact.array("stream"), values)
    assert artifact.array_record("stream").shape == values.shape
    assert artifact.array_record("stream").logical_dtype == "x"


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 100])
@pytest.mark.usefixtures("small_chunks")
def test_mapped_blocks_are_the_rows_in_order_and_read_only(written, rows):
    values = np.random.default_rng(2).integers(0, 99, (rows, 4), dtype=np.int32)
    artifact = written(lambda draft: draft.mappable_array("sketches", values.shape, "int32").append(values))
    mapped = artifact.mapped("sketches")
    blocks = list(mapped.blocks())
    assert [block.start for block in blocks] == [0, *(block.stop for block in blocks)][:-1][: len(blocks)]
    assert sum(len(block.rows) for block in blocks) == rows == len(mapped)
    for start, stop in ((0, rows), (3, 9), (8, 16), (7, 8), (rows, rows), (5, 1000)):
        np.testing.assert_array_equal(artifact.rows("sketches", start, stop), values[start:stop])
    for block in blocks:
        assert isinstance(block.rows, np.memmap)
        assert not block.rows.flags.writeable
        np.testing.assert_array_equal(block.rows, values[block.start : block.stop])


def test_mappable_chunks_are_rows_as_they_are_of_64_to_128_mib(tmp_path):
    writer = arrays.mappable_writer(tmp_path / "big", (70_000, 1024), "float32", None)
    array = zarr.open_array(tmp_path / "big", mode="r")
    assert array.chunks[1] == 1024
    assert 64 * 2**20 <= array.chunks[0] * 1024 * 4 <= 256 * 2**20
    assert [type(codec).__name__ for codec in array.compressors] == ["Crc32cCodec"]
    assert writer.rows == 0


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("damage", ["gone", "cut", "longer", "flipped", "flipped checksum"])
@pytest.mark.usefixtures("small_chunks")
def test_a_mapped_block_is_handed_out_only_as_it_was_written(written, damage):
    values = np.arange(400, dtype=np.int32).reshape(100, 4)
    artifact = written(lambda draft: draft.mappable_array("sketches", values.shape, "int32").append(values))
    chunk = artifact.folder / "arrays/sketches/c/1/0"
    content = chunk.read_bytes()
    if damage == "gone":
        chunk.unlink()
    else:
        chunk.write_bytes(
            {
                "cut": content[:-4],
                "longer": content + bytes(4),
                "flipped": bytes([content[0] ^ 1]) + content[1:],
                "flipped checksum": content[:-1] + bytes([content[-1] ^ 1]),
            }[damage]
        )
    blocks = artifact.mapped("sketches").blocks()
    np.testing.assert_array_equal(next(blocks).rows, values[:8])  # 128 bytes
    with pytest.raises(DamagedError, match="arrays/sketches/c/1/0: the chunk is") as raised:
        next(blocks)
    assert raised.value.folder == artifact.folder
    assert raised.value.files == ("arrays/sketches/c/1/0",)


@pytest.mark.parametrize("rows", [1, 3, 4, 5])
@pytest.mark.usefixtures("small_chunks")
def test_each_chunk_is_its_rows_and_then_their_crc32c(written, rows):
    values = np.arange(rows * 8, dtype=np.int32).reshape(rows, 8)  # four rows are a chunk of 128 bytes
    artifact = written(lambda draft: draft.mappable_array("sketches", values.shape, "int32").append(values))
    paths = sorted(path for path in (artifact.folder / "arrays/sketches/c").rglob("0") if path.is_file())
    chunks = [path.read_bytes() for path in paths]
    assert b"".join(chunk[:-4] for chunk in chunks).startswith(values.tobytes())
    assert [int.from_bytes(chunk[-4:], "little") for chunk in chunks] == [crc32c_bit_by_bit(c[:-4]) for c in chunks]


@pytest.mark.usefixtures("small_chunks")
def test_chunks_of_format_3_are_checked_against_the_manifest(written):
    values = np.arange(400, dtype=np.int32).reshape(100, 4)
    artifact = written(lambda draft: draft.mappable_array("sketches", values.shape, "int32").append(values))
    folder = artifact.folder / "arrays/sketches"
    chunks = sorted((folder / "c").glob("*/0"), key=lambda path: int(path.parent.name))
    for path in chunks:
        path.write_bytes(path.read_bytes()[:-4])
    record = artifact.array_record("sketches").model_copy(
        update={"chunk_crc32c": tuple(crc32c_bit_by_bit(path.read_bytes()) for path in chunks)}
    )
    np.testing.assert_array_equal(mapped.map_array(folder, record).read(0, 100), values)
    chunks[1].write_bytes(chunks[2].read_bytes())
    with pytest.raises(DamagedError, match="not as it was written"):
        mapped.map_array(folder, record).read(0, 100)


def crc32c_bit_by_bit(content):
    """Castagnoli's polynomial, reflected, by the definition; of `123456789` it is e3069283."""
    register = 0xFFFFFFFF
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def test_a_compressed_array_is_not_mapped(written):
    artifact = written(lambda draft: draft.array("values", np.arange(3)))
    with pytest.raises(StorageError, match="cannot be mapped"):
        artifact.mapped("values")


@pytest.mark.parametrize(
    "block", [np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float64), np.zeros((6, 2), np.float32)]
)
def test_blocks_that_do_not_fit_are_refused(store, block):
    with pytest.raises(ValueError, match=r"expected|rows"), store.write(KEY, inputs=[], code_version="1") as draft:
        draft.mappable_array("x", (5, 2), "float32").append(block)
    assert not store.holds(KEY)


def test_too_few_rows_are_refused(store):
    with pytest.raises(ValueError, match="has 5 rows, got 4"), store.write(KEY, inputs=[], code_version="1") as draft:
        draft.mappable_array("x", (5, 2), "float32").append(np.zeros((4, 2), np.float32))
    assert not store.holds(KEY)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "arrays", "manifest.json", "A"])
def test_names_of_tables_and_folders_are_plain_words(store, name):
    for use in (lambda draft: draft.folder(name), lambda draft: draft.table(name, pl.DataFrame({"a": [1]}))):
        with pytest.raises(ValueError, match="lowercase word"), store.write(KEY, inputs=[], code_version="1") as draft:
            use(draft)


def test_a_name_is_used_once(written):
    def fill(draft):
        draft.table("sequences", pl.DataFrame({"a": [1]}))
        with pytest.raises(ValueError, match="already has a table"):
            draft.table("sequences", pl.DataFrame({"a": [2]}))
        draft.growing_array("x", (), "int8")
        with pytest.raises(ValueError, match="already has an array"):
            draft.array("x", np.arange(2))

    assert written(fill).table("sequences").collect()["a"].to_list() == [1]


SCHEMA = pl.Schema({"text": pl.String, "count": pl.Int64, "score": pl.Float64})


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(0, 5), max_size=6))
def test_a_streamed_table_is_its_frames_in_order(tmp_path_factory, sizes):
    store = ArtifactStore.open_or_create(tmp_path_factory.mktemp("store"), "topics")
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    frames = [
        pl.DataFrame({"text": [None] * n, "count": range(start, start + n), "score": [0.5] * n}, schema=SCHEMA)
        for start, n in zip(starts, sizes, strict=True)
    ]
    with store.write(KEY, inputs=[], code_version="1") as draft:
        assert draft.table_from("documents", iter(frames), SCHEMA) == sum(sizes)
    table = store.open(KEY).table("documents").collect()
    assert table.schema == SCHEMA
    assert table["count"].to_list() == list(range(sum(sizes)))
    assert store.open(KEY).manifest.rows == {"documents": sum(sizes)}


@pytest.mark.slow
def test_a_streamed_table_is_not_held_in_memory(tmp_path):
    """64 frames of 16 MiB each are a GiB; a process of its own must need far less than that in addition."""
    code = """
        import resource, sys
        from pathlib import Path
        import numpy as np, polars as pl
        from influence_assets.storage.artifacts import ArtifactStore
        from influence_assets.storage.artifacts.manifest import ArtifactKey
        store = ArtifactStore.open_or_create(Path(sys.argv[1]), "topics")
        frames = (pl.DataFrame({"a": np.full(2**20, n), "b": np.zeros(2**20)}) for n in range(64))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with store.write(ArtifactKey("documents", "a", "v"), inputs=[], code_version="1") as draft:
            draft.table_from("documents", frames, pl.Schema({"a": pl.Int64, "b": pl.Float64}))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path / "store"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * (1 if sys.platform == "darwin" else 1024) < 2**29


def test_what_a_stream_raises_is_raised_as_it_is(store):
    def frames():
        yield pl.DataFrame({"text": ["a"], "count": [1], "score": [0.0]})
        raise InputError("a.jsonl, row 2", "is not JSON", "Correct it.")

    with pytest.raises(InputError, match="row 2"), store.write(KEY, inputs=[], code_version="1") as draft:
        draft.table_from("documents", frames(), SCHEMA)
    assert not store.holds(KEY)


def test_a_frame_of_another_schema_is_refused(store):
    frames = [pl.DataFrame({"text": ["a"], "count": ["1"], "score": [0.0]})]
    with pytest.raises(pl.exceptions.SchemaError), store.write(KEY, inputs=[], code_version="1") as draft:
        draft.table_from("documents", frames, SCHEMA)
