"""A run of ``cdmaa``, from its arguments to its exit status."""

from __future__ import annotations

import argparse
import logging
import os
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager

from cdmaa_jax import processor
from cdmaa_jax.cli import commands
from cdmaa_jax.cli.cache import keep_none, keep_programs
from cdmaa_jax.cli.interrupts import interruptible
from cdmaa_jax.cli.output import (
    OutputError,
    discard_output,
    ensure_stderr,
    fail,
    print_any_name,
    say,
    show,
)
from cdmaa_jax.cli.parser import make_parser

_UNUSED_DEVICE = ("CUDA backend failed to initialize", "GPU may be present", "TPU may be present")
"""Words of JAX's warnings of a device that it does without; a CPU takes many times as long."""
_OF_MEMORY = ("chunk", "batch_size")
"""Options that memory depends on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; ``argv`` defaults to the process's arguments. Returns the exit status."""
    ensure_stderr()
    print_any_name()
    try:
        try:
            args = make_parser().parse_args(argv)
            return interruptible(lambda: _run(args))
        finally:
            show("", end="")  # at exit it would be too late to report an error
    except OutputError as error:
        discard_output()
        if isinstance(error.__cause__, BrokenPipeError):  # the reader closed the pipe
            return 1
        return fail(f"the output cannot be written: {error}")


def _run(args: argparse.Namespace) -> int:
    """Runs a command; an error that a user can fix is reported on one line."""
    from cdmaa_jax.disk import FileError

    _quiet()
    processor.limit_threads()
    try:
        if args.run in (commands.protect, commands.reproduce):
            processor.make_devices()
        with _use_cache(args):
            _check_devices()
            return args.run(args)
    except (FileError, ValueError, OSError) as error:  # options and checkpoints raise ValueError
        return fail(_with_options(error, args) if type(error) is ValueError else error)
    except ImportError as error:
        return fail(f"a library does not work: {error}")
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        smaller = [_option(name) for name in _OF_MEMORY if hasattr(args, name)]
        remedy = f"give a smaller {' or '.join(smaller)}" if smaller else "close other programs"
        return fail(f"the device's memory is full; {remedy}")


def _with_options(error: ValueError, args: argparse.Namespace) -> str:
    """An error's message, with options as they are typed in place of the library's names."""
    text = str(error)
    for name in vars(args):
        if "_" in name:
            text = re.sub(rf"\b{name}\b", _option(name), text)
    return text


def _option(name: str) -> str:
    """The option, as it is typed, of an argument's name."""
    return f"--{name.replace('_', '-')}"


def _quiet() -> None:
    """Keeps the libraries' own notices from a user's terminal, but for those of unused devices.

    The package's notices are told of as the command's own.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")  # advice to programmers
    warnings.showwarning = lambda message, *_: say(message)
    ours = logging.getLogger("cdmaa_jax")
    if not any(isinstance(handler, _Said) for handler in ours.handlers):
        ours.addHandler(_Said())
    logging.basicConfig(handlers=[logging.NullHandler()])  # else Orbax adds one that prints
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["MPLBACKEND"] = "agg"  # a notebook's need not be installed, nor is it of use
    for name in ("absl", "jax"):
        logging.getLogger(name).setLevel(logging.ERROR)
    of_devices = logging.getLogger("jax._src.xla_bridge")
    of_devices.setLevel(logging.WARNING)
    of_devices.addFilter(_say_what_is_unused)


class _Said(logging.Handler):
    """Prints what is logged as the command's notices."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def _say_what_is_unused(record: logging.LogRecord) -> bool:
    """Prints a warning of an unused device on one line; of the rest, only errors are logged."""
    text = record.getMessage()
    if any(words in text for words in _UNUSED_DEVICE):
        say(f"JAX: {' '.join(text.split())}")
        return False
    return record.levelno >= logging.ERROR


def _use_cache(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Keeps compiled programs between runs, if the command compiles any and is allowed to."""
    return keep_none() if args.run is commands.info or args.no_cache else keep_programs()


def _check_devices() -> None:
    """Checks that JAX finds a device to compute on.

    Raises:
      ValueError: it does not find the one that it was told to use, or none at all.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError if its plugin is missing
        asked = os.environ.get("JAX_PLATFORMS")
        why = f"JAX_PLATFORMS is {asked!r}; unset it, or install that" if asked else str(error)
        raise ValueError(f"JAX finds no device to compute on: {why}") from error


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
