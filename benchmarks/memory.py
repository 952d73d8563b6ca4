"""The memory that a process has used."""

from __future__ import annotations

import sys

import psutil


def peak_bytes() -> int:
    """The largest resident memory of this process so far, without its children."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
