"""Weights of the models by line search, after Fang et al. 2020 as the CDMAA paper describes them.

Their attack follows the gradient of a weighted sum of the models' losses, whose weights are found
by line search in J - 1 dimensions. How it is searched is this package's: the J - 1 ratios of the
weights to the first one after the other, on a grid, with photos for tuning.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cdmaa_jax.attack import Config, evaluate_losses
from cdmaa_jax.attack.config import check_config, check_positive
from cdmaa_jax.protection import (
    batches,
    checked_images,
    chosen_batch_size,
    conditions_of,
    fit_views,
    padding_mask,
    protect,
)
from cdmaa_jax.types import Array, Generator, Labels

DECADES = tuple(10.0**exponent for exponent in range(-3, 4))
"""Factors tried for a ratio; models differ in sensitivity by orders of magnitude."""
NARROWING = 3
"""The factor by which each further round narrows the range, in the logarithm."""
Progress = Callable[[int, int], None]
"""``progress(done, total)``, called after each trial."""


class Trial(NamedTuple):
    """Weights [J], which sum to one, and the value that an attack with them reaches."""

    weights: tuple[float, ...]
    value: float


class WeightSearch(NamedTuple):
    """The best weights [J] and their value; every trial, in order."""

    weights: tuple[float, ...]
    value: float
    trials: tuple[Trial, ...]


def search_weights(
    images: Any,
    ensemble: Generator | Sequence[Generator],
    config: Config = Config(),  # noqa: B008 - frozen
    key: int | Array = 0,
    *,
    labels: Labels | None = None,
    grid: Sequence[float] | np.ndarray = DECADES,
    rounds: int = 2,
    batch_size: int | None = None,
    devices: Sequence[Any] | None = None,
    progress: Progress | None = None,
) -> WeightSearch:
    """The weights of ``across_models="weighted"`` that disrupt the models best.

    The search maximizes the mean over models of the mean over images and domains of min(L, τ) at
    the end of the attack, where L is the mean squared error of the outputs, whatever the attack's
    loss: a continuous form of attack_rate. There is no regularization. All trials share one
    compiled program.

    Args:
      images: [N,H,W,3], the photos to tune with, not those that results are reported on.
      ensemble: one generator or a sequence of J.
      config: the options of the attack; ``across_models``, ``model_weights`` and
        ``regularization`` are replaced, see ``weighted_config``.
      key: as for ``protect``.
      labels: as for ``protect``.
      grid: the positive factors that are tried of a ratio in the first round, in which every ratio
        starts at 1; in the second their cube roots, in the third their ninth roots, and so on.
      rounds: how often each of the J - 1 ratios is searched.
      batch_size: as for ``protect``.
      devices: as for ``protect``.
      progress: called after each trial.

    Returns:
      the best weights, which sum to one, the value that they reach, and all trials, in order.

    Raises:
      ValueError: the grid or the rounds are not as above; or what ``protect`` raises.
    """
    clean = checked_images(images)
    models = fit_views(ensemble, *clean.shape[1:3])

    def value(ratios: tuple[float, ...]) -> float:
        result = protect(
            clean, models, weighted_config(config, ratios), key,
            labels=labels, batch_size=batch_size, devices=devices,
        )  # fmt: skip
        losses = output_losses(models, clean, result.images, labels, batch_size)
        return disruption(losses, config.threshold)

    best, known = line_search(value, len(models), grid, rounds, progress)
    trials = tuple(Trial(_shares(ratios), reached) for ratios, reached in known.items())
    return WeightSearch(_shares(best), known[best], trials)


def weighted_config(config: Config, weights: Sequence[float]) -> Config:
    """The weighted attack of Fang et al.: no regularization, and these weights.

    Raises:
      ValueError: the weights are no such numbers, or there is no configuration.
    """
    check_config(config)
    return dataclasses.replace(
        config,
        across_models="weighted",
        model_weights=tuple(weights),
        regularization="none",
    )


def disruption(losses: Sequence[np.ndarray], threshold: float) -> float:
    """The mean over models of the mean of min(L, τ) over their losses [N,K_j]."""
    return float(np.mean([np.minimum(loss, threshold).mean() for loss in losses]))


def line_search(
    value: Callable[[tuple[float, ...]], float],
    count: int,
    grid: Sequence[float] | np.ndarray = DECADES,
    rounds: int = 2,
    progress: Progress | None = None,
) -> tuple[tuple[float, ...], dict[tuple[float, ...], float]]:
    """Searches the ratios of ``count`` weights to the first for the largest value, one by one.

    Args:
      value: what to maximize, of ratios [count], the first of which is 1.
      count: J.
      grid: as for ``search_weights``.
      rounds: as for ``search_weights``.
      progress: called after each trial.

    Returns:
      the best ratios [count], of equal ones those tried first; and the values of all ratios tried,
      each once, in order.

    Raises:
      ValueError: the grid or the rounds are not as for ``search_weights``.
    """
    _check_grid(grid, rounds)
    best = (1.0,) * count
    known = {best: value(best)}
    done, total = 1, 1 + rounds * (count - 1) * len(grid)
    tell = progress or (lambda done, total: None)
    tell(done, total)
    for turn, axis in itertools.product(range(rounds), range(1, count)):
        centre = best
        for factor in map(float, grid):
            ratio = centre[axis] * factor ** (1 / NARROWING**turn)
            tried = (*centre[:axis], ratio, *centre[axis + 1 :])
            if tried not in known:
                known[tried] = value(tried)
            best = tried if known[tried] > known[best] else best
            done += 1
            tell(done, total)
    return best, known


def output_losses(
    models: Sequence[Generator],
    clean: np.ndarray,
    adversarial: Any,
    labels: Labels | None = None,
    batch_size: int | None = None,
) -> list[np.ndarray]:
    """L of the outputs of every model, [N,K_j], batch by batch in one compiled program."""
    count = len(clean)
    conditions = [conditions_of(model, labels, count) for model in models]
    parts = []
    for rows in batches(count, chosen_batch_size(batch_size, count)):
        some = [c[rows] for c in conditions]
        losses = evaluate_losses(models, clean[rows], np.asarray(adversarial)[rows], some)
        parts.append([np.asarray(loss)[padding_mask(rows)] for loss in losses])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _shares(ratios: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(ratio / math.fsum(ratios) for ratio in ratios)


def _check_grid(grid: Sequence[float] | np.ndarray, rounds: int) -> None:
    try:
        factors = [float(factor) for factor in grid]
    except (TypeError, ValueError):
        factors = []
    if not factors or not all(0 < factor < math.inf for factor in factors):
        raise ValueError(f"grid must be positive factors, at least one, not {grid!r}")
    check_positive(rounds=rounds)
