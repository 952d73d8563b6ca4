"""Attribute labels of photos, from a CSV file or CelebA's ``list_attr_celeba.txt``."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cdmaa_jax.disk import FileError, read_bytes
from cdmaa_jax.types import Labels

_VALUES = {"1": 1, "0": 0, "-1": 0, "1.0": 1, "0.0": 0, "-1.0": 0, "true": 1, "false": 0}
_COUNT = re.compile("[0-9]{1,9}")
_REMEDY = "see the README for the two formats of label files"


def read_labels(path: Path) -> LabelTable:
    """Reads labels, 0 or -1 for absent and 1 for present.

    Args:
      path: a CSV file with a column ``file`` and a column for each attribute, or CelebA's
        ``list_attr_celeba.txt``: the number of images, the attributes' names, then a line of a file
        name and its labels for each image.

    Raises:
      FileError: the file cannot be read or is neither; the message names the line.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FileError(path, "it is not a text file", _REMEDY) from None
    lines = text.splitlines()
    if lines and _COUNT.fullmatch(lines[0].strip()):
        return _read_celeba(path, lines)
    return _read_csv(path, text)


def composed(name: str) -> str:
    """A name with composed accents (NFC), which some systems decompose."""
    return unicodedata.normalize("NFC", name)


def _read_celeba(path: Path, lines: Sequence[str]) -> LabelTable:
    attributes = lines[1].split() if len(lines) > 1 else []
    rows = [(number, line.split()) for number, line in enumerate(lines[2:], 3) if line.strip()]
    if len(rows) != int(lines[0]):
        raise FileError(
            path, f"line 1 gives the number of images as {int(lines[0])}, not {len(rows)}", _REMEDY
        )
    return _table(path, attributes, rows)


def _read_csv(path: Path, text: str) -> LabelTable:
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        lines = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise FileError(path, f"line {reader.line_num}: {error}", _REMEDY) from None
    header = [name.strip() for name in lines[0][1]] if lines else []
    if "file" not in header:
        raise FileError(path, "its first line has no column named 'file'", _REMEDY)
    at = header.index("file")
    rows = [(number, row) for number, row in lines[1:] if any(cell.strip() for cell in row)]
    for number, row in rows:
        if len(row) <= at:
            raise FileError(path, f"line {number} ends before its column 'file'", _REMEDY)
        row.insert(0, row.pop(at))
    return _table(path, [name for name in header if name != "file"], rows)


def _table(
    path: Path, attributes: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]]
) -> LabelTable:
    """A table of rows (line number, [file, label, ...])."""
    if not attributes or not all(attributes) or len(set(attributes)) != len(attributes):
        raise FileError(path, "the attributes' names are missing or not unique", _REMEDY)
    values: dict[str, tuple[int, ...]] = {}
    for number, (file, *labels) in rows:
        name = composed(file.strip().replace("\\", "/").rsplit("/", 1)[-1])
        if len(labels) != len(attributes):
            what = f"line {number}: labels: {len(labels)}, attributes: {len(attributes)}"
            raise FileError(path, what, _REMEDY)
        if name in values:
            raise FileError(path, f"line {number} gives {name} a second time", _REMEDY)
        values[name] = tuple(_value(path, number, label) for label in labels)
    return LabelTable(path, tuple(attributes), values)


def _value(path: Path, number: int, label: str) -> int:
    try:
        return _VALUES[label.strip().lower()]
    except KeyError:
        what = f"line {number} has the label {label.strip()!r}; a label is 0, 1 or -1"
        raise FileError(path, what, _REMEDY) from None


@dataclass(frozen=True)
class LabelTable:
    """Labels of many photos.

    Attributes:
      path: the file they were read from.
      attributes: names, in the file's order.
      values: file name, without folders, its accents composed, to one 0 or 1 for each attribute.
    """

    path: Path
    attributes: tuple[str, ...]
    values: Mapping[str, tuple[int, ...]] = field(repr=False)

    def has(self, file: Path) -> bool:
        """Whether a photo has labels, found by its name without folders."""
        return composed(file.name) in self.values

    def row(self, file: Path) -> tuple[int, ...]:
        """The labels of one photo, found by its name without folders.

        Raises:
          FileError: there are none.
        """
        name = composed(file.name)
        if name not in self.values:
            raise FileError(
                file, f"{self.path} has no line for it", "add one, or leave out --labels"
            )
        return self.values[name]

    def labels(self, files: Sequence[Path]) -> Labels:
        """The labels of B photos: attribute name to an int array ``[B]`` of 0 and 1.

        Raises:
          FileError: a photo has none.
        """
        rows = np.array([self.row(file) for file in files], np.int32)
        rows = rows.reshape(len(files), len(self.attributes))
        return {name: rows[:, i] for i, name in enumerate(self.attributes)}
