"""What is read from control groups: both versions, and what containers hide."""

import math

import pytest

from cdmaa_jax import cgroups, processor
from cdmaa_jax.attack import memory
from tests.attack.test_memory import CPU

GIB = 2**30


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """Sets the groups that the process is in, and creates groups."""
    membership, root = tmp_path / "membership", tmp_path / "cgroup"
    monkeypatch.setattr(cgroups, "_MEMBERSHIP", membership)
    monkeypatch.setattr(cgroups, "_ROOT", root)

    class Linux:
        def join(self, *lines):
            membership.write_text("".join(f"{line}\n" for line in lines))

        def second(self, path, limit, used, cached=0):
            self._make(root / path, ("memory.max", limit), ("memory.current", used))
            (root / path / "memory.stat").write_text(f"anon 7\ninactive_file {cached}\n")

        def first(self, path, limit, used, cached=0):
            folder = root / "memory" / path
            self._make(folder, ("memory.limit_in_bytes", limit), ("memory.usage_in_bytes", used))
            (folder / "memory.stat").write_text(f"cache 7\ntotal_inactive_file {cached}\n")

        def second_of_time(self, path, content):
            self._make(root / path, ("cpu.max", content))

        def first_of_time(self, path, quota, period):
            names = ("cpu.cfs_quota_us", quota), ("cpu.cfs_period_us", period)
            self._make(root / "cpu" / path, *names)

        def _make(self, folder, *files):
            folder.mkdir(parents=True, exist_ok=True)
            for name, value in files:
                (folder / name).write_text(f"{value}\n")

    return Linux()


def test_a_container_sees_its_own_group_as_the_root(linux):
    linux.join("0::/")
    linux.second("", 4 * GIB, 3 * GIB, cached=GIB // 2)
    assert cgroups.memory_left() == 1.5 * GIB


def test_the_tightest_of_the_groups_around_counts(linux):
    linux.join("0::/user.slice/session.scope")
    linux.second("user.slice", 4 * GIB, 3 * GIB)
    linux.second("user.slice/session.scope", "max", GIB)
    assert cgroups.memory_left() == GIB
    linux.second("user.slice/session.scope", GIB, GIB // 2)
    assert cgroups.memory_left() == GIB // 2


def test_the_first_version(linux):
    linux.join("5:cpu:/job", "4:memory:/job", "0::/")
    linux.first("", 2**63 - 4096, 9 * GIB)
    linux.first("job", 2 * GIB, GIB, cached=GIB // 4)
    assert cgroups.memory_left() == 1.25 * GIB


def test_a_path_of_the_host_that_a_container_lacks(linux):
    linux.join("4:memory:/docker/0123")
    linux.first("", 2 * GIB, GIB)
    assert cgroups.memory_left() == GIB


def test_more_than_the_limit_leaves_nothing(linux):
    linux.join("0::/")
    linux.second("", GIB, 2 * GIB)
    assert cgroups.memory_left() == 0


def test_what_cannot_be_read_limits_nothing(linux, tmp_path):
    assert cgroups.memory_left() == math.inf  # no such file: not Linux
    linux.join("nonsense", "0::/", "3:cpu:/")
    assert cgroups.memory_left() == math.inf
    linux.second("", "max", GIB)
    assert cgroups.memory_left() == math.inf
    linux.second("", "a few", GIB)
    assert cgroups.memory_left() == math.inf


def test_a_batch_is_planned_for_what_the_container_has(linux):
    linux.join("0::/")
    linux.second("", GIB, GIB - 12345)
    assert memory.free_memory(CPU) == 12345
    linux.second("", 2**60, 0)
    assert memory.free_memory(CPU) < 2**50


@pytest.mark.parametrize(
    ("content", "expected"),
    [("150000 100000", 1.5), ("max 100000", math.inf), ("50000", math.inf), ("", math.inf)],
)
def test_the_time_of_the_second_version(content, expected, linux):
    linux.join("0::/")
    linux.second_of_time("", content)
    assert cgroups.cores() == expected


@pytest.mark.parametrize(("quota", "expected"), [(400000, 4), (-1, math.inf)])
def test_the_time_of_the_first_version(quota, expected, linux):
    linux.join("5:cpu,cpuacct:/job", "4:memory:/", "0::/")
    linux.first_of_time("", -1, 100000)
    linux.first_of_time("job", quota, 100000)
    assert cgroups.cores() == expected


def test_the_least_time_of_the_groups_around_counts(linux):
    linux.join("0::/pod/container")
    linux.second_of_time("pod", "300000 100000")
    linux.second_of_time("pod/container", "800000 100000")
    assert cgroups.cores() == 3


@pytest.mark.parametrize(
    ("quota", "used"), [("10000 100000", 1), ("250000 100000", 3), ("max 100000", 4)]
)
def test_no_more_cores_are_used_than_there_is_time_for(quota, used, linux, monkeypatch):
    monkeypatch.setattr(processor, "_cores_to_run_on", lambda: 4)
    linux.join("0::/")
    linux.second_of_time("", quota)
    assert processor.cores() == used
