"""A folder of a local disk keeps the contract of backends."""

import pytest

from influence_assets.errors import InputError
from influence_assets.storage.backend import open_backend
from influence_assets.storage.backends.local import LocalBackend
from tests.storage.backend_contract import BackendContract


class TestLocalBackend(BackendContract):
    @pytest.fixture
    def opened(self, tmp_path):
        return lambda: open_backend(str(tmp_path / "store"))


def test_a_plain_path_is_a_local_folder(tmp_path):
    backend = open_backend(str(tmp_path))
    assert isinstance(backend, LocalBackend)
    assert (backend.location, backend.local_root) == (str(tmp_path), tmp_path)


def test_a_scheme_without_a_backend_is_refused():
    with pytest.raises(InputError, match=r"storage\.root: no storage backend has the scheme of s3://bucket/store"):
        open_backend("s3://bucket/store")
