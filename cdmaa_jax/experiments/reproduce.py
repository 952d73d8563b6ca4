"""The paper's tables and figures from photos: what is asked for, in order, each written whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdmaa_jax import photos
from cdmaa_jax.experiments import charts, tables
from cdmaa_jax.experiments.columns import STEPS, Column, Table, distinct, paper_tables
from cdmaa_jax.experiments.crops import Crop, make_crops
from cdmaa_jax.experiments.runner import Measured, Study, is_done, measure_column
from cdmaa_jax.generators.ensembles import Ensemble
from cdmaa_jax.images import celeba, files
from cdmaa_jax.images.files import PhotoError
from cdmaa_jax.images.labels import LabelTable, read_labels

CROPS = "crops"
WHAT = ("table1", "table2", "table3", "table4")
ALL = "all"


@dataclass(frozen=True)
class Request:
    """What to reproduce, from what.

    Attributes:
      what: names in ``WHAT``.
      photos: the folder of photos.
      out: the folder to write into.
      ensemble: the generators.
      images: how many photos, the first by name.
      seed: of the attacks' start and of the intervals.
      steps: T.
      batch_size: the most photos that are attacked at once.
      attributes: labels of the photos; None for CelebA's, where they are found, or none.
      partition: CelebA's split; None where it is found beside the photos, or for no split.
      aligned: whether the photos are aligned, their face in the middle; CelebA's are.
    """

    what: tuple[str, ...]
    photos: Path
    out: Path
    ensemble: Ensemble
    images: int = 100
    seed: int = 0
    steps: int = STEPS
    batch_size: int = 10
    attributes: Path | None = None
    partition: Path | None = None
    aligned: bool = False


@dataclass
class Listener:
    """Whom progress is told to.

    Attributes:
      say: a notice for people.
      photo: called for each photo that is looked at, with the error of one that is skipped.
      plan: called with every column that will be measured, and how many crops of it are done.
      column: called as a column is begun.
      crops: called with a number of crops of that column as they are done.
    """

    say: Callable[[str], None] = lambda text: None
    photo: Callable[[PhotoError | None], None] = lambda error: None
    plan: Callable[[Mapping[Column, int], int], None] = lambda done, count: None
    column: Callable[[Column], None] = lambda column: None
    crops: Callable[[int], None] = lambda count: None


@dataclass(frozen=True)
class Source:
    """The photos to choose from.

    Attributes:
      photos: in order.
      aligned: whether they are aligned.
      labels: of them; None if unknown.
      notices: for people.
    """

    photos: list[Path]
    aligned: bool
    labels: LabelTable | None
    notices: list[str] = field(default_factory=list)


def reproduce(request: Request, listener: Listener) -> Iterator[tuple[Path, str]]:
    """Measures what is asked for; gives each result's Markdown file and its text as it is written.

    Raises:
      PhotoError: a folder or file cannot be used.
      ValueError: there is no usable photo, or an option does not fit.
    """
    _check(request)
    charts.check()
    files.make_folder(request.out)
    source = find_source(request)
    for notice in source.notices:
        listener.say(notice)
    study, skipped = _study(request, source, listener)
    wanted = [table for name, table in paper_tables(request.steps).items() if name in request.what]
    done = {column: is_done(column, study) for column in distinct(wanted)}
    listener.plan(done, len(study.crops))
    measured: dict[Column, Measured] = {}
    for table in wanted:
        for column in table.columns.values():
            if column not in measured:
                listener.column(column)
                measured[column] = measure_column(column, study, listener.crops)
        yield _write_table(table, measured, study, skipped)


def find_source(request: Request) -> Source:
    """The photos of a folder, by name; of CelebA, where its split is at hand, the test photos.

    Raises:
      PhotoError: the folder or a list cannot be read, holds no picture, or misses attributes.
    """
    found = files.pictures_in(request.photos)
    notices: list[str] = []
    partition = request.partition or celeba.find_list(request.photos, celeba.PARTITION)
    if partition is not None:
        found, missing = celeba.choose_split(found, celeba.read_partition(partition))
        notices.append(f"{len(found)} photos are of the test split of {partition}")
        if missing:
            notices.append(
                f"{len(missing)} photos of that split are not in {request.photos}, "
                f"{missing[0]} for example"
            )
        if not found:
            what = f"none of its photos is in the test split of {partition}"
            raise PhotoError(request.photos, what, "give the folder that the list is of")
    is_celeba = partition is not None or request.photos.resolve().name == celeba.FOLDER
    labels = _labels(request, notices)
    return Source(found, request.aligned or is_celeba, labels, notices)


def _check(request: Request) -> None:
    for name in ("images", "steps", "batch_size"):
        if getattr(request, name) < 1:
            raise ValueError(f"{name.replace('_', ' ')} must be at least 1")


def _labels(request: Request, notices: list[str]) -> LabelTable | None:
    """The labels that were asked for, or those beside the photos where they fit the generators."""
    if request.attributes is not None:
        table = read_labels(request.attributes)
        photos.check_labels(table, request.ensemble)
        return table
    beside = celeba.find_list(request.photos, celeba.ATTRIBUTES)
    if beside is None:
        return None
    table = read_labels(beside)
    try:
        photos.check_labels(table, request.ensemble)
    except PhotoError as error:
        notices.append(f"going on without labels: {error.path}: {error.what}")
        return None
    notices.append(f"labels are those of {beside}")
    return table


def _study(request: Request, source: Source, listener: Listener) -> tuple[Study, list[str]]:
    """The crops to measure, and which photos were skipped and why."""
    skipped: list[str] = []

    def made(error: PhotoError | None) -> None:
        if error is not None:
            skipped.append(str(error))
        listener.photo(error)

    size = photos.default_canonical_size(request.ensemble, aligned=True)
    crops = make_crops(
        source.photos, request.images, request.out / CROPS, size, source.aligned, source.labels,
        made,
    )  # fmt: skip
    if not crops:
        raise PhotoError(request.photos, "none of its photos can be used", "give another folder")
    if len(crops) < request.images:
        listener.say(f"there are {len(crops)} photos, not {request.images}")
    study = Study(
        request.ensemble, tuple(crops), request.out, request.seed, request.batch_size, source.labels
    )
    return study, skipped


def _write_table(
    table: Table, measured: Mapping[Column, Measured], study: Study, skipped: Sequence[str]
) -> tuple[Path, str]:
    columns = {name: measured[column] for name, column in table.columns.items()}
    record = tables.build_table(table, columns, study, skipped)
    text = tables.to_markdown(record)
    write_result(study.out, table.name, record, {".md": text.encode(), ".png": _bars(record)})
    return study.out / f"{table.name}.md", text


def _bars(record: Mapping[str, Any]) -> bytes:
    return charts.draw_bars(record)


def write_result(
    out: Path, name: str, record: Mapping[str, Any], others: Mapping[str, bytes]
) -> None:
    """Writes a result's JSON and its other files, all of them whole, the JSON last."""
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    staged = [files.stage(out / f"{name}{suffix}", data) for suffix, data in others.items()]
    files.commit([*staged, files.stage(out / f"{name}.json", text.encode())])


__all__ = ["ALL", "WHAT", "Crop", "Listener", "Request", "find_source", "reproduce"]
