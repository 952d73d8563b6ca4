"""Photos as the generators take them: 8-bit face crops, as in the paper's protocol.

These crops, which are files themselves, are attacked and measured, so that no resizing comes
between the change and a generator of the largest size.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from cdmaa_jax import disk
from cdmaa_jax.disk import FileError
from cdmaa_jax.experiments.records import read_record
from cdmaa_jax.images import files
from cdmaa_jax.images.files import Photo
from cdmaa_jax.images.labels import LabelTable, composed
from cdmaa_jax.images.squares import look, see, to_levels
from cdmaa_jax.photos.workers import Workers

CROPS = "crops"
"""The folder of a study's crops."""
INDEX = "crops.json"
_FORMAT = 1


@dataclass(frozen=True)
class Crop:
    """A photo's face crop, a PNG file.

    Attributes:
      file: the photo's name.
      sha256: of the photo's file.
      path: of the crop.
      crop_sha256: of its file.
      face: whether a face was found, or None where none was looked for.
      labels: the photo's attributes; None if unknown.
    """

    file: str
    sha256: str
    path: Path
    crop_sha256: str
    face: bool | None
    labels: tuple[int, ...] | None = None

    def entry(self) -> dict[str, Any]:
        """The crop's entry in results."""
        known = {} if self.labels is None else {"labels": list(self.labels)}
        return {
            "file": self.file,
            "sha256": self.sha256,
            "crop_sha256": self.crop_sha256,
            "face": self.face,
            **known,
        }


def make_crops(
    photos: Iterable[Path],
    count: int,
    folder: Path,
    size: int,
    aligned: bool = False,
    labels: LabelTable | None = None,
    made: Callable[[FileError | None], None] = lambda error: None,
    without: Collection[str] = (),
    max_pixels: int = files.MAX_PIXELS,
) -> list[Crop]:
    """The crops of the first ``count`` usable photos; crops made before are reused.

    Several are made at once, in threads, but no more than are still wanted. Of photos with the same
    content only the first is taken: counted twice, they would make intervals narrower than the
    photos allow.

    Args:
      photos: in the order in which they are wanted.
      count: how many crops to make at most.
      folder: where they go.
      size: their side, in pixels: the largest native size of the generators.
      aligned: whether the photos are aligned, so that their centre square is the crop.
      labels: of the photos.
      made: called for each photo, with the error of one that is skipped.
      without: SHA-256 of photos that are passed over.
      max_pixels: photos with more pixels than this are refused.

    Raises:
      FileError: the folder cannot be written into.
    """
    disk.make_folder(folder)
    known = _read_index(folder, size, aligned)
    crops: list[Crop] = []
    passed, remaining = set(without), iter(photos)
    under_way: deque[Future[Crop]] = deque()
    with Workers() as workers:
        while len(crops) < count:
            for photo in islice(remaining, count - len(crops) - len(under_way)):
                work = partial(_crop, photo, folder, size, aligned, known, labels, max_pixels)
                under_way.append(workers.start(work, photo))
            if not under_way:
                break
            try:
                crop = under_way.popleft().result()
            except FileError as error:
                if error.path == folder or error.path.parent == folder:
                    raise
                made(error)
                continue
            if crop.sha256 not in passed:
                passed.add(crop.sha256)
                crops.append(crop)
                made(None)
    _write_index(folder, size, aligned, known, crops)
    return crops


def crop_labels(crops: Sequence[Crop], table: LabelTable | None) -> LabelTable | None:
    """The labels of crops, by the crops' names."""
    if table is None:
        return None
    values = {composed(c.path.name): c.labels for c in crops if c.labels is not None}
    return LabelTable(table.path, table.attributes, values)


def _labels_of(photo: Path, labels: LabelTable | None) -> tuple[int, ...] | None:
    if labels is None:
        return None
    try:
        return labels.row(photo)
    except FileError as error:
        raise FileError(photo, error.what, "add one, or leave out --attributes") from error


def _crop(
    photo: Path,
    folder: Path,
    size: int,
    aligned: bool,
    known: Mapping[str, Crop],
    labels: LabelTable | None,
    max_pixels: int,
) -> Crop:
    """The crop of a photo, named after the photo's name and content."""
    row, sha256 = _labels_of(photo, labels), disk.sha256_of(photo)
    name = disk.file_name(photo.stem, f"-{sha256[:12]}.png")
    before = known.get(name)
    if before is not None and before.sha256 == sha256 and _is_whole(before):
        return dataclasses.replace(before, file=photo.name, labels=row)
    pixels = files.read_photo(photo, max_pixels).pixels
    where = look(pixels, aligned)[0]
    data = files.encode_png(Photo(to_levels(see(pixels, where.square, size))))
    disk.write_whole(folder / name, data)
    face = None if aligned else where.face is not None
    return Crop(photo.name, sha256, folder / name, hashlib.sha256(data).hexdigest(), face, row)


def _is_whole(crop: Crop) -> bool:
    try:
        return disk.sha256_of(crop.path) == crop.crop_sha256
    except FileError:
        return False


def _settings(size: int, aligned: bool) -> dict[str, Any]:
    return {"format": _FORMAT, "size": size, "aligned": aligned}


def _read_index(folder: Path, size: int, aligned: bool) -> dict[str, Crop]:
    """The crops that were made before with the same settings, by name."""
    found = read_record(folder / INDEX)
    if found.get("settings") != _settings(size, aligned):
        return {}
    return {name: Crop(path=folder / name, **entry) for name, entry in found["crops"].items()}


def _write_index(
    folder: Path, size: int, aligned: bool, known: Mapping[str, Crop], crops: Sequence[Crop]
) -> None:
    """Records these crops and those known before, for the next run."""
    everything = {**known, **{crop.path.name: crop for crop in crops}}
    entries = {name: crop.entry() for name, crop in everything.items()}
    index = {"settings": _settings(size, aligned), "crops": entries}
    text = json.dumps(index, indent=1, allow_nan=False)
    disk.write_whole(folder / INDEX, text.encode())
