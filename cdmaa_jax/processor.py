"""The processor: its cores, and features that decide which form of a computation is faster."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
from pathlib import Path

from cdmaa_jax import cgroups

_FACTS = Path("/proc/cpuinfo")


@functools.cache
def is_x86_without_avx512() -> bool:
    """Whether this is an x86 processor with 256-bit vectors; False if that cannot be determined.

    There Eigen, which XLA's CPU backend also includes, is faster overall at the matrix products of
    the four generators' convolutions than YNNPACK, the default. That was measured on an EPYC of
    family 25. On one of the same family with AVX-512, YNNPACK is as fast, and faster for AttGAN.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        facts = _FACTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line for line in facts.splitlines() if line.startswith("flags")), "")
    return "avx2" in flags.split() and "avx512f" not in flags.split()


def cores() -> int:
    """How many cores this process may use: as many as control groups allow it time for."""
    return max(1, math.ceil(min(_cores_to_run_on(), cgroups.cores())))


def limit_threads() -> None:
    """Has XLA compute in as many threads as this process may use cores.

    XLA knows nothing of control groups. If they allow less time than there are cores to run on,
    as in most containers, threads wait for each other: 64 in the time of two cores took a third
    longer than two. It is for the whole process, before JAX looks for devices; a number that the
    user gives (``NPROC``) is left alone.
    """
    if cores() < _cores_to_run_on():
        os.environ.setdefault("NPROC", str(cores()))


def _cores_to_run_on() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_devices() -> None:
    """Makes a JAX device of each core of a CPU, so that they can share batches.

    That takes them less time than to share every operation: by a sixth with two cores; more were
    not measured. It is for the whole process. Devices that JAX has found already, or that its own
    options ask for, are left alone.
    """
    import jax

    asked = jax.config.jax_num_cpu_devices >= 0  # type: ignore[attr-defined]
    if asked or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # JAX has found its devices
        jax.config.update("jax_num_cpu_devices", cores())
