"""The photos to measure, and what is known about them: CelebA's, or those of any folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdmaa_jax import photos
from cdmaa_jax.disk import FileError
from cdmaa_jax.generators.ensembles import Ensemble
from cdmaa_jax.images import celeba, files
from cdmaa_jax.images.labels import LabelTable, read_labels


@dataclass(frozen=True)
class Source:
    """Photos to choose from.

    Attributes:
      photos: by name.
      aligned: whether their face is in the middle, so that none is looked for.
      labels: of them; None if unknown.
      notices: what people should know of the choice.
    """

    photos: list[Path]
    aligned: bool
    labels: LabelTable | None
    notices: tuple[str, ...] = ()


def find_source(
    folder: Path,
    ensemble: Ensemble,
    attributes: Path | None = None,
    partition: Path | None = None,
    aligned: bool = False,
) -> Source:
    """The photos of a folder; for CelebA, if its split is available, the test photos.

    Args:
      folder: the photos.
      ensemble: the generators, which need certain attributes.
      attributes: labels of the photos; None for CelebA's, where they are found, or none.
      partition: CelebA's split; None where it is found beside the photos, or for no split.
      aligned: whether the photos are aligned; CelebA's are.

    Raises:
      FileError: the folder or a list cannot be read, holds no picture, or misses attributes.
    """
    found = pictures = files.pictures_in(folder)
    notices: list[str] = []
    path = partition or celeba.find_list(folder, celeba.PARTITION)
    splits = None if path is None else celeba.read_partition(path)
    if splits and partition is None and not any(photo.name in splits for photo in found):
        notices.append(_of_others(path))
        splits = None
    if splits is not None:
        found = _test_photos(folder, found, path, splits, notices)
    is_celeba = splits is not None or folder.resolve().name == celeba.FOLDER
    labels = _labels(folder, pictures, ensemble, attributes, notices)
    return Source(found, aligned or is_celeba, labels, tuple(notices))


def _of_others(path: Path | None) -> str:
    return f"going on without {path}, which has none of the photos"


def _test_photos(
    folder: Path,
    found: Sequence[Path],
    partition: Path | None,
    splits: Mapping[str, int],
    notices: list[str],
) -> list[Path]:
    chosen, missing = celeba.choose_test_split(found, splits)
    if not chosen:
        what = f"none of its photos is in the test split of {partition}"
        raise FileError(
            folder, what, "give the folder of the photos that it lists, or another --partition"
        )
    notices.append(f"photos of the test split of {partition}: {len(chosen)}")
    if missing:
        notices.append(
            f"photos of that split that are not in {folder}: {len(missing)}, {missing[0]} for "
            "example"
        )
    return chosen


def _labels(
    folder: Path,
    found: Sequence[Path],
    ensemble: Ensemble,
    attributes: Path | None,
    notices: list[str],
) -> LabelTable | None:
    """The requested labels, or those beside the photos if they fit the generators."""
    path = attributes or celeba.find_list(folder, celeba.ATTRIBUTES)
    if path is None:
        return None
    table = read_labels(path)
    if not any(table.has(photo) for photo in found):
        if attributes is not None:
            what = f"it has no line for any photo in {folder}"
            raise FileError(
                path, what, "give the labels of these photos, or leave out --attributes"
            )
        notices.append(_of_others(path))
        return None
    try:
        photos.check_labels(table, ensemble)
    except FileError as error:
        if attributes is not None:
            raise FileError(path, error.what, "add them, or leave out --attributes") from error
        notices.append(f"going on without labels: {path}: {error.what}")
        return None
    notices.append(f"labels are those of {path}")
    return table
