"""JSON files that an earlier run left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cdmaa_jax import disk
from cdmaa_jax.disk import FileError


def read_record(path: Path) -> dict[str, Any]:
    """What an earlier run left in a file; nothing where it is absent or damaged.

    So whatever it told of is made again.
    """
    try:
        found = json.loads(disk.read_bytes(path))
    except (FileError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
