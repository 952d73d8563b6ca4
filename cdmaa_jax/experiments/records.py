"""JSON files left by an earlier run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cdmaa_jax import disk
from cdmaa_jax.disk import FileError


def read_record(path: Path) -> dict[str, Any]:
    """The record that an earlier run left in a file; empty if the file is absent or damaged.

    What it recorded is then made again.
    """
    try:
        found = json.loads(disk.read_bytes(path))
    except (FileError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
