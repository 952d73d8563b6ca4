"""Protects arrays of any number of photos."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdmaa_jax import attack
from cdmaa_jax.attack import Config, run
from cdmaa_jax.attack.compilation import can_share_cpu
from cdmaa_jax.attack.config import check_config, check_positive
from cdmaa_jax.attack.keys import check_seed, key_of_each, seeded
from cdmaa_jax.attack.running import devices_of
from cdmaa_jax.attack.targets import as_tuple
from cdmaa_jax.images.views import resize
from cdmaa_jax.types import Array, Batch, Generator, Labels, Result

DEFAULT_BATCH = 8
"""Images per device in one batch; generators of official width then fit in a few GiB."""
_BATCH_AXES = Result(images=0, losses=1, weights=1)


def protect(
    images: Any,
    ensemble: Generator | Sequence[Generator],
    config: Config = Config(),  # noqa: B008 - frozen
    key: int | Array = 0,
    *,
    labels: Labels | None = None,
    face_weights: Any = None,
    batch_size: int | None = None,
    devices: Sequence[Any] | None = None,
    chunk: int | None = None,
) -> Result[np.ndarray]:
    """Protects images against every domain of every generator (Algorithm 1).

    Batches have one fixed shape, the last one padded, so one compiled program serves all of them,
    and later calls with the same shapes. Images that differ from a generator's native size are
    resized for it, differentiably, unless the generator has a view of its own.

    Args:
      images: [N,H,W,3], floats in [-1, 1]. Computed with in float32, or in float64 where the images
        are and JAX has it enabled.
      ensemble: one generator or a sequence of J.
      config: the options of the attack.
      key: a seed, or a typed PRNG key. Every image gets the same start noise, so a result does not
        depend on an image's neighbours; an array of [N] keys gives each its own.
      labels: attributes of the N images, for the condition vectors; a generator has a choice for
        images without.
      face_weights: [N,H,W], how much each pixel counts in the loss ``face-weighted``, of any scale;
        the face of an aligned crop if None.
      batch_size: images per batch; 8 per device or as many as there are if None.
      devices: devices that share each batch; the default device if None. Those of a CPU leave it to
        the first if half of its memory has no room for all.
      chunk: how many images of a batch a generator takes at once; what fits and suits the device if
        None. Fewer take less memory.

    Returns:
      NumPy arrays: images [N,H,W,3], in [-1, 1] and even in exact arithmetic at most epsilon from
      those computed with; losses and weights [T,N,J].

    Raises:
      ValueError: an argument is not as above; a generator's outputs have another shape than its
        inputs, or are not finite; the batch does not fit the device's memory.

    Warns:
      UserWarning: the outputs of a generator change in no step, as if they did not depend on the
        image, or had no gradient: with ``mgda`` across models it keeps the others from changing the
        image. A view that rounds, such as ``jpeg``, may hide the jittered start of an 8-bit photo;
        the start ``uniform`` is large enough. The devices are several of a CPU, and the version of
        XLA is not known to compute rightly on them, as for ``run``.

    Example:
      A target is any JAX function:

      >>> import jax.numpy as jnp
      >>> from cdmaa_jax import Config, Generator, protect
      >>> def tint(params, x, c):  # images [B,h,w,3] and conditions [B,1] to images
      ...     return jnp.tanh(x * params["gain"] + c[:, None, None, :])
      >>> generator = Generator(
      ...     name="tint",
      ...     apply=tint,
      ...     params={"gain": jnp.array(2.0)},
      ...     image_size=32,
      ...     domains=("darker", "lighter"),
      ...     conditions=lambda labels: jnp.array([[[-0.5], [0.5]]]),
      ... )
      >>> result = protect(jnp.zeros((1, 32, 32, 3)), generator, Config(steps=10))
      >>> result.images.shape, result.losses.shape
      ((1, 32, 32, 3), (10, 1, 1))
    """
    parts, devices, ensemble = [], devices_of(devices), as_tuple(ensemble)
    for models, batch, keys in _attacks(
        images, ensemble, config, key, labels, face_weights, batch_size, devices
    ):
        result = run(config, models, batch, keys, devices=devices, chunk=chunk)
        parts.append(_unpad(result, batch.mask))
        check_finite(models, parts[-1].losses, parts[-1].images)
        warn_of_constant(ensemble, config, parts[-1].losses, parts[-1].weights)
    return _join(parts)


def prepare(
    images: Any,
    ensemble: Generator | Sequence[Generator],
    config: Config = Config(),  # noqa: B008 - frozen
    key: int | Array = 0,
    *,
    labels: Labels | None = None,
    face_weights: Any = None,
    batch_size: int | None = None,
    devices: Sequence[Any] | None = None,
    chunk: int | None = None,
) -> None:
    """Compiles the program of ``protect`` for the same arguments, unless that was done or begun.

    Runs nothing. May be called in another thread, in the same contexts (``apart``, ``once``, JAX's
    own), which a new thread does not inherit; a ``protect`` that needs the program meanwhile waits
    for it.

    Raises:
      ValueError: as ``protect``, but for what only running shows.
    """
    devices = devices_of(devices)
    models, batch, keys = next(
        _attacks(images, ensemble, config, key, labels, face_weights, batch_size, devices)
    )
    attack.prepare(config, models, batch, keys, devices=devices, chunk=chunk)


def _attacks(
    images: Any,
    ensemble: Generator | Sequence[Generator],
    config: Config,
    key: int | Array,
    labels: Labels | None,
    face_weights: Any,
    batch_size: int | None,
    devices: Sequence[Any] | None,
) -> Iterator[tuple[tuple[Generator, ...], Batch, Array]]:
    """Yields the models with each batch and its keys."""
    _check_options(config)
    clean = checked_images(images)
    count, height, width, _ = clean.shape
    models = fit_views(ensemble, height, width)
    conditions = tuple(conditions_of(model, labels, count) for model in models)
    keys, weights = checked_keys(key, count), _checked_weights(face_weights, clean)
    size = chosen_batch_size(batch_size, count, len(devices) if devices is not None else 1)
    for rows in batches(count, size):
        yield models, make_batch(clean, conditions, rows, padding_mask(rows), weights), keys[rows]


def fit_views(
    ensemble: Generator | Sequence[Generator], height: int, width: int
) -> tuple[Generator, ...]:
    """The generators, ready for images of height x width pixels.

    A generator of another native size that has no view gets one that resizes images.
    """

    def fit(model: Generator) -> Generator:
        if model.view is not None or height == width == model.image_size:
            return model
        return dataclasses.replace(model, view=resize(model.image_size))

    return tuple(fit(model) for model in as_tuple(ensemble))


def checked_images(images: Any) -> np.ndarray:
    """Images [N,H,W,3] in the float type used for computation.

    Raises:
      ValueError: they are not finite floats in [-1, 1] of that shape.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        what = list(images.shape) if images.ndim else type(images.item()).__name__
        raise ValueError(f"images must be an array [N,H,W,3], at least one, not {what}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floats in [-1, 1], not {images.dtype}")
    if not np.isfinite(images).all():
        raise ValueError("images must be finite; some values are NaN or infinite")
    if images.min() < -1 or images.max() > 1:
        raise ValueError(f"images must be in [-1, 1]; theirs are {images.min()} to {images.max()}")
    wide = images.dtype == np.float64 and jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    return images.astype(np.float64 if wide else np.float32, copy=False)


