"""The methods that the paper names, as columns: what each attacks, and what is fitted first."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from cdmaa_jax import disk, photos, protection
from cdmaa_jax.attack.config import Config
from cdmaa_jax.attack.numbers import structure_of
from cdmaa_jax.attack.pieces import gradients_by
from cdmaa_jax.experiments import runner
from cdmaa_jax.experiments.columns import STEPS, TOGETHER, Column, Table
from cdmaa_jax.experiments.crops import Crop, crop_labels
from cdmaa_jax.experiments.forecast import Work, cost
from cdmaa_jax.experiments.runner import Measured, Study, measure_column
from cdmaa_jax.images.files import read_photo
from cdmaa_jax.images.squares import look, see
from cdmaa_jax.photos import Job, ProtectImages
from cdmaa_jax.search import DECADES, search_weights, weighted_config
from cdmaa_jax.types import Generator, Labels
from cdmaa_jax.universal import apply_universal, fit_universal, prepare_universal

ALONE, ENCODERS = "alone", "encoders"
SEARCHED, UNIVERSAL = "searched", "universal"
FITTED = (SEARCHED, UNIVERSAL)
PERTURBATION = "perturbation.npy"
FEW = 10
Progress = Callable[[int], None]


def related_table(models: Sequence[Generator], steps: int = STEPS) -> Table:
    """CDMAA beside the methods that the paper compares itself with.

    Args:
      models: the ensemble's generators.
      steps: T of all.
    """
    base = Config(steps=steps)

    def changed(**options: Any) -> Config:
        return dataclasses.replace(base, **options)

    plain = {"across_models": "uniform", "regularization": "none"}
    entries = {"cdmaa": ("CDMAA", Column(base))}
    for model in models:
        column = Column(changed(update="pgd"), ALONE, model.name)
        entries[f"alone-{model.name}"] = (f"PGD on {model.name} alone (Yeh 2020)", column)
    entries |= {
        "iterative-domains": (
            "iterative domains (Ruiz 2020)",
            Column(changed(across_domains="iterative", **plain)),
        ),
        "joint-domains": ("joint domains (Ruiz 2020)", Column(changed(**plain))),
        "line-search": ("weights by line search (Fang 2020)", Column(changed(**plain), SEARCHED)),
        "universal": (
            "universal perturbation (CMUA, Huang 2022)",
            Column(changed(perturbation="universal"), UNIVERSAL),
        ),
        "face-weighted": ("face-weighted loss (Lv 2021)", Column(changed(loss="face-weighted"))),
    }
    if any(model.encode for model in models):
        latent = Column(changed(loss="latent"), ENCODERS)
        entries["latent"] = ("loss on the latent (Dong and Xie 2021)", latent)
    return Table(
        "related",
        "CDMAA and the methods that the paper compares it with",
        {name: column for name, (_, column) in entries.items()},
        {name: heading for name, (heading, _) in entries.items()},
        "cdmaa",
    )


def works_of(column: Column, study: Study) -> list[Work]:
    """The work of measuring a column: fitting first, if the method fits something."""
    models = study.ensemble.generators
    done = runner.count_done(column, study, column.method in FITTED)
    each = cost(column, attacked(column, models), models)
    own = [Work(column.slug, len(study.crops), done, each)]
    if column.method not in FITTED:
        return own
    total = _pieces(column, study)
    attacks = total if column.method == SEARCHED else 1
    together = _searched(study) if column.method == SEARCHED else study.batch
    fitted = total if _is_fitted(column, study) else 0
    tuning = each * together * attacks / total
    return [Work(f"tuning {column.method}", total, fitted, tuning), *own]


def measure(
    column: Column,
    study: Study,
    begin: Callable[[str], None] = lambda name: None,
    progress: Progress = lambda count: None,
) -> Measured:
    """Measures a column by its method.

    Args:
      column: what to do.
      study: to what.
      begin: called with the name of each work of ``works_of`` as it is begun.
      progress: called with the number of pieces of that work as they are done.

    Raises:
      FileError: as ``runner.measure_column``.
    """
    if column.method in FITTED:
        begin(f"tuning {column.method}")
        facts = _fit(column, study, progress)
    else:
        facts = None
    begin(column.slug)
    attack = _attack(column, study, facts)
    return measure_column(column, study, progress, attack, facts, column.method in FITTED)


def prepare(column: Column, study: Study) -> None:
    """Compiles the programs that attack a column's images, unless all are done; runs nothing.

    Raises:
      ValueError: the column cannot be attacked, as ``measure`` would find in its turn.
    """
    if column.method == UNIVERSAL:
        _prepare_perturbation(column, study)
    if column.method in FITTED or runner.count_done(column, study) == len(study.crops):
        return
    crops = study.crops[: study.batch]
    protection.prepare(
        crop_images(crops), *_attacked(column, study), study.seed,
        labels=labels_of(crops, study), batch_size=study.batch,
        devices=photos.devices_for(study.batch),
    )  # fmt: skip


def program_of(column: Column, study: Study) -> Hashable:
    """The key of a column's program: columns with the same key are compiled once.

    In a brief study, whose attacks are compiled in pieces, the key of the models' gradients.
    """
    models, config = _attacked(column, study)
    if study.is_brief:
        return gradients_by(config)
    return tuple(model.name for model in models), structure_of(config)


def photo_steps(column: Column, study: Study) -> int:
    """The number of steps, over all photos, that the program of a column runs."""
    runs = 1 + (_pieces(column, study) if column.method == SEARCHED else 0)
    return runs * len(study.crops) * column.config.resolve().steps


def attacked(column: Column, models: Sequence[Generator]) -> tuple[Generator, ...]:
    """The models that a column attacks, out of those that it is measured on.

    Leaves out models whose weight is 0 in every step: they have no effect. APGD looks at all.
    """
    config = column.config
    if config.across_models == "single" and config.update != "apgd":
        return tuple(models[:1])
    if column.method == ALONE:
        return tuple(model for model in models if model.name == column.model)
    if column.method == ENCODERS:
        return tuple(model for model in models if model.encode is not None)
    return tuple(models)


def crop_images(crops: Sequence[Crop]) -> np.ndarray:
    """Crops as the attack takes them, float32 [N,n,n,3] in [-1, 1]."""
    pixels = [read_photo(crop.path).pixels for crop in crops]
    return np.stack([see_crop(one, len(one)) for one in pixels])


def see_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """What a generator of the given size sees of a crop, float32 [size,size,3] in [-1, 1]."""
    return see(pixels, look(pixels, aligned=True).square, size)


def labels_of(crops: Sequence[Crop], study: Study) -> Labels | None:
    """The labels of crops, None if unknown."""
    table = crop_labels(crops, study.labels)
    return None if table is None else table.labels([crop.path for crop in crops])


def _attack(column: Column, study: Study, facts: dict[str, Any] | None) -> ProtectImages | None:
    """The attack of a column; None if its options describe it completely."""
    if column.method == UNIVERSAL:
        return _universal(column, study)
    models = study.ensemble.generators
    if column.method == TOGETHER and len(attacked(column, models)) == len(models):
        return None
    weights = tuple((facts or {})["weights"].values()) if column.method == SEARCHED else None
    return photos.against(*_attacked(column, study, weights))


def _attacked(
    column: Column, study: Study, weights: Sequence[float] | None = None
) -> tuple[tuple[Generator, ...], Config]:
    """The models that a column attacks and its options, with the weights that a search found."""
    models = tuple(study.ensemble.generators)
    if column.method == SEARCHED:
        return models, weighted_config(column.config, weights or (1.0,) * len(models))
    return attacked(column, models), column.config


def _universal(column: Column, study: Study) -> ProtectImages:
    folder = runner.column_folder(column, study, uses_tuning=True)
    perturbation = np.load(io.BytesIO(disk.read_bytes(folder / PERTURBATION)))

    def attack(job: Job, images: np.ndarray, labels: Labels | None, size: int) -> np.ndarray:
        return np.asarray(apply_universal(images, perturbation, job.config.epsilon))

    return attack


def _fit(column: Column, study: Study, progress: Progress) -> dict[str, Any]:
    """Fits what a method needs before it is tested, unless already done; returns facts about it."""
    folder = runner.column_folder(column, study, uses_tuning=True)
    total, told = _pieces(column, study), [0]

    def tell(done: int, _: int) -> None:
        progress(done - told[0])
        told[0] = done

    if _is_fitted(column, study):
        tell(total, total)
        return runner.read_facts(folder)
    disk.make_folder(folder)
    start = time.monotonic()
    fit = _fit_weights if column.method == SEARCHED else _fit_perturbation
    facts = {
        runner.TUNED_ON: "other photos" if study.tuning else runner.ON_TESTED,
        **fit(column, study, tell),
    }
    tell(total, total)
    facts["tuning_seconds"] = round(time.monotonic() - start, 1)
    runner.write_facts(folder, facts)
    return facts


def _is_fitted(column: Column, study: Study) -> bool:
    folder = runner.column_folder(column, study, uses_tuning=True)
    there = column.method == SEARCHED or (folder / PERTURBATION).is_file()
    return bool(runner.read_facts(folder)) and there


def _fit_weights(column: Column, study: Study, tell: Callable[[int, int], None]) -> dict[str, Any]:
    """Fang et al.: the weights of the models that do best on the first tuning photos."""
    crops = _tuning(study)[: _searched(study)]
    found = search_weights(
        crop_images(crops), study.ensemble.generators, column.config, study.seed,
        labels=labels_of(crops, study), **_grid(study), batch_size=_searched(study),
        devices=photos.devices_for(_searched(study)), progress=tell,
    )  # fmt: skip
    names = [model.name for model in study.ensemble.generators]
    return {
        "weights": dict(zip(names, found.weights, strict=True)),
        "photos": len(crops),
        "value": found.value,
        "trials": [{"weights": list(t.weights), "value": t.value} for t in found.trials],
    }


def _fit_perturbation(
    column: Column, study: Study, tell: Callable[[int, int], None]
) -> dict[str, Any]:
    """Huang et al.: one perturbation for all photos, fitted on those to tune with."""
    crops = _tuning(study)
    what, options = _fitting(column, study)
    found = fit_universal(*what, **options, progress=tell)
    file = io.BytesIO()
    np.save(file, np.asarray(found.perturbation, np.float32))
    folder = runner.column_folder(column, study, uses_tuning=True)
    disk.write_whole(folder / PERTURBATION, file.getvalue())
    return {"photos": len(crops)}


def _prepare_perturbation(column: Column, study: Study) -> None:
    """Compiles the programs that fit a perturbation, unless it is fitted; runs nothing."""
    if not _is_fitted(column, study):
        what, options = _fitting(column, study)
        prepare_universal(*what, **options)


def _fitting(column: Column, study: Study) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the keyword arguments of ``fit_universal``."""
    crops = _tuning(study)
    what = crop_images(crops), study.ensemble.generators, column.config, study.seed
    return what, {"labels": labels_of(crops, study), "batch_size": study.batch}


def _tuning(study: Study) -> tuple[Crop, ...]:
    """The photos to tune on; the tested ones if there are no others, which results then state."""
    return study.tuning or study.crops


def _searched(study: Study) -> int:
    """The number of photos on which a search tries weights: a batch, but at most ten."""
    return min(study.batch, FEW)


def _grid(study: Study) -> dict[str, Any]:
    """The resolution of the line search: coarse if there are too few photos for a finer one."""
    if len(_tuning(study)) < FEW:
        return {"grid": DECADES[2:-2], "rounds": 1}
    return {"grid": DECADES, "rounds": 2}


def _pieces(column: Column, study: Study) -> int:
    """The number of pieces of fitting in progress reports: a search's trials, an attack's steps."""
    if column.method == UNIVERSAL:
        return column.config.steps
    search = _grid(study)
    return 1 + search["rounds"] * (len(study.ensemble.generators) - 1) * len(search["grid"])
