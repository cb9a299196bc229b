"""A store that lies in or around what the study reads is refused before anything is written."""

import pytest

from influence_assets.errors import InputError
from influence_assets.study import Study
from tests.study.test_study import smallest, written


def loaded(folder, root, key, value):
    described = smallest() | {"storage": {"root": str(root)}}
    section, name = key.split(".")
    described[section] = {name: str(value)}
    return Study.load(written(folder, described))


@pytest.fixture
def folder(tmp_path):
    for name in ("c", "m", "q", "data/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    return tmp_path


KEYS = ["corpus.path", "queries.path", "model.path"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("root", "value", "relation"),
    [
        ("data", "data/deep", "holds"),
        ("data", "data", "is the same as"),
        ("data/store", "data", "lies inside"),
        ("data/deep/store/below", "data", "lies inside"),
        ("link/store", "data", "lies inside"),
        ("data", "link/deep", "holds"),
        ("../{name}/data", "data", "is the same as"),
    ],
)
def test_any_overlap_is_refused_with_both_keys_and_a_remedy(folder, key, root, value, relation):
    with pytest.raises(InputError) as refused:
        loaded(folder, root.format(name=folder.name), key, value)
    assert refused.value.where == f"storage.root and {key}"
    assert f"{relation} {folder / 'data'}" in refused.value.problem
    assert "Give storage.root a folder of its own" in refused.value.remedy


def with_part(folder, root, key, value):
    described = smallest() | {"storage": {"root": root}}
    if key == "corpus.withdrawn":
        described["corpus"] = {"path": "c", "withdrawn": value}
    else:
        described["extensions"] = ["m", value]
    return Study.load(written(folder, described))


@pytest.mark.parametrize("key", ["corpus.withdrawn", "extensions.1"])
@pytest.mark.parametrize(
    ("value", "relation"),
    [
        ("data", "is the same as"),
        ("data/deep", "holds"),
        ("data/withdrawn.jsonl", "holds"),
        ("link/deep", "holds"),
        ("list", "holds"),
    ],
)
def test_a_list_or_an_extension_in_the_store_is_refused(folder, key, value, relation):
    """The store writes a file of its own under the name `withdrawn.jsonl`."""
    (folder / "list").symlink_to(folder / "data" / "deep")
    with pytest.raises(InputError) as refused:
        with_part(folder, "data", key, value)
    assert refused.value.where == f"storage.root and {key}"
    assert f"the store {folder / 'data'} {relation} {folder / 'data'}" in refused.value.problem
    assert "Give storage.root a folder of its own" in refused.value.remedy


def test_a_store_may_lie_in_an_extension_and_beside_a_list(folder):
    assert with_part(folder, "data/store", "extensions.1", "data")
    assert with_part(folder, "data/store", "corpus.withdrawn", "data/withdrawn.jsonl")


def test_the_studys_own_folder_is_no_store(folder):
    with pytest.raises(InputError, match=r"storage\.root and corpus\.path: the store .* holds .*/c\."):
        loaded(folder, ".", "corpus.path", "c")


@pytest.mark.parametrize("key", KEYS[:2])
@pytest.mark.parametrize(
    "url", ["file://{}/data", "local://{}/data", "simplecache::file://{}/data", "file://{}/link/deep"]
)
def test_urls_of_local_folders_overlap_too(folder, key, url):
    with pytest.raises(InputError, match=r"storage\.root and"):
        loaded(folder, "data", key, url.format(folder))


@pytest.mark.parametrize("key", KEYS)
def test_siblings_do_not_overlap(folder, key):
    assert loaded(folder, "store", key, "data").storage.root == str(folder / "store")
    assert loaded(folder, "data-2", key, "data").storage.root == str(folder / "data-2")


def test_what_is_not_on_this_file_system_overlaps_nothing(folder):
    described = smallest() | {
        "storage": {"root": "s"},
        "corpus": {"path": f"s3:/{folder}/s"},
        "model": {"path": "gpt2"},
    }
    Study.load(written(folder, described))
