"""The memory and the cores that Linux control groups, such as a container's, allow a process."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


class _Files(NamedTuple):
    """The files of a group, and the key in ``memory.stat`` of what the kernel can reclaim.

    The files of ``time`` hold the microseconds of computing that a period allows, and its own.
    """

    limit: str
    used: str
    reclaimable: str
    time: tuple[str, ...]


_FIRST = _Files(
    "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
    ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
)  # fmt: skip
_SECOND = _Files("memory.max", "memory.current", "inactive_file", ("cpu.max",))


def memory_left() -> float:
    """The bytes that this process may still allocate; infinite if no group has a limit.

    The minimum over its group and the enclosing groups, as far as they are visible. The kernel's
    file cache counts as free if it has not been used recently.
    """
    return min((_left(folder, files) for folder, files in _groups("memory")), default=math.inf)


def cores() -> float:
    """The computing time, in seconds a second, that this process may take; infinite if unlimited.

    The minimum over its group and the enclosing groups, as far as they are visible.
    """
    return min((_quota(folder, files) for folder, files in _groups("cpu")), default=math.inf)


def _groups(controller: str) -> Iterator[tuple[Path, _Files]]:
    """The folders of this process's groups that a controller may limit, the outermost first."""
    try:
        lines = _MEMBERSHIP.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return
    for number, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1):
        if number == "0" and not controllers:
            root, files = _ROOT, _SECOND
        elif controller in controllers.split(","):
            root, files = _ROOT / controller, _FIRST
        else:
            continue
        folder = root / path.lstrip("/")
        for each in (*reversed(folder.parents), folder):
            if each.is_relative_to(root):
                yield each, files


def _left(folder: Path, files: _Files) -> float:
    try:
        limit, used = (int((folder / name).read_text()) for name in (files.limit, files.used))
        lines = (folder / "memory.stat").read_text().splitlines()
        cached = {key: int(value) for key, value in map(str.split, lines)}
    except (OSError, ValueError):  # no limit ("max"), or not visible from within a container
        return math.inf
    return max(0, limit - used + cached.get(files.reclaimable, 0))


def _quota(folder: Path, files: _Files) -> float:
    try:
        texts = [(folder / name).read_text() for name in files.time]
        quota, period = map(int, " ".join(texts).split())
    except (OSError, ValueError):  # no limit ("max"), or not visible from within a container
        return math.inf
    return quota / period if quota > 0 else math.inf
