import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from influence_assets.durable import identity
from influence_assets.errors import InputError
from influence_assets.models import weights
from influence_assets.models.weights import commit_of, resolve_model_folder, tokenizer_hash, weights_hash
from influence_assets.study import LanguageModel


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    save_file({"w": np.zeros(4, np.float32)}, folder / "model.safetensors")
    _age(folder / "model.safetensors")
    return folder


def _age(file: Path) -> None:
    """An old mtime does not age the ctime: only the fixture `settled` makes a file cacheable."""
    os.utime(file, ns=(10**18, 10**18))


@pytest.fixture
def settled(monkeypatch):
    """As if every file had been written long before it is hashed."""
    monkeypatch.setattr(identity, "_CLOCK_GRAIN_NS", -1)


@pytest.fixture
def read_files(monkeypatch):
    """The names of the files whose contents are read, in order."""
    names = []
    digest = weights.hashlib.file_digest

    def noting(stream, algorithm):
        names.append(Path(stream.name).name)
        return digest(stream, algorithm)

    monkeypatch.setattr(weights.hashlib, "file_digest", noting)
    return names


def test_hash_depends_on_contents_names_and_config_only(folder, tmp_path):
    before = weights_hash(folder, None)
    copy = tmp_path / "elsewhere"
    folder.rename(copy)
    (copy / "README.md").write_text("about")
    assert weights_hash(copy, None) == before
    (copy / "config.json").write_text('{"model_type": "gpt2", "n_head": 2}')
    other_config = weights_hash(copy, None)
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    assert len({before, other_config, weights_hash(copy, None)}) == 3


@pytest.mark.usefixtures("settled")
def test_unchanged_files_are_not_read_again(folder, tmp_path, read_files):
    cache = tmp_path / "cache.json"
    first = weights_hash(folder, cache)
    assert sorted(read_files) == ["config.json", "model.safetensors"]
    assert weights_hash(folder, cache) == first
    assert len(read_files) == 2


@pytest.mark.usefixtures("settled")
def test_same_name_size_and_mtime_with_other_contents_is_another_hash(folder, tmp_path):
    cache = tmp_path / "cache.json"
    before = weights_hash(folder, cache)
    save_file({"w": np.ones(4, np.float32)}, folder / "model.safetensors")
    _age(folder / "model.safetensors")  # same size, same mtime: only ctime tells
    assert weights_hash(folder, cache) != before
    assert weights_hash(folder, cache) == weights_hash(folder, None)


def test_just_written_files_are_read_again(folder, tmp_path, read_files):
    """Within the clock's grain a second write leaves no trace in the file's times."""
    cache = tmp_path / "cache.json"
    weights_hash(folder, cache)
    weights_hash(folder, cache)
    assert read_files.count("model.safetensors") == 2


@pytest.mark.parametrize("damage", ["", "[]", '{"a": 1}', '{"a": [1, 2, 3]}', "not json"])
def test_damaged_cache_is_ignored(folder, tmp_path, damage):
    cache = tmp_path / "cache.json"
    cache.write_text(damage)
    assert weights_hash(folder, cache) == weights_hash(folder, None)
    _, kept = cache.read_text().split("\n", 1)
    assert isinstance(json.loads(kept), dict)


@pytest.mark.usefixtures("settled")
def test_a_digit_changed_in_the_cache_is_noticed(folder, tmp_path):
    cache = tmp_path / "cache.json"
    found = weights_hash(folder, cache)
    checksum, kept = cache.read_text().split("\n", 1)
    (_, digest), *_ = json.loads(kept).values()
    other = f"{(int(digest[0], 16) + 1) % 16:x}{digest[1:]}"
    cache.write_text(f"{checksum}\n{kept.replace(digest, other)}")
    assert weights_hash(folder, cache) == found


