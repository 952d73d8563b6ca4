"""How the command prints: figures go to stdout, everything else to stderr."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress


class OutputError(Exception):
    """Output could not be written to stdout."""


def show(text: str, end: str = "\n") -> None:
    """Prints to stdout, if there is one, and flushes it.

    Raises:
      OutputError: it cannot be written.
    """
    try:
        print(text, end=end, flush=sys.stdout is not None)
    except OSError as error:
        raise OutputError(error.strerror) from error


def say(text: object) -> None:
    """Prints a notice to stderr."""
    _to_stderr(printable(f"cdmaa: {text}"))


def fail(error: object) -> int:
    """Prints an error to stderr on one line, and returns the matching exit status."""
    _to_stderr(printable(f"cdmaa: error: {' '.join(str(error).split())}"))
    return 1


def printable(line: str) -> str:
    """A line without what could command the terminal or begin a new line, which is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def print_any_name() -> None:
    """Makes names that the terminal's encoding lacks print in escaped form instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def ensure_stderr() -> None:
    """Opens the null device as stderr in a process that was started without one.

    Otherwise a file that is opened later could take its place.
    """
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(os.open(os.devnull, os.O_WRONLY), "w"))


def discard_output() -> None:
    """Drops stdout's buffered text, which Python would try to write again as the process ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _to_stderr(line: str) -> None:
    """Prints a line, above the progress bar if there is one.

    Or nowhere: work goes on if the disk of a log is full, or nobody reads the pipe any more.
    """
    with suppress(OSError):
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr)
        sys.stderr.flush()
