"""The settings of a job, the outcome for each photo, and the checks of a job's options."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cdmaa_jax.attack.config import Config, check_choice, check_positive
from cdmaa_jax.attack.keys import check_seed
from cdmaa_jax.disk import FileError
from cdmaa_jax.generators.ensembles import Ensemble
from cdmaa_jax.images import files
from cdmaa_jax.images.labels import LabelTable
from cdmaa_jax.images.squares import GREY_LEVEL
from cdmaa_jax.types import Labels

BATCH_SIZE = 8
PRECISIONS = {
    "float32": "highest",
    "tf32": "tensorfloat32",
    "bfloat16": "tensorfloat32",  # for the operations that remain in float32
}
"""A job's precision to JAX's name for the precision of its float32 matrix products."""
Entry = dict[str, Any]
"""A report's entry on one photo."""
ProtectImages = Callable[["Job", np.ndarray, Labels | None, int], np.ndarray]
"""``attack(job, images [B,N,N,3], labels, batch_size)``: the protected images [B,N,N,3].

Both are floats in [-1, 1]. B is at most ``batch_size``; ``labels`` are of these images, None if
unknown. What exceeds ``job.config.epsilon``, or the range, is cut when the file is written. Images
of another shape, or that are not finite, are a ValueError.
"""


@dataclass(frozen=True)
class Job:
    """How to protect photos.

    Attributes:
      ensemble: the generators whose edits are to be spoiled.
      out: the folder to write into.
      config: the attack.
      canonical_size: the side, in pixels, of the images on which the perturbation is found.
      seed: the seed of the attack's start.
      aligned: whether the photos are face crops already, in which no face has to be found.
      labels: the attributes of the photos; None if they are unknown.
      batch_size: how many faces, or photos without one, are attacked at once.
      chunk: how many of them a generator takes at once; None for what suits the device.
      max_pixels: photos with more pixels than this are refused.
      force: whether files that are in the way are overwritten. An input never is.
      names: the names of the outputs, without suffix, where they differ from the input's.
      same_batches: whether batches keep their size and shape even if some photos are done already,
        so that a job that was stopped and resumed gives the same bits as one that was not.
      attack: another attack on the canonical images; see ``ProtectImages``.
      precision: the precision in which the generators are computed during the attack: "float32",
        "tf32" or "bfloat16"; None for the device's default, which is TF32 on a GPU, and on a TPU
        float32 with bfloat16 factors in products. Copies are always measured in the device's
        default.
    """

    ensemble: Ensemble
    out: Path
    config: Config
    canonical_size: int
    seed: int = 0
    aligned: bool = False
    labels: LabelTable | None = None
    batch_size: int = BATCH_SIZE
    chunk: int | None = None
    max_pixels: int = files.MAX_PIXELS
    force: bool = False
    names: Mapping[Path, str] = field(default_factory=dict)
    same_batches: bool = False
    attack: ProtectImages | None = None
    precision: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The outcome for one photo: its entry in the report, or the reason why it has none."""

    source: Path
    status: Literal["done", "skipped", "failed"]
    entry: Entry | None = None
    error: FileError | None = None

    def failure(self) -> Entry | None:
        """The entry of a photo that failed; None for others."""
        if self.error is None:
            return None
        return {"file": self.source.name, "error": self.error.without_folder}


def failed(photo: Path, error: FileError) -> Outcome:
    """The outcome of a photo that failed; the error lets go of its frames, which hold the photo."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return Outcome(photo, "failed", error=error)


def default_canonical_size(ensemble: Ensemble, aligned: bool = False) -> int:
    """Three times the largest native size of the generators, in pixels; for crops, that size.

    A perturbation has to survive the resizing of a photo to the generators' size, and finer ones
    survive it better. At still finer sizes the same number of steps brings no further gain.
    """
    native = max(generator.image_size for generator in ensemble.generators)
    return native if aligned else 3 * native


def check_job(job: Job) -> None:
    """Checks that the options of a job are valid, and that they fit each other and the labels.

    Raises:
      ValueError: an option is not valid.
      FileError: the labels lack attributes that a generator needs.
    """
    check_positive(
        batch_size=job.batch_size, canonical_size=job.canonical_size, max_pixels=job.max_pixels
    )
    check_seed(job.seed)
    if job.precision is not None:
        check_choice("precision", job.precision, tuple(PRECISIONS))
    if job.config.epsilon < GREY_LEVEL:
        raise ValueError(
            f"epsilon {job.config.epsilon:g} is below one grey level, so the protected file would "
            f"be the original; give at least {math.ceil(GREY_LEVEL * 1e5) / 1e5:g}"
        )
    if job.labels is not None:
        check_labels(job.labels, job.ensemble)


def check_labels(table: LabelTable, ensemble: Ensemble) -> None:
    """Raises FileError if a table lacks attributes that a generator needs."""
    example = {name: np.zeros(1, np.int32) for name in table.attributes}
    for generator in ensemble.generators:
        try:
            generator.conditions(example)
        except ValueError as error:
            what = f"{generator.name} cannot use it: {error}"
            raise FileError(table.path, what, "add them, or leave out --labels") from error
