"""What holds in every test: shapes checked at run time, one thread unless more are asked for, no network."""

import os
import shutil
from pathlib import Path
from unittest import mock

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from influence_assets import extensions

# Before torch is imported: threads of several test processes on the same cores get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
for name in ("DAGSTER_HOME", "INFLUENCE_STUDY", "INFLUENCE_EXTENSIONS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
    os.environ.pop(name, None)

# Stores wait for the disk at every durable write. Temporary folders lie in memory where there is room for them.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 6 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes run tests: more than cores, for many a test waits for a process of its own."""
    cores = os.cpu_count() or 1
    return cores + (cores + 1) // 2


# A slow machine is no mistake of the code. Fewer examples than Hypothesis's 100 leave room for more properties; `make
# soak` tries more of each.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25)
settings.register_profile("thorough", settings.get_profile("patient"), max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "patient"))

# jaxtyping and beartype wrap the maths before it is imported.
install_import_hook("influence_assets.maths", "beartype.beartype")


@pytest.fixture(autouse=True)
def _environment_as_it_was():
    """Opening a study's Dagster instance names its folder to all that follows in the process; its extensions, too."""
    with mock.patch.dict(os.environ), mock.patch.object(extensions, "_folders", {}):
        yield


@pytest.fixture(scope="session")
def standing(tmp_path_factory):
    """The study file of a study as small as can be, all of it computed, once. Not to be changed: copy it."""
    from tests import studies  # after the hook above

    # The processes of one run of the tests share it: the first that comes here computes it.
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, is_computed = shared / "standing", shared / "standing.computed"
    with FileLock(shared / "standing.lock"):
        if not is_computed.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            assert set(studies.compute(studies.lay_out(folder))) == studies.everything()
            is_computed.touch()
    return folder / "study.yaml"


@pytest.fixture
def study(standing, tmp_path):
    """A copy of the computed study, to be changed at will."""
    from tests import studies

    return studies.copied(standing, tmp_path)
