"""Measures columns: attacks the crops, saves and measures the files, and resumes earlier runs.

Every column has its own folder, named by a hash of everything that its figures depend on. Figures
for changed photos, weights or options are therefore never mixed with earlier ones.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cdmaa_jax import disk, photos
from cdmaa_jax.attack.config import check_positive
from cdmaa_jax.attack.keys import check_seed
from cdmaa_jax.disk import FileError
from cdmaa_jax.evaluation import report
from cdmaa_jax.experiments.columns import STEPS, Column, options
from cdmaa_jax.experiments.crops import Crop, crop_labels
from cdmaa_jax.experiments.records import read_record
from cdmaa_jax.experiments.statistics import MEAN
from cdmaa_jax.generators.ensembles import Ensemble
from cdmaa_jax.images import files
from cdmaa_jax.images.labels import LabelTable
from cdmaa_jax.photos import Job, ProtectImages

COLUMNS = "columns"
ABOUT = "column.json"
TUNED_ON, ON_TESTED = "tuned_on", "the tested photos"
"""The fact of what a column was tuned on, and its value if there were no other photos."""
_FORMAT = 1
FEW_STEPS = 200
"""Steps over all photos: fewer take a CPU less time than compiling a program well."""
FEW_STEPS_ON_ACCELERATORS = 100_000
_BATCH, _BATCH_ON_ACCELERATORS = 10, 100


def few_steps() -> int:
    """The number of steps over all photos below which compiling takes longer than running."""
    return FEW_STEPS if _is_on_cpu() else FEW_STEPS_ON_ACCELERATORS


def batch_for_device() -> int:
    """The default for the most photos that are attacked at once."""
    return _BATCH if _is_on_cpu() else _BATCH_ON_ACCELERATORS


def _is_on_cpu() -> bool:
    return jax.devices()[0].platform == "cpu"


def check_names(ensemble: Ensemble) -> None:
    """Raises ValueError if a generator has the name of the mean of all."""
    if any(generator.name == MEAN for generator in ensemble.generators):
        raise ValueError(f"a generator is named {MEAN}, as the mean of all: save it under another")


@dataclass(frozen=True)
class Study:
    """What all columns have in common.

    Attributes:
      ensemble: the generators, which are attacked and measured.
      crops: the images, in order.
      out: the folder to write into, a path or its text.
      seed: of the attacks' start.
      steps: T of the default.
      batch_size: the most crops that are attacked at once.
      labels: of the photos; None if unknown.
      tuning: crops that are not among ``crops``, for what is fitted before it is tested.

    Raises:
      ValueError: there is no crop, a number is out of its range, or a generator is called ``mean``.
    """

    ensemble: Ensemble
    crops: tuple[Crop, ...]
    out: Path
    seed: int = 0
    steps: int = STEPS
    batch_size: int = _BATCH
    labels: LabelTable | None = None
    tuning: tuple[Crop, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        check_names(self.ensemble)
        check_seed(self.seed)
        check_positive(steps=self.steps, batch_size=self.batch_size)
        if not self.crops:
            raise ValueError("a study needs at least one crop")

    @property
    def size(self) -> int:
        """The side of the crops, in pixels."""
        return photos.default_canonical_size(self.ensemble, aligned=True)

    @property
    def is_brief(self) -> bool:
        """Whether a column takes less time than it takes to compile its program."""
        return len(self.crops) * self.steps < few_steps()

    @property
    def batch(self) -> int:
        """The size of every batch: as few batches as are needed, of equal size."""
        count = len(self.crops)
        return -(-count // -(-count // self.batch_size))


@dataclass(frozen=True)
class Measured:
    """The figures of one column.

    Attributes:
      column: what was done.
      losses: model name to L of the saved files, float64 [N,K], in the order of the crops.
      psnr: [N], of the crops, in dB; infinite where nothing changed.
      linf: [N], the largest change, in units of [-1, 1].
      seconds: that it took, all runs together.
      folder: of the protected files.
      files: names of the protected files, in the order of the crops.
      facts: what the method found out on its way, to be told with the figures.
      made_with: what else than this process's versions, device and so on some of it is of.
    """

    column: Column
    losses: dict[str, np.ndarray] = field(repr=False)
    psnr: np.ndarray = field(repr=False)
    linf: np.ndarray = field(repr=False)
    seconds: float
    folder: Path
    files: tuple[str, ...] = field(repr=False)
    facts: dict[str, Any] = field(default_factory=dict, repr=False)
    made_with: tuple[dict[str, Any], ...] = ()


def identity(column: Column, study: Study) -> dict[str, Any]:
    """All that decides a column's figures, without defaults, so that new options change none.

    A threshold that only judges the figures is left out.
    The batch size is left out, as it only changes the rounding of sums: signs of gradients magnify
    that, so files and figures differ, and are as good. But methods that are tuned take that many
    photos at once.
    """
    known = {
        "format": _FORMAT,
        "options": options(column.attacking.config),
        "method": column.method,
        "model": column.model,
        "seed": study.seed,
        "ensemble": report.describe(study.ensemble)["generators"],
        "crops": [[crop.crop_sha256, crop.labels] for crop in study.crops],
        "attributes": None if study.labels is None else study.labels.attributes,
    }
    if column.is_tuned:
        known["tuning"] = [[crop.crop_sha256, crop.labels] for crop in study.tuning]
        known["batch"] = study.batch
    return json.loads(json.dumps(known))


def column_folder(column: Column, study: Study) -> Path:
    """The folder of a column's files."""
    text = json.dumps(identity(column, study), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    slug = column.attacking.slug
    name = slug.replace("/", "-").replace("\\", "-")  # a generator may be called anything
    return study.out / COLUMNS / disk.file_name(name, f"-{digest}")


def measure_column(
    column: Column,
    study: Study,
    attack: ProtectImages,
    progress: Callable[[int], None],
) -> Measured:
    """The part of ``methods.measure`` that follows the fitting: protects crops, measures files."""
    folder = column_folder(column, study)
    about = read_record(folder / ABOUT)
    job = _job(column, study, folder, attack)
    start, spent = time.monotonic(), about.get("seconds", 0.0)
    about |= {"identity": identity(column, study)}
    errors: list[str] = []
    for outcome in photos.protect_photos([crop.path for crop in study.crops], job):
        if outcome.error is not None:  # an error that ends the run, a full disk, is raised after it
            errors.append(str(outcome.error))
            continue
        if outcome.status == "done":
            about["seconds"] = spent + time.monotonic() - start
            _write_about(folder, about)
        progress(1)
    if errors:
        raise FileError(folder, errors[0], "run again")
    return _measured(column, study, job, about)


def check_crops(study: Study) -> None:
    """Raises FileError if a crop, by its header, is not of the study's size."""
    for crop in (*study.crops, *study.tuning):
        if files.size_of(crop.path) not in (None, (study.size, study.size)):
            what = f"it is no crop of {study.size} x {study.size} pixels, as the generators need"
            raise FileError(crop.path, what, "make the crops again")


def count_done(column: Column, study: Study) -> int:
    """How many of a column's crops are done, by its report.

    Not those whose photos have other names now: their copies are made again.
    """
    try:
        found = report.read_report(column_folder(column, study) / photos.REPORT)
    except FileError:
        return 0
    names = {crop.path.name for crop in study.crops}
    return sum(entry["file"] in names for entry in (found or {"photos": ()})["photos"])


def _job(column: Column, study: Study, folder: Path, attack: ProtectImages) -> Job:
    return Job(
        ensemble=study.ensemble,
        out=folder,
        config=column.config,
        canonical_size=study.size,
        seed=study.seed,
        aligned=True,
        labels=crop_labels(study.crops, study.labels),
        batch_size=study.batch,
        same_batches=True,
        attack=attack,
        force=True,  # the folder is the column's own: damaged files are made again
    )


def _measured(column: Column, study: Study, job: Job, about: dict[str, Any]) -> Measured:
    """The figures in a column's report, in the order of the crops."""
    found = photos.read_job_report(job)
    entries = {entry["file"]: entry for entry in (found or {"photos": ()})["photos"]}
    rows = [entries[crop.path.name] for crop in study.crops]
    losses = {
        generator.name: np.array(
            [
                [row["models"][generator.name][domain] for domain in generator.domains]
                for row in rows
            ]
        )
        for generator in study.ensemble.generators
    }
    return Measured(
        column=column,
        losses=losses,
        psnr=np.array([np.inf if row["psnr"] is None else row["psnr"] for row in rows]),
        linf=np.array([row["linf"] for row in rows]),
        seconds=about.get("seconds", 0.0),
        folder=job.out,
        files=tuple(row["protected"] for row in rows),
        facts=about.get("facts", {}),
        made_with=_different(row.get(report.MADE_WITH) for row in rows),
    )


def _different(notes: Iterable[dict[str, Any] | None]) -> tuple[dict[str, Any], ...]:
    """The notes that differ from this process's own, each once."""
    others: list[dict[str, Any]] = []
    for note in notes:
        known = None if note is None else report.made_with_in(note)
        if known is not None and known != report.made_with() and known not in others:
            others.append(known)
    return tuple(others)


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts in a column's folder; empty if there are none."""
    return read_record(folder / ABOUT).get("facts", {})


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Saves facts in a column's folder."""
    _write_about(folder, read_record(folder / ABOUT) | {"facts": facts})


def _write_about(folder: Path, about: dict[str, Any]) -> None:
    disk.write_whole(folder / ABOUT, (json.dumps(about, indent=1, allow_nan=False) + "\n").encode())
