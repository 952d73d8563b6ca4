"""The command in its own process, and its error messages."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def errors(text):
    return [line for line in text.splitlines() if line.startswith("cdmaa: error: ")]


def start(*arguments, **options):
    """Starts the command."""
    return subprocess.Popen(
        [sys.executable, "-m", "cdmaa_jax", *map(str, arguments)],
        cwd=ROOT, text=True, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )  # fmt: skip


def buffered():
    """The environment, with output written only when the buffer is full."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