def conditions_of(model: Generator, labels: Labels | None, count: int) -> np.ndarray:
    """The condition vectors [N,K,n] of a generator for N images.

    Raises:
      ValueError: there are labels of another number of images, or the generator's vectors are not
        one for each of its domains.
    """
    if not model.domains:
        raise ValueError(f"{model.name} has no domains; there is nothing to spoil")
    if not callable(model.conditions):
        kind = type(model.conditions).__name__
        raise ValueError(f"the conditions of {model.name} must be a function of labels, no {kind}")
    vectors = np.asarray(model.conditions(labels))
    if vectors.ndim != 3 or vectors.shape[1] != len(model.domains):
        raise ValueError(
            f"the conditions of {model.name} must be [B,{len(model.domains)},n], a vector for each "
            f"of its domains, not {list(vectors.shape)}"
        )
    if len(vectors) not in (1, count):
        what = "conditions" if labels is None else "labels or conditions"
        raise ValueError(f"the {what} of {model.name} are for {len(vectors)} images, not {count}")
    if len(vectors) < count:  # from labels of one image, or whatever the labels
        for name, column in (labels or {}).items():
            if (given := (np.shape(column) or (1,))[0]) != count:
                raise ValueError(f"the labels of {name} are for {given} images, not {count}")
    return np.broadcast_to(vectors, (count, *vectors.shape[1:]))


def _check_options(config: Config) -> None:
    check_config(config)
    if config.perturbation == "universal":
        raise ValueError(
            "protect finds a perturbation for each image, not a universal one; "
            "fit_universal and apply_universal do that"
        )


def _checked_weights(weights: Any, clean: np.ndarray) -> np.ndarray | None:
    if weights is None:
        return None
    weights = np.asarray(weights, clean.dtype)
    if weights.shape != clean.shape[:3]:
        raise ValueError(
            f"face_weights must be [N,H,W], {list(clean.shape[:3])}, not {list(weights.shape)}"
        )
    if not np.isfinite(weights).all() or weights.min() < 0 or not weights.any((1, 2)).all():
        raise ValueError("face_weights must be finite, at least 0, and not all 0 in an image")
    return weights


