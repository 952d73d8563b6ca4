"""``python -m converters`` and ``cdmaa-convert``."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    with _ending_at_once():
        from converters import command  # imports JAX and Flax, over a second
    return command.main(argv)


@contextmanager
def _ending_at_once() -> Iterator[None]:
    """Makes an interrupt end the process: a module's import may swallow an exception."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
