"""What the processor can do, of what decides which form of a computation is the faster one."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

_FACTS = Path("/proc/cpuinfo")


@functools.cache
def is_x86_without_avx512() -> bool:
    """Whether this is an x86 processor whose vectors have 256 bits; False where none can tell.

    There Eigen, which XLA's CPU backend also has, multiplies the matrices of the four generators'
    convolutions faster, taken together, than YNNPACK, its default. That was measured on an EPYC of
    family 25; with AVX-512 it was not, nor is it done.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        facts = _FACTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line for line in facts.splitlines() if line.startswith("flags")), "")
    return "avx2" in flags.split() and "avx512f" not in flags.split()