def checked_keys(key: int | Array, count: int) -> Array:
    """A PRNG key for each of N images.

    Raises:
      ValueError: it is neither a seed, 0 to 2^32 - 1, nor one typed key nor N of them, of
        threefry2x32.
    """
    if isinstance(key, int | np.integer):
        check_seed(int(key))
        key = seeded(int(key))
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"key must be a whole number or a key of jax.random.key, not {key!r}")
    return key_of_each(key, count)


def devices_for(size: int) -> list[jax.Device] | None:
    """As many of this machine's devices as can share a batch evenly; None if only one can.

    A CPU's do if each of them, and so each core, has images, and ``run`` does not warn of it.
    """
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if size % n == 0)
    if devices[0].platform == "cpu" and (count < len(devices) or not can_share_cpu()):
        return None
    return devices[:count] if count > 1 else None


def chosen_batch_size(size: int | None, count: int, devices: int = 1) -> int:
    """The number of images per batch, a multiple of the number of devices.

    Raises:
      ValueError: the size that was asked for is not such a number.
    """
    if size is None:
        per_device = min(DEFAULT_BATCH, -(-count // max(devices, 1)))
        return per_device * max(devices, 1)
    check_positive(batch_size=size)
    if size % max(devices, 1):
        raise ValueError(f"batch_size must be a multiple of the {devices} devices, not {size}")
    return size


def batches(count: int, size: int) -> Iterator[np.ndarray]:
    """Yields the image index of each row of a batch; padding repeats the last image."""
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)


def padding_mask(rows: np.ndarray) -> np.ndarray:
    """Which rows of ``batches`` are images, [B]; the others are padding."""
    return np.diff(rows, prepend=-1) > 0


def make_batch(
    clean: np.ndarray,
    conditions: tuple[np.ndarray, ...],
    rows: np.ndarray,
    mask: np.ndarray,
    weights: np.ndarray | None = None,
) -> Batch:
    """A batch of rows [B] of images [N,H,W,3], condition vectors [N,K,n] and pixel weights."""
    vectors = tuple(jnp.asarray(c[rows]) for c in conditions)
    some = None if weights is None else jnp.asarray(weights[rows])
    return Batch(jnp.asarray(clean[rows]), vectors, jnp.asarray(mask), some)


def _unpad(result: Result[Array], mask: Any) -> Result[np.ndarray]:
    """The rows of a result that are not padding, in NumPy."""
    mask = np.asarray(mask)
    images, losses, weights = jax.device_get((result.images, result.losses, result.weights))
    return Result(images[mask], losses[:, mask], weights[:, mask])


def check_finite(models: Sequence[Generator], losses: Any, found: Any) -> None:
    """Checks losses [T,N,J] and a result of any shape; the error says what is not finite, and when.

    Raises:
      ValueError: a value is NaN or infinite.
    """
    broken = ~np.isfinite(np.asarray(losses)).all(1)  # [T,J]
    if broken.any():
        step = int(broken.any(1).argmax())
        names = ", ".join(models[j].name for j in np.flatnonzero(broken[step]).tolist())
        told = f"in step {step} the outputs of {names} are not finite (NaN or infinite)"
        if step and broken[step].all():  # perhaps the images are not finite
            told = f"in step {step - 1} a generator's gradient is not finite, or {told}"
        raise ValueError(told)
    if not np.isfinite(np.asarray(found)).all():
        raise ValueError("in the last step a generator's gradient is not finite (NaN or infinite)")


def warn_of_constant(
    ensemble: Sequence[Generator], config: Config, losses: np.ndarray, weights: np.ndarray
) -> None:
    """Warns of generators whose losses [T,N,J] stay the same, since their outputs never change.

    Their gradient is 0, and so is the shortest combination of it with others. If it has all the
    weight, the losses of the others stay the same, too. The warning is shown at the call of the
    function that calls this.

    Args:
      ensemble: with their own views, without those of ``fit_views``.
      config: the options of the attack.
      losses: of all steps.
      weights: of the generators in all steps, [T,N,J].
    """
    held_by_others = (weights == 0) & (losses > 0)
    same = ((losses == losses[:1]) & ~held_by_others).all(0).any(0)
    constant = np.flatnonzero(same).tolist()  # of J
    if len(losses) < 2 or not constant:
        return
    names = ", ".join(ensemble[j].name for j in constant)
    text = f"the edits of {names} changed in no step"
    if len(ensemble) > 1 and config.across_models == "mgda":
        text += (
            "; with across_models mgda, the image then changes for no other generator either: "
            f"leave out {names}"
        )
    if config.resolve().start == "jitter" and any(ensemble[j].view is not None for j in constant):
        text += "; if a view rounds small changes away, as jpeg does, choose the start uniform"
    warnings.warn(text, stacklevel=3)


def _join(parts: Sequence[Result[np.ndarray]]) -> Result[np.ndarray]:
    def join(axis: int, *arrays: np.ndarray) -> np.ndarray:
        return np.concatenate(arrays, axis=axis)

    return jax.tree.map(join, _BATCH_AXES, *parts)
