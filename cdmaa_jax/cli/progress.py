"""Progress bars, and the messages printed while they are shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cdmaa_jax.cli.output import fail, say
from cdmaa_jax.cli.text import duration, outcomes_as_text

if TYPE_CHECKING:
    from tqdm import tqdm

    from cdmaa_jax.disk import FileError
    from cdmaa_jax.experiments.forecast import Work
    from cdmaa_jax.experiments.reproduce import Listener, Request
    from cdmaa_jax.photos import Outcome


def watched(outcomes: Iterator[Outcome], total: int, verb: str) -> list[Outcome]:
    """Iterates over outcomes with a progress bar, reports failures, and returns all outcomes."""
    from tqdm import tqdm

    start, seen = time.monotonic(), []
    with tqdm(total=total, desc=verb, unit="photo", file=sys.stderr, disable=None) as bar:
        for outcome in outcomes:
            seen.append(outcome)
            bar.update()
            if outcome.error is not None:
                fail(outcome.error)
            for note in (outcome.entry or {}).get("notes", ()):
                say(f"{outcome.source}: {note}")
    say(outcomes_as_text(seen, time.monotonic() - start))
    return seen


class Watch:
    """The progress bars of ``cdmaa reproduce``, first for its photos, then for all its work."""

    def __init__(self, request: Request) -> None:
        photos = request.images * (2 if "related" in request.what else 1)
        self._bar = self._new_bar(photos, "cropping", "photo")
        self._name = ""
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
        else:
            fail(error)

    def _plan(self, works: list[Work]) -> None:
        from cdmaa_jax.experiments.forecast import Forecast

        self._bar.close()
        self._forecast = Forecast(works)
        self._done = {work.name: work.done for work in works}
        total = sum(work.total for work in works)
        self._bar = self._new_bar(
            total, "measuring", "photo",
            "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {elapsed}{postfix}",
        )  # fmt: skip
        if left := sum(work.done < work.total for work in works):
            say(
                f"{left} columns to measure or tune; each kind is first compiled for this machine, "
                "which takes a while"
            )
        self._start = time.monotonic()

    def _begin(self, name: str) -> None:
        self._name = name
        self._bar.set_description(name)

    def _progress(self, count: int) -> None:
        """Counts pieces of the work as done; the first may have been done in an earlier run."""
        self._bar.update(count)
        before = min(count, self._done[self._name])
        self._done[self._name] -= before
        self._forecast.record(self._name, count - before)
        left = self._forecast.seconds_left(time.monotonic() - self._start)
        if left is not None:
            self._bar.set_postfix_str(f"about {duration(left)} left")

    @staticmethod
    def _new_bar(total: int, what: str, unit: str, form: str | None = None) -> tqdm:
        from tqdm import tqdm

        return tqdm(
            total=total, desc=what, unit=unit, file=sys.stderr, disable=None, bar_format=form
        )
