"""The parent's side of the worker processes: a framework in each, one at work at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class BenchmarkError(RuntimeError):
    """A benchmark cannot continue; the message is one line."""


class Worker:
    """A worker process; ``worker("command", name=value)`` waits for its answer.

    It starts importing its framework at once, before its first command.

    Args:
      side: "jax", "torch" or "prepare".
      threads: how many cores it may use; all if None.
      environment: additional environment variables.

    Raises:
      BenchmarkError: it does not start, a command fails, or it dies.
    """

    def __init__(
        self, side: str, threads: int | None = None, environment: Mapping[str, str] | None = None
    ):
        self._side = side
        command = [sys.executable, "-m", "benchmarks.worker", side]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment(environment or {}),
            preexec_fn=(lambda: limit_cores(threads)) if threads else None,
        )
        self._ready = False

    def __call__(self, command: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        if not self._ready:
            self._ready = bool(self._read())
        request = json.dumps({"command": command, "arguments": arguments})
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchmarkError(self._ended()) from None
        return self._read()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(self._ended())
        reply = json.loads(line)
        if "missing" in reply:
            raise BenchmarkError(
                f"the {self._side} side needs {reply['missing']}: pip install '.[benchmark]'"
            )
        if "error" in reply:
            if reply["trace"]:
                print(reply["trace"], file=sys.stderr)
            raise BenchmarkError(f"the {self._side} side failed: {reply['error']}")
        return reply["value"]

    def _ended(self) -> str:
        status = self._process.wait()
        reason = "killed, probably out of memory" if status == -9 else f"status {status}"
        return f"the {self._side} process ended ({reason})"

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        share = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # two frameworks share a GPU's memory
        # XLA does not read these, so they would slow only PyTorch; --threads is for both.
        unfair = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        inherited = {name: value for name, value in os.environ.items() if name not in unfair}
        return {**inherited, **share, "PYTHONPATH": path, **more}


def limit_cores(threads: int) -> None:
    """Limits this process to a number of cores, from which both frameworks set their threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
