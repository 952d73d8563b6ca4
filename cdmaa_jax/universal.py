"""One perturbation for all photos: fitted on some, then added to others it never saw.

The idea is CMUA's (Huang et al. 2022), with the steps of this package: CMUA averages the images'
signed steps and blends the models' perturbations one after the other, while here the gradients are
averaged over the images, per model, and then weighted as configured.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.backend import get_default_device

from cdmaa_jax import attack
from cdmaa_jax.attack import Config, compilation, run
from cdmaa_jax.attack.algorithm import Carried, Info, Plan, begin, box
from cdmaa_jax.attack.config import check_config, registered
from cdmaa_jax.attack.memory import plan_chunks
from cdmaa_jax.attack.numbers import numbers_of, structure_of
from cdmaa_jax.attack.running import step_program
from cdmaa_jax.attack.targets import as_tuple
from cdmaa_jax.protection import (
    batches,
    check_finite,
    checked_images,
    checked_keys,
    chosen_batch_size,
    conditions_of,
    fit_views,
    make_batch,
    padding_mask,
    warn_of_constant,
)
from cdmaa_jax.tracing import is_once
from cdmaa_jax.types import Array, Batch, Generator, Labels

_begin = jax.jit(begin, static_argnames="config")


class Universal(NamedTuple):
    """A perturbation for all images, and how it was found, in NumPy.

    Attributes:
      perturbation: δ, [H,W,3], at most epsilon in each value.
      losses: [T,J], L of every model at the start of each step, the mean over that step's images.
      weights: [T,J], the weight of every model in each step.
    """

    perturbation: np.ndarray
    losses: np.ndarray
    weights: np.ndarray


def fit_universal(
    images: Any,
    ensemble: Generator | Sequence[Generator],
    config: Config = Config(),  # noqa: B008 - frozen
    key: int | Array = 0,
    *,
    labels: Labels | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Universal:
    """Finds one perturbation that disrupts every domain of every generator for all images.

    Each step is a step of Algorithm 1 on a batch of images that share the perturbation. With more
    images than a batch holds, each step takes the next batch of an endless shuffled deck, through
    one compiled program; otherwise all steps take all images, in the program of ``run``.

    Args:
      images: [N,H,W,3], floats in [-1, 1], to fit on.
      ensemble: one generator or a sequence of J.
      config: the options of the attack; ``perturbation`` is taken as ``universal``. For T steps to
        show every image some times, N / batch_size should be well below ``steps``.
      key: a seed, or one typed PRNG key: of the start, of random views and of the shuffling.
      labels: attributes of the N images, for the condition vectors.
      batch_size: images per step; 8, or as many as there are, if None.
      progress: ``progress(done, total)``, called after each step of several batches.

    Returns:
      the perturbation [H,W,3], at most epsilon in each value, with each step's losses and weights
      [T,J].

    Raises:
      ValueError: an argument is not as above; ``apgd``, which compares an objective between steps,
        has more images than a batch holds; or what ``protect`` raises of generators.

    Warns:
      UserWarning: as ``protect``; with several batches, only of losses that stay 0.
    """
    ensemble = as_tuple(ensemble)
    fit = _fit_of(images, ensemble, config, key, labels, batch_size)
    found = _fit_at_once(fit) if fit.at_once else _fit_in_turn(fit, progress)
    check_finite(fit.models, found.losses[:, None], found.perturbation)
    warn_of_constant(ensemble, fit.config, found.losses[:, None], found.weights[:, None])
    return found


def prepare_universal(
    images: Any,
    ensemble: Generator | Sequence[Generator],
    config: Config = Config(),  # noqa: B008 - frozen
    key: int | Array = 0,
    *,
    labels: Labels | None = None,
    batch_size: int | None = None,
) -> None:
    """Compiles ``fit_universal``'s program for the same arguments, unless that was done or begun.

    May be called in another thread, in the same contexts (``apart``, ``once``, JAX's own), which a
    new thread does not inherit; a ``fit_universal`` that needs the program meanwhile waits for it.

    Raises:
      ValueError: as ``fit_universal``, but for what only running shows.
    """
    fit = _fit_of(images, ensemble, config, key, labels, batch_size)
    if fit.at_once:
        attack.prepare(fit.config, fit.models, fit.everything(), fit.key)
        return
    batch = fit.batch_of(fit.deck()[0])
    carried = jax.eval_shape(functools.partial(begin, fit.structure), *fit.arguments_of(batch)[1:])
    program, arguments, plan = _step_of(fit, batch, carried)
    compilation.prepare(program, *arguments, plan=plan)


def apply_universal(images: Any, perturbation: Any, epsilon: float) -> np.ndarray:
    """Images with a universal perturbation, clipped to within epsilon of them and to [-1, 1].

    Args:
      images: [N,H,W,3], floats in [-1, 1], any number; those it was fitted on or others.
      perturbation: δ, [H,W,3], or what ``fit_universal`` returned.
      epsilon: the largest change of a value, in exact arithmetic.

    Returns:
      images [N,H,W,3] in the type of ``protect``.

    Raises:
      ValueError: the images are not as above, the perturbation has another size or is not finite,
        or there is no such epsilon.
    """
    Config(epsilon=epsilon)  # raises for an invalid epsilon
    clean = checked_images(images)
    if isinstance(perturbation, Universal):
        perturbation = perturbation.perturbation
    shared = np.asarray(perturbation, clean.dtype)
    if shared.shape != clean.shape[1:]:
        raise ValueError(
            f"a perturbation {list(shared.shape)} cannot be added to images {list(clean.shape)}"
        )
    if not np.isfinite(shared).all():
        raise ValueError("the perturbation must be finite; some values are NaN or infinite")
    lower, upper = box(jnp.asarray(clean), epsilon)
    return np.clip(clean + shared, np.asarray(lower), np.asarray(upper))


@dataclasses.dataclass(frozen=True)
class _Fit:
    """The checked arguments of a fit.

    Attributes:
      config: of a universal perturbation.
      models: ready for the images.
      clean: the images, [N,H,W,3].
      vectors: of each model the condition vectors, [N,K,n].
      key: one key.
      size: images per step.
    """

    config: Config
    models: tuple[Generator, ...]
    clean: np.ndarray
    vectors: tuple[np.ndarray, ...]
    key: Array
    size: int

    @property
    def at_once(self) -> bool:
        """Whether a step takes all images."""
        return len(self.clean) <= self.size

    @property
    def structure(self) -> Config:
        """The options that the program of a step depends on."""
        return structure_of(self.config)

    def everything(self) -> Batch:
        """All images as one batch, padded."""
        (rows,) = batches(len(self.clean), self.size)
        return make_batch(self.clean, self.vectors, rows, padding_mask(rows))

    def batch_of(self, rows: np.ndarray) -> Batch:
        """The images of these rows, none of which is padding."""
        return make_batch(self.clean, self.vectors, rows, np.ones(self.size, bool))

    def deck(self) -> list[np.ndarray]:
        """The indices of the images that each step takes."""
        return list(_deck(self.key, len(self.clean), self.size, self.config.resolve().steps))

    def arguments_of(self, batch: Batch) -> tuple[Any, ...]:
        """The arguments of a step besides its structure: models, batch, keys and numbers."""
        keys = jnp.broadcast_to(self.key, (self.size,))
        return self.models, batch, keys, numbers_of(self.config, self.clean.dtype, len(self.models))


def _fit_of(
    images: Any,
    ensemble: Generator | Sequence[Generator],
    config: Config,
    key: int | Array,
    labels: Labels | None,
    batch_size: int | None,
) -> _Fit:
    """Checks the arguments of a fit."""
    clean = checked_images(images)
    models = fit_views(ensemble, *clean.shape[1:3])
    vectors = tuple(conditions_of(model, labels, len(clean)) for model in models)
    size = chosen_batch_size(batch_size, len(clean))
    check_config(config)
    config = dataclasses.replace(config, perturbation="universal")
    fit = _Fit(config, models, clean, vectors, checked_keys(key, 1)[0], size)
    if config.update == "apgd" and not fit.at_once:
        raise ValueError(
            f"apgd compares an objective between steps, so it needs all images in one batch: "
            f"give a batch_size of {len(clean)} or another update"
        )
    return fit


def _fit_at_once(fit: _Fit) -> Universal:
    batch = fit.everything()
    result = jax.device_get(run(fit.config, fit.models, batch, fit.key))
    mask = np.asarray(batch.mask)
    return Universal(result.perturbation, result.losses[:, mask].mean(1), result.weights[:, 0])


def _fit_in_turn(fit: _Fit, progress: Callable[[int, int], None] | None) -> Universal:
    """Fits with one batch of the deck per step."""
    told, deck = [], fit.deck()
    carried = _begin(fit.structure, *fit.arguments_of(fit.batch_of(deck[0]))[1:])
    for done, rows in enumerate(deck, start=1):
        program, arguments, plan = _step_of(fit, fit.batch_of(rows), carried)
        carried, info = compilation.call(program, *arguments, plan=plan)
        told.append(jax.device_get(info))
        if progress is not None:
            progress(done, len(deck))
    steps = jax.tree.map(lambda *parts: np.stack(parts), *told)
    return Universal(np.asarray(carried.perturbation[0]), steps.losses.mean(1), steps.weights[:, 0])


def _step_of(
    fit: _Fit, batch: Batch, carried: Carried
) -> tuple[Callable[..., tuple[Carried, Info]], tuple[Any, ...], Plan]:
    """The program of a step, its arguments and its plan."""
    device = get_default_device()
    chunks = plan_chunks(fit.config.loss, fit.models, batch, device, None)
    arguments = (fit.structure, *fit.arguments_of(batch), carried)
    plan = Plan(chunks, computed_once=is_once(), registered=registered())
    return step_program(device.platform), arguments, plan


def _deck(key: Array, count: int, size: int, steps: int) -> Iterator[np.ndarray]:
    """Yields the images that each step takes, from a deck that is reshuffled when it runs out."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    dealt = np.empty(0, int)
    for _ in range(steps):
        while len(dealt) < size:
            dealt = np.concatenate([dealt, rng.permutation(count)])
        yield dealt[:size]
        dealt = dealt[size:]
