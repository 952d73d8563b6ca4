"""Helpers of this folder's commands: errors on one line, and numbers as option values."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from tqdm import tqdm

from cdmaa_jax.attack.keys import SEEDS, check_seed
from cdmaa_jax.disk import FileError
from cdmaa_jax.generators.checkpoint import CheckpointError
from cdmaa_jax.generators.ensembles import EnsembleError


def run(command: str, work: Callable[[], int]) -> int:
    """The exit status of ``work``; an error that a user can fix gives one line on stderr, and 1.

    An interrupt gives one line, too, and 130; a request to end, 143.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return work()
    except (FileError, CheckpointError, EnsembleError, OSError) as error:
        return fail(command, error)
    except KeyboardInterrupt as stop:
        fail(command, "interrupted")
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt(number)


def fail(command: str, error: object) -> int:
    """Prints an error as one line, above a progress bar if there is one; returns 1."""
    tqdm.write(f"{command}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


def positive(text: str) -> int:
    """Parses an option's value as a whole number above zero."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return number


def seed(text: str) -> int:
    """Parses an option's value as a seed that JAX takes whole."""
    try:
        check_seed(number := int(text))
    except ValueError:
        what = f"{text!r} is not a whole number from 0 to {SEEDS - 1}"
        raise argparse.ArgumentTypeError(what) from None
    return number


def minutes(text: str) -> float:
    """Parses an option's value as a duration above zero."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")
    return number
