"""Work that is done ahead, in parallel to the work that will need it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator


@contextlib.contextmanager
def working_ahead(tasks: Iterable[Callable[[], None]]) -> Iterator[None]:
    """Runs tasks one after the other in another thread; on exit, waits for the one in progress.

    Failures are ignored: whoever needs the result will meet the same error in turn.
    """
    left = threading.Event()

    def work() -> None:
        for task in tasks:
            if left.is_set():
                return
            with contextlib.suppress(Exception):
                task()

    thread = threading.Thread(target=work, name="working ahead")
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
