"""The methods that the paper names, as columns: what each attacks, and what is fitted first."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cdmaa_jax import disk, photos, protection
from cdmaa_jax.attack import apart
from cdmaa_jax.attack.config import Config
from cdmaa_jax.attack.numbers import structure_of
from cdmaa_jax.attack.pieces import gradients_by, is_apart
from cdmaa_jax.experiments import runner
from cdmaa_jax.experiments.columns import (
    ALONE,
    ENCODERS,
    PLAIN,
    SEARCHED,
    STEPS,
    UNIVERSAL,
    Column,
    Table,
)
from cdmaa_jax.experiments.crops import Crop, crop_labels
from cdmaa_jax.experiments.forecast import Work, cost
from cdmaa_jax.experiments.records import read_arrays
from cdmaa_jax.experiments.runner import Measured, Study, measure_column
from cdmaa_jax.images.files import read_photo
from cdmaa_jax.images.squares import look, see
from cdmaa_jax.photos import Job, ProtectImages
from cdmaa_jax.search import DECADES, search_weights, weighted_config
from cdmaa_jax.types import Generator, Labels
from cdmaa_jax.universal import apply_universal, fit_universal, prepare_universal

PERTURBATION = "perturbation.npy"
FEW = 10
Progress = Callable[[int], None]
Tell = Callable[[int, int], None]
"""``tell(done, total)``, called after each piece of a fit."""


@dataclass(frozen=True)
class Fitting:
    """How a method is fitted on tuning photos before it is tested.

    Attributes:
      pieces: the number of pieces of its progress.
      attacks: how many attacks it runs.
      photos: on how many photos each of them.
      fit: fits it, and returns the facts to be told with the figures.
      attack: the attack with what was fitted, from those facts.
      attacks_again: whether each tested photo is attacked; otherwise what was found is only added.
      prepare: compiles the programs that only ``fit`` runs, if there are any; runs nothing.
      file: what ``fit`` writes into the column's folder besides the facts; None for nothing.
    """

    pieces: Callable[[Column, Study], int]
    attacks: Callable[[Column, Study], int]
    photos: Callable[[Study], int]
    fit: Callable[[Column, Study, Tell], dict[str, Any]]
    attack: Callable[[Column, Study, Mapping[str, Any]], ProtectImages]
    attacks_again: bool = True
    prepare: Callable[[Column, Study], None] = lambda column, study: None
    file: str | None = None


def related_table(models: Sequence[Generator], steps: int = STEPS) -> Table:
    """CDMAA beside the methods that the paper compares itself with, and variants that they suggest.

    Most of them were published for one model; how several are combined is the heading's.

    Args:
      models: the ensemble's generators.
      steps: T of all.
    """
    base = Config(steps=steps)

    def changed(**options: Any) -> Config:
        return dataclasses.replace(base, **options)

    plain = {"across_models": "uniform", "regularization": "none"}
    in_turn = plain | {"across_models": "iterative"}
    equal = weighted_config(base, (1.0,) * len(models))  # until the search has found better weights
    entries = {"cdmaa": ("CDMAA", Column(base))}
    for model in models:
        column = Column(changed(update="pgd"), ALONE, model.name)
        entries[f"alone-{model.name}"] = (f"PGD on {model.name} alone (Yeh 2020)", column)
    entries |= {
        "iterative-domains": (
            "iterative domains, sum of models (Ruiz 2020)",
            Column(changed(across_domains="iterative", **plain)),
        ),
        "iterative": (
            "iterative domains and models (Ruiz 2020)",
            Column(changed(across_domains="iterative", **in_turn)),
        ),
        "joint-domains": (
            "joint domains, sum of models (Ruiz 2020)",
            Column(changed(**plain)),
        ),
        "line-search": ("weights by line search (Fang 2020)", Column(equal, SEARCHED)),
        "universal": (
            "universal perturbation (CMUA, Huang 2022)",
            Column(changed(perturbation="universal", **in_turn), UNIVERSAL),
        ),
        "universal-cdmaa": (
            "CDMAA, universal perturbation",
            Column(changed(perturbation="universal"), UNIVERSAL),
        ),
        "face-weighted": (
            "CDMAA, face-weighted loss (Lv 2021)",
            Column(changed(loss="face-weighted")),
        ),
    }
    if any(model.encode for model in models):
        latent = Column(changed(loss="latent"), ENCODERS)
        entries["latent"] = ("CDMAA, loss on the latent (Dong and Xie 2021)", latent)
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
    done = runner.count_done(column, study)
    each = cost(column, attacked(column, models), models)
    fitting = FITTINGS.get(column.method)
    if fitting is None:
        return [Work(column.slug, len(study.crops), done, each)]
    pieces = fitting.pieces(column, study)
    fitted = pieces if _is_fitted(column, study) else 0
    tuning = each * fitting.photos(study) * fitting.attacks(column, study) / pieces
    tested = each if fitting.attacks_again else cost(column, (), models)
    return [
        Work(f"tuning {column.slug}", pieces, fitted, tuning),
        Work(column.slug, len(study.crops), done, tested),
    ]


def measure(
    column: Column,
    study: Study,
    attack: ProtectImages | None = None,
    *,
    begin: Callable[[str], None] = lambda name: None,
    progress: Progress = lambda count: None,
) -> Measured:
    """Protects a study's crops as a column says, and measures the saved files.

    Crops that were done before are not attacked again.

    Args:
      column: what to do.
      study: to what.
      attack: an attack of one's own, see ``photos.ProtectImages``. The column then has a method of
        its own, by which figures on disk are known: a changed attack needs another name, as does
        one that uses the images of a batch jointly, with another batch size.
      begin: called with the name of each work of ``works_of`` as it is begun.
      progress: called with the number of pieces of that work as they are done.

    Raises:
      FileError: the folder cannot be used, the disk is full, or a crop could not be protected.
      ValueError: an attack is given for a known method, or none for an unknown one; a model cannot
        be attacked; or what an attack gives, or a generator makes of it, is not finite.
    """
    _check_method(column, attack)
    runner.check_crops(study)
    fitting = FITTINGS.get(column.method)
    with apart(is_apart() or study.is_brief):
        if fitting is not None:
            begin(f"tuning {column.slug}")
            attack = fitting.attack(column, study, _fit(column, study, progress))
        elif attack is None:
            attack = photos.against(attacked(column, study.ensemble.generators), column.config)
        begin(column.slug)
        return measure_column(column, study, attack, progress)


def _check_method(column: Column, attack: ProtectImages | None) -> None:
    """Raises ValueError unless a method is a known one, or else comes with its attack."""
    known = (*PLAIN, *FITTINGS)
    if attack is None and column.method not in known:
        there = f"there are {', '.join(known)}; any other needs its attack"
        raise ValueError(f"unknown method {column.method!r}; {there}")
    if attack is not None and column.method in known:
        raise ValueError(
            f"an attack of one's own is not {column.method}, which is known: give its column a "
            "method of another name; a changed attack needs another, too"
        )


def prepare(column: Column, study: Study) -> None:
    """Compiles the programs that attack a column's images, unless all are done; runs nothing.

    Of a method that is fitted, those that ``Fitting.prepare`` compiles, unless it is fitted.

    Raises:
      ValueError: the column cannot be attacked, as ``measure`` would find in its turn.
    """
    fitting = FITTINGS.get(column.method)
    if fitting is not None:
        if not _is_fitted(column, study):
            fitting.prepare(column, study)
        return
    if runner.count_done(column, study) == len(study.crops):
        return
    crops, models = study.crops[: study.batch], attacked(column, study.ensemble.generators)
    protection.prepare(
        crop_images(crops), models, column.config, study.seed,
        labels=labels_of(crops, study), batch_size=study.batch,
        devices=protection.devices_for(study.batch),
    )  # fmt: skip


def program_of(column: Column, study: Study) -> Hashable:
    """The key of a column's program: columns with the same key are compiled once.

    In a brief study, whose attacks are compiled in pieces, the key of the models' gradients.
    """
    if study.is_brief:
        return gradients_by(column.config)
    models = attacked(column, study.ensemble.generators)
    return tuple(model.name for model in models), structure_of(column.config)


def photo_steps(column: Column, study: Study) -> int:
    """The number of steps, over all photos, that the program of a column runs."""
    fitting, count = FITTINGS.get(column.method), len(study.crops)
    if fitting is not None:
        tested = count if fitting.attacks_again else 0
        count = fitting.attacks(column, study) * fitting.photos(study) + tested
    return count * column.config.resolve().steps


def attacked(column: Column, models: Sequence[Generator]) -> tuple[Generator, ...]:
    """The models that a column attacks, out of those that it is measured on.

    Leaves out models that have no effect, since they have no encoder or their weight is 0 in every
    step. APGD looks at all.

    Raises:
      ValueError: no model has the column's name, or none has an encoder.
    """
    config = column.config
    models = tuple(model for model in models if column.model in (None, model.name))
    if not models:
        raise ValueError(f"no generator is named {column.model}")
    if config.loss == "latent":
        models = tuple(model for model in models if model.encode is not None)
    if not models:
        raise ValueError("no generator has an encoder, which the loss latent needs")
    if config.across_models == "single" and config.update != "apgd":
        return models[:1]
    return models


def crop_images(crops: Sequence[Crop]) -> np.ndarray:
    """Crops as the attack takes them, float32 [N,n,n,3] in [-1, 1]."""
    pixels = [read_photo(crop.path).pixels for crop in crops]
    return np.stack([see_crop(one, len(one)) for one in pixels])


def see_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """What a generator of the given size sees of a crop, float32 [size,size,3] in [-1, 1]."""
    return see(pixels, look(pixels, aligned=True)[0].square, size)


def labels_of(crops: Sequence[Crop], study: Study) -> Labels | None:
    """The labels of crops, None if unknown."""
    table = crop_labels(crops, study.labels)
    return None if table is None else table.labels([crop.path for crop in crops])


def _fit(column: Column, study: Study, progress: Progress) -> dict[str, Any]:
    """Fits what a method needs before it is tested, unless already done; returns facts about it."""
    fitting, folder = FITTINGS[column.method], runner.column_folder(column, study)
    total, told = fitting.pieces(column, study), [0]

    def tell(done: int, _: int) -> None:
        progress(done - told[0])
        told[0] = done

    if _is_fitted(column, study):
        tell(total, total)
        return runner.read_facts(folder)
    disk.make_folder(folder)
    start = time.monotonic()
    facts = {
        runner.TUNED_ON: "other photos" if study.tuning else runner.ON_TESTED,
        **fitting.fit(column, study, tell),
    }
    tell(total, total)
    facts["tuning_seconds"] = round(time.monotonic() - start, 1)
    runner.write_facts(folder, facts)
    return facts


def _is_fitted(column: Column, study: Study) -> bool:
    folder, file = runner.column_folder(column, study), FITTINGS[column.method].file
    fitted = bool(runner.read_facts(folder))
    return fitted and (file is None or read_arrays(folder / file) is not None)


# Weights by line search (Fang et al.)


def _fit_weights(column: Column, study: Study, tell: Tell) -> dict[str, Any]:
    """The weights of the models that do best on the first tuning photos."""
    crops = _tuning(study)[: _searched(study)]
    found = search_weights(
        crop_images(crops), study.ensemble.generators, column.config, study.seed,
        labels=labels_of(crops, study), **_grid(study), batch_size=_searched(study),
        devices=protection.devices_for(_searched(study)), progress=tell,
    )  # fmt: skip
    names = [model.name for model in study.ensemble.generators]
    return {
        "weights": dict(zip(names, found.weights, strict=True)),
        "photos": len(crops),
        "value": found.value,
        "trials": [{"weights": list(t.weights), "value": t.value} for t in found.trials],
    }


def _with_weights(column: Column, study: Study, facts: Mapping[str, Any]) -> ProtectImages:
    models = study.ensemble.generators
    weights = [facts["weights"][model.name] for model in models]
    return photos.against(models, weighted_config(column.config, weights))


def _trials(column: Column, study: Study) -> int:
    search = _grid(study)
    return 1 + search["rounds"] * (len(study.ensemble.generators) - 1) * len(search["grid"])


def _searched(study: Study) -> int:
    """The number of photos on which a search tries weights: a batch, but at most ten."""
    return min(study.batch, FEW)


def _grid(study: Study) -> dict[str, Any]:
    """The resolution of the line search: coarse if there are too few photos for a finer one."""
    if len(_tuning(study)) < FEW:
        return {"grid": DECADES[2:-2], "rounds": 1}
    return {"grid": DECADES, "rounds": 2}


# One perturbation for all photos (Huang et al.)


def _fit_perturbation(column: Column, study: Study, tell: Tell) -> dict[str, Any]:
    """The perturbation that does best on all tuning photos, written to its file."""
    what, options = _universal(column, study)
    found = fit_universal(*what, **options, progress=tell)
    file = io.BytesIO()
    np.save(file, np.asarray(found.perturbation, np.float32))
    disk.write_whole(runner.column_folder(column, study) / PERTURBATION, file.getvalue())
    return {"photos": len(_tuning(study)), "steps": column.config.steps, "batch": study.batch}


def _prepare_perturbation(column: Column, study: Study) -> None:
    what, options = _universal(column, study)
    prepare_universal(*what, **options)


def _universal(column: Column, study: Study) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the keyword arguments of ``fit_universal``."""
    crops = _tuning(study)
    what = crop_images(crops), study.ensemble.generators, column.config, study.seed
    return what, {"labels": labels_of(crops, study), "batch_size": study.batch}


def _with_perturbation(column: Column, study: Study, facts: Mapping[str, Any]) -> ProtectImages:
    perturbation = read_arrays(runner.column_folder(column, study) / PERTURBATION)

    def attack(job: Job, images: np.ndarray, labels: Labels | None, size: int) -> np.ndarray:
        return np.asarray(apply_universal(images, perturbation, job.config.epsilon))

    return attack


def _tuning(study: Study) -> tuple[Crop, ...]:
    """The photos to tune on; the tested ones if there are no others, which results then state."""
    return study.tuning or study.crops


FITTINGS = {
    SEARCHED: Fitting(
        pieces=_trials,
        attacks=_trials,
        photos=_searched,
        fit=_fit_weights,
        attack=_with_weights,
    ),
    UNIVERSAL: Fitting(
        pieces=lambda column, study: column.config.steps,
        attacks=lambda column, study: 1,
        photos=lambda study: study.batch,
        fit=_fit_perturbation,
        attack=_with_perturbation,
        attacks_again=False,
        prepare=_prepare_perturbation,
        file=PERTURBATION,
    ),
}
"""The methods that are tuned: those of columns that are ``Column.is_tuned``."""
