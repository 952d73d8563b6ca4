"""The generators' edits of photos as saved on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cdmaa_jax.evaluation import metrics
from cdmaa_jax.images.faces import Box
from cdmaa_jax.images.squares import see
from cdmaa_jax.types import Generator, Labels


def see_pair(
    original: np.ndarray, protected: np.ndarray, square: Box, generators: Sequence[Generator]
) -> Pair:
    """Reduces an original and its protected copy, uint8 ``[H, W, 3]``, to what metrics need.

    PSNR and SSIM are those of the square, the part that generators see: the unchanged rest of the
    photo would inflate them.
    """
    sizes = {generator.image_size for generator in generators}
    before, after = square.crop(original), square.crop(protected)
    return Pair(
        linf=metrics.linf(original, protected),
        psnr=metrics.psnr(before, after),
        ssim=metrics.ssim(before, after),
        clean={size: see(original, square, size) for size in sizes},
        protected={size: see(protected, square, size) for size in sizes},
    )


def measure(
    generators: Sequence[Generator],
    pairs: Sequence[Pair],
    labels: Labels | None = None,
    batch_size: int | None = None,
) -> dict[str, np.ndarray]:
    """L of every pair: model name to float64 ``[B, K]``.

    Args:
      generators: their names are unique.
      pairs: B of them.
      labels: of the originals.
      batch_size: how many pairs are measured at a time; fewer are padded to this number, so that
        they run the same compiled program. All of them if None.

    Raises:
      ValueError: a generator's edits are not finite.
    """
    size = batch_size or len(pairs)
    parts = [slice(first, first + size) for first in range(0, len(pairs), size)]

    def losses(generator: Generator, part: slice) -> np.ndarray:
        some = labels and {name: np.asarray(values)[part] for name, values in labels.items()}
        return metrics.losses(*edits_of_pairs(generator, pairs[part], some, size))

    found = {
        generator.name: np.concatenate([losses(generator, part) for part in parts])
        for generator in generators
    }
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise ValueError(f"the edits by {name} are not finite (NaN or infinite)")
    return found


def edits_of_pairs(
    generator: Generator,
    pairs: Sequence[Pair],
    labels: Labels | None = None,
    batch_size: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The edits of B originals and of their protected copies, each ``[B, K, h, w, 3]``.

    Fewer than ``batch_size`` pairs are padded to that number.
    """
    count, size = len(pairs), generator.image_size
    padding = max(0, (batch_size or count) - count)
    conditions = generator.conditions(labels)
    if len(conditions) != 1:
        conditions = _padded(conditions, padding)
    clean = _padded(np.stack([pair.clean[size] for pair in pairs]), padding)
    protected = _padded(np.stack([pair.protected[size] for pair in pairs]), padding)
    before = np.asarray(metrics.edits(generator, clean, conditions))
    after = np.asarray(metrics.edits(generator, protected, conditions))
    return before[:count], after[:count]


def _padded(array: np.ndarray, count: int) -> np.ndarray:
    """The array with its last element repeated ``count`` more times."""
    return np.concatenate([array, np.repeat(array[-1:], count, axis=0)])


@dataclass(frozen=True)
class Pair:
    """A square of an original and of its protected copy.

    Attributes:
      linf: largest change of a channel in the whole photo, in units of [-1, 1].
      psnr: of the square, in dB; infinite where nothing changed.
      ssim: of the square.
      clean: image size to what a generator of that size sees of the original.
      protected: the same of the protected copy.
    """

    linf: float
    psnr: float
    ssim: float
    clean: Mapping[int, np.ndarray] = field(repr=False)
    protected: Mapping[int, np.ndarray] = field(repr=False)
