"""What a trace may know of the program that it becomes part of."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_once = contextvars.ContextVar("once", default=False)


@contextlib.contextmanager
def once(holds: bool = True) -> Iterator[None]:
    """What is traced within is computed once: it had better be quick to compile than to compute.

    Or so few times that it comes to the same. Attacks that are run within count as traced there.
    """
    token = _once.set(holds or is_once())
    try:
        yield
    finally:
        _once.reset(token)


def is_once() -> bool:
    """Whether what is being traced is computed once."""
    return _once.get()
