"""The memory that a process has used."""

from __future__ import annotations

import resource
import sys


def peak_bytes() -> int:
    """The largest resident memory of this process so far; its children are not counted."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
