"""A process that holds one framework and answers commands: ``python -m benchmarks.worker SIDE``.

One JSON object a line: ``{"command": ..., "arguments": {...}}`` in, ``{"value": ...}`` or
``{"error": ...}`` out. Whatever else is printed goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any, TextIO

SIDES = {"jax": "benchmarks.jax_side", "torch": "benchmarks.torch_side"}
PREPARE = "prepare"


def answer(side: Any, line: str) -> dict[str, Any]:
    """The reply to one line; an exception becomes one line, with its trace separate if needed."""
    request = json.loads(line)
    try:
        return {"value": getattr(side, request["command"])(**request["arguments"])}
    except (ValueError, MemoryError, OSError) as error:  # messages that need no trace
        return {"error": one_line(error), "trace": None}
    except Exception as error:
        text = f"{type(error).__name__}: {one_line(error)}"
        return {"error": text, "trace": traceback.format_exc()}


def one_line(error: Exception) -> str:
    """The first line of an exception's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def serve(name: str, replies: TextIO) -> None:
    """Answers commands until the input ends."""
    try:
        side = _side(name)
    except ImportError as error:
        print(json.dumps({"error": f"{error}", "missing": error.name}), file=replies, flush=True)
        return
    print(json.dumps({"value": "ready"}), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(side, line)), file=replies, flush=True)


def _side(name: str) -> Any:
    if name == PREPARE:
        return importlib.import_module("benchmarks.work")
    return importlib.import_module(SIDES[name]).Side()


if __name__ == "__main__":
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.argv[1], pipe)
