"""Signals that end the process at once, with nothing half-written."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from cdmaa_jax.cli.output import fail

_REQUESTS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def interruptible(work: Callable[[], int]) -> int:
    """Runs ``work`` so that an interrupt ends the process at once, with nothing half-written.

    JAX returns to Python only when a whole batch is done, so the work runs in its own thread while
    this one waits for signals.
    """
    result: list[int | BaseException] = []

    def target() -> None:
        try:
            result.append(work())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=target, daemon=True)
    try:
        with _terminable():
            thread.start()
            while thread.is_alive():
                thread.join(0.5)
    except KeyboardInterrupt as interrupt:
        _abandon(interrupt)
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def _abandon(interrupt: KeyboardInterrupt) -> NoReturn:
    """Ends the process, but not while a file is being moved into place."""
    number = interrupt.number if isinstance(interrupt, _Terminated) else signal.SIGINT
    for other in (signal.SIGINT, *_REQUESTS):  # a second signal must not end it sooner
        signal.signal(other, signal.SIG_IGN)
    from cdmaa_jax import disk

    with disk.LOCK:
        try:
            disk.discard_unfinished()
            sys.stderr.write("\n")
            fail("interrupted; if run again, protect and reproduce go on where they stopped")
        finally:  # even if the message cannot be printed
            os._exit(128 + number)


@contextmanager
def _terminable() -> Iterator[None]:
    """A context in which termination requests and hang-ups count as interrupts too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: object) -> NoReturn:
        raise _Terminated(number)

    # Signals that are already ignored, as under nohup, stay ignored.
    requests = [n for n in _REQUESTS if signal.getsignal(n) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, terminate) for number in requests}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Terminated(KeyboardInterrupt):
    """A signal with this number asked the process to end."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number
