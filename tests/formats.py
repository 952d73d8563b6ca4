"""What ``docs/formats.md`` describes."""

import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "formats.md"


def described() -> set[str]:
    """All names of fields in the document."""
    code = re.findall(r"`([^`]+)`", DOCUMENT.read_text(encoding="utf-8"))
    return {name for name in code if name.isidentifier()}
