"""The machine that a measurement was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from cdmaa_jax.processor import cores


def machine() -> dict[str, Any]:
    """Processor, usable cores, memory, system and Python."""
    return {
        "processor": processor(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def processor() -> str:
    """The processor's name as the system gives it, and its widest vector instructions."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    name = fields.get("model name", platform.machine())
    flags = fields.get("flags", "").split()
    wide = [v for f, v in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if f in flags]
    return f"{name}, {wide[0]}" if wide else name


def memory_bytes() -> int | None:
    """The machine's memory; None if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
