"""Threads that read, write and compare photos, several at once, as the memory allows.

Decoding, resizing, encoding and looking for faces leave Python's lock to others, so threads do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cdmaa_jax.attack.memory import free_host_memory
from cdmaa_jax.disk import too_large
from cdmaa_jax.images.files import count_pixels
from cdmaa_jax.processor import cores

T = TypeVar("T")
_BYTES_PER_PIXEL = 40
"""A generous upper estimate of the memory that work on a photo takes.

26 to 29 were measured, for photos of 0.3 to 9 megapixels.
"""
_SHARE = 0.5
"""The share of the free memory that all work on photos may take; one photo may always be had."""


class Workers:
    """Threads; a context that waits for them at its end.

    Args:
      threads: how many; None for as many as this process has cores.
      pixels: how many pixels the photos that are worked on at once may have in total; None for as
        many as half of the memory that is free now would hold. A larger photo is worked on alone.
    """

    def __init__(self, threads: int | None = None, pixels: int | None = None) -> None:
        self._threads = ThreadPoolExecutor(threads or cores(), thread_name_prefix="photos")
        self._room = _Room(pixels or int(_SHARE * free_host_memory() / _BYTES_PER_PIXEL))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the work that is under way, and gives up what has not begun."""
        self._threads.shutdown(cancel_futures=True)

    def start(self, work: Callable[[], T], *photos: Path) -> Future[T]:
        """Starts work on a photo and its copy, done as soon as there is a thread and room for it.

        Room is taken for the larger of them. The future raises a lack of memory as ``FileError``.
        """

        def work_in_room() -> T:
            with self._room.taken(max(map(count_pixels, photos))):
                try:
                    return work()
                except MemoryError as error:
                    raise too_large(photos[0]) from error

        return self._threads.submit(work_in_room)


class _Room:
    """A number of pixels that is shared out; one photo is always let in."""

    def __init__(self, pixels: int) -> None:
        self._pixels, self._taken = pixels, 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """A context with so many pixels taken, entered as soon as they are free."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + pixels <= self._pixels)
            self._taken += pixels
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()