def test_every_shard_and_the_index_count(folder):
    save_file({"v": np.zeros(2, np.float32)}, folder / "second.safetensors")
    with_second = weights_hash(folder, None)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert weights_hash(folder, None) != with_second
    save_file({"v": np.ones(2, np.float32)}, folder / "second.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    assert weights_hash(folder, None) != with_second


def test_folder_without_safetensors_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no \*\.safetensors.*save_pretrained"):
        weights_hash(folder, None)


def test_folder_without_config_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        weights_hash(folder, None)


def test_tokenizer_hash_is_of_the_bytes(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_bytes(b"abc")
    assert tokenizer_hash(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(InputError, match="cannot be read"):
        tokenizer_hash(tmp_path / "absent.json")


def test_folder_is_taken_as_it_is(folder):
    assert resolve_model_folder(LanguageModel(path=str(folder))) == folder


@pytest.mark.parametrize("path", ["/no/such/folder", "./nowhere", "~/nowhere at all"])
def test_missing_folder_is_refused_without_asking_the_network(path, monkeypatch):
    monkeypatch.setattr(weights, "snapshot_download", lambda *_, **__: pytest.fail("went online"))
    with pytest.raises(InputError, match=r"model\.path"):
        resolve_model_folder(LanguageModel(path=path))


def test_file_instead_of_folder_is_refused(folder):
    with pytest.raises(InputError, match=r"model\.path: .* is a file"):
        resolve_model_folder(LanguageModel(path=str(folder / "model.safetensors")))


@pytest.mark.parametrize("name", ["not/a/model/name", "someone/never-fetched"])
def test_id_that_cannot_be_fetched_is_refused(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"model\.path: .*neither a folder.*Correct the name"):
        resolve_model_folder(LanguageModel(path=name))


@pytest.mark.parametrize("trusted", [False, True])
def test_no_pickle_is_ever_fetched(monkeypatch, tmp_path, trusted):
    asked = {}

    def fetch(name, *, revision, allow_patterns, ignore_patterns):
        asked.update(name=name, revision=revision, allow=allow_patterns, ignore=ignore_patterns)
        return str(tmp_path)

    monkeypatch.setattr(weights, "snapshot_download", fetch)
    assert resolve_model_folder(LanguageModel(path="someone/model", trust_remote_code=trusted)) == tmp_path
    assert (asked["name"], asked["revision"]) == ("someone/model", None)
    from huggingface_hub.utils import filter_repo_objects

    offered = [
        *("model.safetensors", "config.json", "tokenizer.json", "merges.txt", "tokenizer.model", "modeling.py"),
        *("pytorch_model.bin", "weights.pt", "old/model.safetensors", "model.pkl"),
    ]
    kept = set(filter_repo_objects(offered, allow_patterns=asked["allow"], ignore_patterns=asked["ignore"]))
    assert kept == set(offered[:6] if trusted else offered[:5])


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub whose main branch is at one commit after the other; what it was asked for."""
    asked = []

    def fetch(name, *, revision, **_):
        asked.append((name, revision))
        folder = tmp_path / "hub" / "snapshots" / (COMMIT[: -len(asked)] + "e" * len(asked))
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        return str(folder)

    monkeypatch.setattr(weights, "snapshot_download", fetch)
    return asked


def test_the_hub_is_asked_once_for_each_revision(hub, tmp_path):
    """What a run found is used until the study asks for something else, however the branch moves."""
    cache = tmp_path / "cache" / "model.json"
    main, tagged = LanguageModel(path="someone/model"), LanguageModel(path="someone/model", revision="v1")
    first = resolve_model_folder(main, cache)
    assert [resolve_model_folder(main, cache) for _ in range(3)] == [first] * 3
    assert hub == [("someone/model", None)]
    other = resolve_model_folder(tagged, cache)
    assert resolve_model_folder(tagged, cache) == other != first
    assert hub == [("someone/model", None), ("someone/model", "v1")]
    resolve_model_folder(tagged.model_copy(update={"trust_remote_code": True}), cache)
    assert len(hub) == 3, "its code was not fetched before"


@pytest.mark.parametrize("lost", ["folder", "cache"])
def test_a_folder_or_cache_that_is_lost_is_fetched_again(hub, tmp_path, lost):
    cache = tmp_path / "model.json"
    model = LanguageModel(path="someone/model")
    folder = resolve_model_folder(model, cache)
    (folder / "config.json").unlink() if lost == "folder" else cache.write_text("damaged")
    assert (resolve_model_folder(model, cache) / "config.json").is_file()
    assert len(hub) == 2


def test_the_commit_is_the_name_of_what_was_fetched(tmp_path):
    assert commit_of(tmp_path / "snapshots" / COMMIT) == COMMIT
    assert commit_of(tmp_path / "models" / COMMIT) is None
    assert commit_of(tmp_path / "snapshots" / "mine") is None


def test_a_folder_has_no_revision(folder):
    with pytest.raises(InputError, match=r"model\.revision: .* is a folder"):
        resolve_model_folder(LanguageModel(path=str(folder), revision="main"))
