"""Progress bars, the lines that stand in for them in files, and the messages printed meanwhile."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cdmaa_jax.cli.output import fail, printable, say
from cdmaa_jax.cli.text import duration, outcomes_as_text

if TYPE_CHECKING:
    from tqdm import tqdm

    from cdmaa_jax.disk import FileError
    from cdmaa_jax.experiments.forecast import Work
    from cdmaa_jax.experiments.reproduce import Listener, Request
    from cdmaa_jax.photos import Outcome, Partly

LINE_EVERY = 60.0  # seconds between the lines that stand in for a bar


class _Lines:
    """Tells of progress line by line, one in a while, where a bar would not be seen."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def tell(self, bar: tqdm, done: int, total: int, what: str, more: str) -> None:
        """Prints a line if it is due and the bar is not shown, as in a file or a pipe."""
        now = time.monotonic()
        if bar.disable and now - self._last >= LINE_EVERY:
            self._last = now
            say(f"{what}: {done} of {total} photos{more and f', {more}'}")


def watched(begin: Callable[[Partly], Iterator[Outcome]], total: int, verb: str) -> list[Outcome]:
    """Iterates over outcomes with a progress bar, reports failures, and returns all outcomes.

    Args:
      begin: ``begin(partly)`` returns the outcomes; see ``protect_photos``.
      total: how many there are.
      verb: what is done to the photos.
    """
    from cdmaa_jax.disk import is_of_no_room

    start, worked, lines = time.monotonic(), 0, _Lines()
    seen: list[Outcome] = []
    end, faces_done, under_way = -math.inf, "", None

    def more() -> str:
        seconds = end - time.monotonic()
        return ", ".join(filter(None, (faces_done, _left(seconds if seconds > 0 else None))))

    def partly(photo: Path, done: int, faces: int) -> None:
        nonlocal faces_done, under_way
        faces_done, under_way = printable(f"{done} of {faces} faces of {photo.name}"), photo
        bar.set_postfix_str(more())
        lines.tell(bar, len(seen), total, verb, more())

    with _new_bar(total, verb) as bar:
        for outcome in begin(partly):
            seen.append(outcome)
            if outcome.source == under_way:
                faces_done = ""
            if outcome.error is not None and not is_of_no_room(outcome.error):  # it ends the run
                fail(outcome.error)
            for note in (outcome.entry or {}).get("notes", ()):
                say(f"{outcome.source}: {note}")
            # The outcomes of a batch come together, so a line is due at a batch's first: the end is
            # still that which the batches before it tell, and the first batch tells of none.
            lines.tell(bar, len(seen), total, verb, more())
            worked += outcome.status != "skipped"
            if worked:
                now = time.monotonic()
                end = now + (now - start) / worked * (total - len(seen))
            bar.update()
            bar.set_postfix_str(more())  # draws the bar; an update so soon after another does not
    say(outcomes_as_text(seen, time.monotonic() - start))
    return seen


class Watch:
    """The progress bars of ``cdmaa reproduce``, first for its photos, then for all its work."""

    def __init__(self, request: Request) -> None:
        photos = request.images * (2 if "related" in request.what else 1)
        self._bar = _new_bar(photos, "cropping")
        self._name, self._seen, self._total = "cropping", 0, photos
        self._lines = _Lines()
        self._start = time.monotonic()

    def listener(self) -> Listener:
        """The listener to which ``reproduce`` reports progress."""
        from cdmaa_jax.experiments.reproduce import Listener

        return Listener(say, self._photo, self._plan, self._begin, self._progress)

    def close(self) -> None:
        """Leaves the bar as it is and ends its line."""
        self._bar.close()

    def _photo(self, error: FileError | None) -> None:
        if error is None:
            self._bar.update()
            self._seen += 1
            self._lines.tell(self._bar, self._seen, self._total, self._name, "")
        else:
            fail(error)

    def _plan(self, works: list[Work]) -> None:
        from cdmaa_jax.experiments.forecast import Forecast

        self._bar.close()
        self._forecast = Forecast(works)
        self._done = {work.name: work.done for work in works}
        self._seen, self._total = 0, sum(work.total for work in works)
        self._bar = _new_bar(self._total, "measuring")
        if left := sum(work.done < work.total for work in works):
            say(
                f"columns to measure or tune: {left}; each kind is first compiled for this "
                "machine, which takes a while"
            )
        self._start = time.monotonic()

    def _begin(self, name: str) -> None:
        self._name = name
        self._bar.set_description(name)

    def _progress(self, count: int) -> None:
        """Counts pieces of the work as done; the first may have been done in an earlier run."""
        self._bar.update(count)
        self._seen += count
        before = min(count, self._done[self._name])
        self._done[self._name] -= before
        self._forecast.record(self._name, count - before)
        left = _left(self._forecast.seconds_left(time.monotonic() - self._start))
        if left:
            self._bar.set_postfix_str(left)
        self._lines.tell(self._bar, self._seen, self._total, self._name, left)


def _new_bar(total: int, what: str) -> tqdm:
    """A bar without an estimate of its own, which knows nothing of batches."""
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {elapsed}{postfix}"
    return tqdm(total=total, desc=what, file=sys.stderr, disable=None, bar_format=form)


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"about {duration(seconds)} left"
