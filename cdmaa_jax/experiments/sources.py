"""The photos to measure, and what is known about them: CelebA's, or those of any folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cdmaa_jax import photos
from cdmaa_jax.attack.config import check_positive
from cdmaa_jax.disk import FileError
from cdmaa_jax.experiments.columns import STEPS
from cdmaa_jax.experiments.crops import CROPS, make_crops
from cdmaa_jax.experiments.runner import Study, batch_for_device
from cdmaa_jax.generators.ensembles import Ensemble
from cdmaa_jax.images import celeba, files
from cdmaa_jax.images.labels import LabelTable, read_labels

PathLike: TypeAlias = str | os.PathLike[str]


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


def make_study(
    folder: PathLike,
    ensemble: Ensemble,
    out: PathLike,
    images: int = 100,
    *,
    tuning: int = 0,
    seed: int = 0,
    steps: int = STEPS,
    batch_size: int | None = None,
    attributes: PathLike | None = None,
    partition: PathLike | None = None,
    aligned: bool = False,
    say: Callable[[str], None] = lambda notice: None,
) -> Study:
    """A study of the first usable photos of a folder; makes their crops.

    Args:
      folder: the photos; of CelebA's, the test photos, as in ``find_source``.
      ensemble: the generators.
      out: the folder of the study, to which the crops and all figures go.
      images: how many photos at most, the first by name.
      tuning: how many of the photos after these are for methods that are tuned.
      seed: of the attacks' start and of the intervals.
      steps: T of most columns, by which a brief study is told: its attacks are compiled in pieces.
      batch_size: the most photos that are attacked at once; None for what suits the device.
      attributes: as in ``find_source``.
      partition: as in ``find_source``.
      aligned: whether the photos are face crops already, so that no face is looked for.
      say: called with what people should know: of labels, of CelebA's split, of unusable photos.

    Raises:
      FileError: as ``find_source``; no photo can be used; or ``out`` cannot be written into.
      ValueError: a number is out of its range.
    """
    check_positive(images=images)
    if tuning < 0:
        raise ValueError(f"tuning must be at least 0, not {tuning}")
    source = find_source(folder, ensemble, attributes, partition, aligned)
    for notice in source.notices:
        say(notice)
    crops = make_crops(
        source.photos, images + tuning, Path(out) / CROPS,
        photos.default_canonical_size(ensemble, aligned=True), source.aligned, source.labels,
        lambda error: None if error is None else say(str(error)),
    )  # fmt: skip
    if not crops:
        raise FileError(folder, "none of its photos can be used", "give another folder")
    return Study(
        ensemble=ensemble,
        crops=tuple(crops[:images]),
        out=Path(out),
        seed=seed,
        steps=steps,
        batch_size=batch_for_device() if batch_size is None else batch_size,
        labels=source.labels,
        tuning=tuple(crops[images:]),
    )


def find_source(
    folder: PathLike,
    ensemble: Ensemble,
    attributes: PathLike | None = None,
    partition: PathLike | None = None,
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
    folder = Path(folder)
    found = pictures = files.pictures_in(folder)
    notices: list[str] = []
    path = Path(partition) if partition else celeba.find_list(folder, celeba.PARTITION)
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
    attributes: PathLike | None,
    notices: list[str],
) -> LabelTable | None:
    """The requested labels, or those beside the photos if they fit the generators."""
    path = Path(attributes) if attributes else celeba.find_list(folder, celeba.ATTRIBUTES)
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
