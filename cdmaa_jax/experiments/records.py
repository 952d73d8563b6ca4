"""Files left by an earlier run: JSON, and arrays."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

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


def read_arrays(path: Path) -> Any:
    """The array, or the arrays by name, that an earlier run saved; None if absent or damaged."""
    try:
        found = np.load(io.BytesIO(disk.read_bytes(path)))
        return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found
    except (FileError, ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error):
        return None
