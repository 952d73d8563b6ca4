"""Facts that a trace can know about the program that it becomes part of."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_once = contextvars.ContextVar("once", default=False)


@contextlib.contextmanager
def once(holds: bool = True) -> Iterator[None]:
    """Prefers fast compilation to fast execution in code traced within.

    That code runs once, or too rarely to matter. Attacks run within count as traced there.
    """
    token = _once.set(holds or is_once())
    try:
        yield
    finally:
        _once.reset(token)


def is_once() -> bool:
    """Whether the code being traced is within ``once``."""
    return _once.get()
