"""Intervals by resampling images: what another draw of as many photos could have shown."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cdmaa_jax.attack.config import check_positive

UNANIMOUS = "where all photos agree it is a point, which says nothing of other photos"
"""The caveat on a bootstrap interval."""
RESAMPLES = 10_000
LEVEL = 0.95
MEAN = "mean"
Losses = Mapping[str, np.ndarray]
"""Model name to L, [N,K]: image by domain."""


@functools.lru_cache(maxsize=2)
def resampling(count: int, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each of N images is drawn in each bootstrap sample, float64 [R,N], by seed.

    Raises:
      ValueError: there is no image or no sample.
    """
    check_positive(count=count, resamples=resamples)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    drawn.flags.writeable = False  # the cached array is shared
    return drawn


def interval(
    values: np.ndarray,
    draws: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = lambda means: means,
) -> np.ndarray:
    """95 % percentile bootstrap intervals of a statistic of means over images.

    Args:
      values: [N,...], what each image contributes.
      draws: [R,N], as ``resampling`` gives them; the same draws make differences paired.
      statistic: of the means [R,...]; the means themselves if left out.

    Returns:
      [2,...], the lower and the upper ends.
    """
    flat = values.reshape(len(values), -1)
    means = draws @ flat / draws.sum(1, keepdims=True)
    tail = 100 * (1 - LEVEL) / 2
    resampled = statistic(means.reshape(len(draws), *values.shape[1:]))
    # Rounding errors of the means must not move an end away from 0.
    return np.round(np.percentile(resampled, (tail, 100 - tail), axis=0), 12) + 0.0


def per_image(losses: Losses, threshold: float) -> dict[str, np.ndarray]:
    """Each image's contribution to avg_L and attack_rate: metric to [N,J+1], the mean last.

    The mean is over models, which count equally however many domains they have.
    """
    average = np.stack([values.mean(1) for values in losses.values()], axis=1)
    rate = np.stack([(values > threshold).mean(1) for values in losses.values()], axis=1)
    return {"avg_l": _with_mean(average), "attack_rate": _with_mean(rate)}


def summarize(
    losses: Losses, default: Losses, draws: np.ndarray, threshold: float
) -> dict[str, dict[str, Any]]:
    """The figures of a column: of each model and of their mean, with intervals.

    Args:
      losses: of the column; arrays or lists.
      default: of the column that it is compared with, of the same models, and of the same images in
        the same order.
      draws: as ``resampling`` gives them for N images.
      threshold: τ.

    Returns:
      Model name, or ``mean``, to avg_l, attack_rate, their intervals, and the same of the paired
      difference: this column less the default.

    Raises:
      ValueError: L is no [N,K] of the drawn images, or the default has none of the same shape.
    """
    losses = {name: np.asarray(values) for name, values in losses.items()}
    default = {name: np.asarray(default.get(name, ())) for name in losses}  # in the same order
    for name, values in losses.items():
        if values.ndim != 2 or len(values) != draws.shape[1]:
            count = f"[N,K] of the {draws.shape[1]} images drawn"
            raise ValueError(f"L of {name} is {list(values.shape)}, not {count}")
        if values.shape != default[name].shape:
            raise ValueError(f"the default has no L of {name} of the same shape")
    ours, theirs = per_image(losses, threshold), per_image(default, threshold)
    figures = {name: _figures(ours[name], draws) for name in ours}
    differences = {name: _figures(ours[name] - theirs[name], draws) for name in ours}
    return {
        model: {**_entry(figures, j), "difference": _entry(differences, j)}
        for j, model in enumerate((*losses, MEAN))
    }


def rounded(values: np.ndarray, digits: int = 6) -> list[Any]:
    """Numbers rounded to ``digits`` significant digits, for files that people read too."""
    flat = [float(f"{value:.{digits}g}") for value in np.ravel(values)]
    return np.array(flat).reshape(np.shape(values)).tolist()


def digits_of(share: float, fewest: int = 3) -> int:
    """As few significant digits, but at least some, as tell a share below 1 from 1."""
    digits = fewest
    while share < 1 and float(f"{share:.{digits}g}") == 1:
        digits += 1
    return digits


def _with_mean(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, values.mean(1, keepdims=True)], axis=1)


def _figures(values: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.mean(0), interval(values, draws)


def _entry(figures: Mapping[str, tuple[np.ndarray, np.ndarray]], j: int) -> dict[str, Any]:
    average, rate = figures["avg_l"], figures["attack_rate"]
    return {
        "avg_l": float(average[0][j]),
        "attack_rate": float(rate[0][j]),
        "interval": rate[1][:, j].tolist(),
        "avg_l_interval": average[1][:, j].tolist(),
    }
