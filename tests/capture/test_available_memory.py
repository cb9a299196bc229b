"""What is left of the machine's memory, and of the limits of the groups that a process is in."""

import os

import pytest

from influence_assets.capture.available_memory import available_memory

MIB = 2**20


class Machine:
    """Files as Linux shows them, with 1000 MiB available."""

    def __init__(self, root):
        self.proc, self.groups = root / "proc", root / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "meminfo").write_text("MemTotal: 4096000 kB\nMemAvailable: 1024000 kB\nSwapTotal: 0 kB\n")
        self.groups.mkdir()

    def process_in(self, lines):
        (self.proc / "self" / "cgroup").write_text(lines)

    def group(self, path, **files):
        folder = self.groups / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / f"memory.{name}").write_text(f"{value}\n")

    def available(self):
        return available_memory(self.proc, self.groups) / MIB


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def v2(limit, used, cached=0):
    return {"max": limit, "current": used * MIB, "stat": f"anon 5\ninactive_file {cached * MIB}\nactive_file 7"}


def v1(limit, used, cached=0):
    stat = f"cache 5\ntotal_inactive_file {cached * MIB}"
    return {"limit_in_bytes": limit, "usage_in_bytes": used * MIB, "stat": stat}


def test_without_groups_it_is_the_machines(machine):
    assert machine.available() == 1000


def test_a_system_that_is_not_linux_tells_its_total(tmp_path):
    assert available_memory(tmp_path, tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("groups", "left"),
    [
        ({"": v2("max", 900)}, 1000),
        ({"": v2(600 * MIB, 100)}, 500),
        ({"": v2(600 * MIB, 100, cached=60)}, 560),
        ({"": v2(600 * MIB, 700)}, 0),
        ({"": v2(5000 * MIB, 100)}, 1000),
        ({"": {}, "user.slice": v2(300 * MIB, 100), "user.slice/job": v2("max", 50)}, 200),
        ({"": {}, "user.slice": v2(300 * MIB, 100), "user.slice/job": v2(250 * MIB, 90)}, 160),
        ({"": {"max": "nonsense", "current": "3"}}, 1000),
        ({"": {"max": 600 * MIB}}, 1000),
    ],
)
def test_the_least_that_any_group_around_it_has_left(machine, groups, left):
    machine.process_in("0::/user.slice/job\n")
    for path, files in groups.items():
        machine.group(path, **files)
    assert machine.available() == left


def test_the_first_version_of_groups_counts_too(machine):
    machine.process_in("12:cpu,cpuacct:/job\n4:memory:/job\n0::/\n")
    machine.group("memory", **v1(2**63 - 4096, 900))
    machine.group("memory/job", **v1(400 * MIB, 100, cached=20))
    assert machine.available() == 320


@pytest.mark.parametrize("lines", ["0::/docker/abc\n", "0::/../../init.scope\n"])
def test_a_container_sees_its_own_group_as_the_root(machine, lines):
    machine.process_in(lines)
    machine.group("", **v2(128 * MIB, 28))
    assert machine.available() == 100


def test_on_this_machine_there_is_some():
    assert available_memory() > 2**20
