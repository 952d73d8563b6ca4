"""Controls the C library's allocator, which by default keeps memory freed by large tasks."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
from collections.abc import Iterator
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # the parameters of glibc's mallopt
_SMALL, _LARGE = 2**20, 2**25  # bytes; ``_LARGE`` is the limit of glibc's own adjustment


def release_memory() -> None:
    """Returns freed memory to the system, which glibc's allocator does not do by itself."""
    gc.collect()
    if (trim := _function("malloc_trim")) is not None:
        trim(0)


@contextlib.contextmanager
def frugal() -> Iterator[None]:
    """Returns memory freed in this context, by any thread, to the system at once.

    For reading files, whose threads would otherwise each keep the memory they used. It slows code
    that repeatedly allocates large blocks, as compiled programs do when they run. Afterwards
    glibc's thresholds are fixed at the values that its own adjustment would have reached.
    """
    adjust = _function("mallopt")
    if adjust is not None:
        adjust(_TRIM_THRESHOLD, _SMALL)
        adjust(_MMAP_THRESHOLD, _SMALL)
    try:
        yield
    finally:
        release_memory()
        if adjust is not None:
            adjust(_MMAP_THRESHOLD, _LARGE)
            adjust(_TRIM_THRESHOLD, 2 * _LARGE)


@functools.cache
def _function(name: str) -> Any:
    """A function of glibc; None if the C library is another."""
    library = ctypes.CDLL(None) if os.name == "posix" else None
    return getattr(library, name) if hasattr(library, "gnu_get_libc_version") else None
