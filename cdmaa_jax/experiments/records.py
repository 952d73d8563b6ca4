"""JSON files that an earlier run left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cdmaa_jax.images import files
from cdmaa_jax.images.files import PhotoError


def read_record(path: Path) -> dict[str, Any]:
    """What an earlier run left in a file; nothing where it is absent or damaged.

    So whatever it told of is made again.
    """
    try:
        found = json.loads(files.read_bytes(path))
    except (PhotoError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
