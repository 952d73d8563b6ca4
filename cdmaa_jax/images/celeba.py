"""CelebA as it is distributed: the aligned photos, their attributes and their split.

``img_align_celeba/`` holds photos of 178 x 218 pixels with the face in a fixed place, so that no
search is needed. ``list_eval_partition.txt`` has a line for each, a file name and 0 (training),
1 (validation) or 2 (test); ``labels.read_labels`` reads ``list_attr_celeba.txt``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cdmaa_jax.disk import FileError, read_bytes

FOLDER = "img_align_celeba"
ATTRIBUTES = "list_attr_celeba.txt"
PARTITION = "list_eval_partition.txt"
TEST = 2
_SUBFOLDERS = (".", "Anno", "Eval")  # where the archive keeps its lists
_REMEDY = f"give the {PARTITION} that comes with CelebA"


def find_list(photos: Path, name: str) -> Path | None:
    """Finds a CelebA list in the photos' folder or the two above, or in Anno or Eval there.

    Args:
      photos: the folder of photos.
      name: ``ATTRIBUTES`` or ``PARTITION``.
    """
    folder = photos.resolve()
    places = (folder, *folder.parents[:2])
    candidates = [place / sub / name for place in places for sub in _SUBFOLDERS]
    return next((path for path in candidates if path.is_file()), None)


def read_partition(path: Path) -> dict[str, int]:
    """The split of each photo: file name to 0 (training), 1 (validation) or 2 (test).

    Raises:
      FileError: the file cannot be read or is something else; the message names the line.
    """
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise FileError(path, "it is not a text file", _REMEDY) from None
    splits: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            what = f"line {number} is not a file name and 0, 1 or 2"
            raise FileError(path, what, _REMEDY)
        splits[words[0]] = int(words[1])
    if not splits:
        raise FileError(path, "it is empty", _REMEDY)
    return splits


def choose_test_split(
    photos: Sequence[Path], splits: Mapping[str, int]
) -> tuple[list[Path], list[str]]:
    """The photos of the test split, and the split's file names that have no photo."""
    chosen = [photo for photo in photos if splits.get(photo.name) == TEST]
    there = {photo.name for photo in chosen}
    missing = [name for name, value in splits.items() if value == TEST and name not in there]
    return chosen, missing
