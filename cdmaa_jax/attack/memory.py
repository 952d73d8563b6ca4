"""Estimates the memory of an attack, and the images that a generator may take at once.

An attack on a batch always holds its images, their clean outputs and those of a step, plus what
the gradient of one generator keeps for the images that it takes at once: a *chunk* of the batch.
A smaller chunk changes only the rounding of sums, which later steps magnify, and the time.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import lax

from cdmaa_jax import cgroups
from cdmaa_jax.attack.config import check_positive
from cdmaa_jax.attack.keys import seeded
from cdmaa_jax.attack.losses import LOSSES, outputs
from cdmaa_jax.attack.targets import domain_losses, make_target
from cdmaa_jax.types import Batch, Generator

T = TypeVar("T")
SHARE = 0.8
"""The share of the free memory used if no chunk size is given."""
_MARGIN = 1.25  # a program's memory over what its gradients keep: transforms and copies
_LANES = 128  # a TPU pads rows to multiples of so many values
_MARGIN_ON_TPU = 1.4  # further: programs compiled for a v5e took up to 1.36 times as much
_ENOUGH_PIXELS = 8 * 128 * 128  # output pixels per chunk beyond which a CPU gains nothing
_GENEROUS = 16 * 1024  # a generous upper estimate of the bytes kept per output pixel
_GIB = 2**30


_PLANS: dict[Any, tuple[int, ...]] = {}  # cached, since a changed plan means recompilation
_OVERLAPS: dict[Any, bool] = {}  # cached for the same reason
_SHARED: dict[Any, bool] = {}  # likewise
_PLANNING = threading.RLock()  # gives concurrent threads the same plan


@dataclasses.dataclass(frozen=True)
class Footprint:
    """The memory that an attack on a batch takes, in bytes.

    Attributes:
      count: the number of images in the batch.
      params: whatever the batch: the parameters.
      held: for each image of the batch, whatever the chunk: the image and the outputs.
      image: of each generator, for each image of a chunk.
    """

    count: int
    params: int
    held: int
    image: tuple[int, ...]

    @property
    def batch(self) -> int:
        """The bytes that do not depend on the chunks."""
        return self.params + self.count * self.held

    def of(self, chunks: Sequence[int]) -> int:
        """The bytes of an attack with these chunk sizes, one per generator."""
        return self.batch + max(map(operator.mul, self.image, chunks))

    def largest_chunks(self, memory: float) -> tuple[int, ...]:
        """The largest chunk size that fits, for each generator; at least 1."""
        return tuple(max(1, int((memory - self.batch) // max(one, 1))) for one in self.image)

    def largest_batch(self, memory: float) -> int:
        """The most images of a batch that fits if it is taken one at a time; 0 if not even one."""
        return max(0, int((memory - self.params - max(self.image)) // max(self.held, 1)))


def plan_chunks(
    loss: str,
    ensemble: Sequence[Generator],
    batch: Batch,
    device: jax.Device,
    chunk: int | None,
    sharers: int = 1,
) -> tuple[int, ...]:
    """How many images each generator takes at once.

    As many as fit the device's free memory; on a CPU no more than keep it busy, since smaller
    chunks stay in its caches.

    Args:
      loss: a name in ``LOSSES``.
      ensemble: the generators.
      batch: the batch, or the share of it that one device has.
      device: the device.
      chunk: the number for all generators; chosen if None.
      sharers: how many devices share the device's memory, as those of a CPU do.

    Raises:
      ValueError: ``chunk`` is not positive, or takes more than is free; the message says how many
        fit.
    """
    key = _kind_of(loss, ensemble, batch, device, chunk, sharers)
    with _PLANNING:
        if key not in _PLANS:
            memory = free_memory(device) // sharers
            _PLANS[key] = _plan(loss, ensemble, batch, device, chunk, memory)
        return _PLANS[key]


def has_room(
    loss: str,
    ensemble: Sequence[Generator],
    batch: Batch,
    device: jax.Device,
    chunk: int | None,
    sharers: int,
) -> bool:
    """Whether half of a memory has room for devices that share a batch.

    The answer stays the same in a process, whatever becomes free.

    Args:
      loss: a name in ``LOSSES``.
      ensemble: the generators.
      batch: the share of the batch that one device has.
      device: the first of the devices.
      chunk: how many images each generator takes at once; at least one if None.
      sharers: how many devices share the memory.

    Raises:
      ValueError: ``chunk`` is not positive.
    """
    key = _kind_of(loss, ensemble, batch, device, chunk, sharers)
    with _PLANNING:
        if key not in _SHARED:
            chunks = [fit_chunk(chunk or 1, len(batch.images))] * len(ensemble)
            room = free_memory(device) / 2 / sharers  # the programs may take more than is estimated
            estimates = (generous_footprint, footprint)  # the first takes no tracing
            _SHARED[key] = any(f(loss, ensemble, batch).of(chunks) <= room for f in estimates)
        return _SHARED[key]


def _kind_of(
    loss: str,
    ensemble: Sequence[Generator],
    batch: Batch,
    device: jax.Device,
    chunk: int | None = None,
    sharers: int = 1,
) -> tuple[Any, ...]:
    """A key of everything that the memory of an attack depends on."""
    if chunk is not None:
        check_positive(chunk=chunk)
    models = tuple((jax.tree.structure(model), _shapes(model)) for model in ensemble)
    return LOSSES[loss], models, _shapes(batch), device, chunk, sharers


def _shapes(tree: Any) -> tuple[Any, ...]:
    return tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree))


def _plan(
    loss: str,
    ensemble: Sequence[Generator],
    batch: Batch,
    device: jax.Device,
    chunk: int | None,
    memory: int,
) -> tuple[int, ...]:
    count = len(batch.images)
    wanted = [count if chunk is None else chunk] * len(ensemble)
    pixels = _output_pixels(ensemble, batch)
    if chunk is None and device.platform == "cpu":
        wanted = [max(1, _ENOUGH_PIXELS // n) for n in pixels]
    chunks = tuple(fit_chunk(n, count) for n in wanted)
    if generous_footprint(loss, ensemble, batch, device.platform).of(chunks) < memory / 2:
        return chunks
    needed = footprint(loss, ensemble, batch, device.platform)
    if chunk is None:
        fitting = needed.largest_chunks(SHARE * memory)
        chunks = tuple(fit_chunk(min(pair), count) for pair in zip(chunks, fitting, strict=True))
    _check_fit(needed, chunks, count, memory, device)
    return chunks


def can_overlap(loss: str, ensemble: Sequence[Generator], batch: Batch, device: jax.Device) -> bool:
    """Whether all generators' gradients fit a GPU concurrently, for all images at once.

    One generator rarely keeps a GPU busy; it does keep other devices busy. Concurrent kernels share
    little memory among them, so half of it must suffice.
    """
    if device.platform != "gpu":
        return False
    key = _kind_of(loss, ensemble, batch, device)
    with _PLANNING:
        if key not in _OVERLAPS:
            _OVERLAPS[key] = _fit_together(loss, ensemble, batch, free_memory(device))
        return _OVERLAPS[key]


def _fit_together(loss: str, ensemble: Sequence[Generator], batch: Batch, memory: int) -> bool:
    generous = generous_footprint(loss, ensemble, batch)
    if generous.batch + generous.count * sum(generous.image) < memory / 2:
        return True
    needed = footprint(loss, ensemble, batch)
    return needed.batch + 2 * needed.count * sum(needed.image) < memory / 2


def _output_pixels(ensemble: Sequence[Generator], batch: Batch) -> list[int]:
    """The pixels of each generator's outputs for one image; through a view, of its native size."""
    whole = math.prod(batch.images.shape[1:3])
    return [
        conditions.shape[1] * (whole if model.view is None else model.image_size**2)
        for model, conditions in zip(ensemble, batch.conditions, strict=True)
    ]


def _check_fit(
    needed: Footprint, chunks: Sequence[int], count: int, memory: int, device: jax.Device
) -> None:
    if needed.of(chunks) <= memory:
        return
    remedy = f"choose a chunk of at most {fit_chunk(min(needed.largest_chunks(memory)), count)}"
    if needed.of([1] * len(chunks)) > memory:
        remedy = _smaller_batch(needed.largest_batch(memory))
    at_once = "1 image" if max(chunks) == 1 else f"{max(chunks)} images"
    raise ValueError(
        f"a batch of {count}, {at_once} at a time, takes about "
        f"{needed.of(chunks) / _GIB:.1f} GiB; {device} has {memory / _GIB:.1f} GiB free: {remedy}"
    )


def _smaller_batch(most: int) -> str:
    if most == 0:
        return "not even one image fits; choose fewer or smaller generators"
    return f"choose a batch_size of at most {most} for each device"


def in_chunks(function: Callable[[Any], T], chunk: int | None, batch: Any) -> T:
    """Applies a function of arrays [B,...] to ``chunk`` of the B images at a time.

    More precisely, to as many as ``fit_chunk`` says; to all at once if None.
    """
    count = jax.tree.leaves(batch)[0].shape[0]
    size = count if chunk is None else fit_chunk(chunk, count)
    if size == count:
        return function(batch)
    if count % size:
        return _in_overlapping_chunks(function, size, count, batch)
    parts = jax.tree.map(lambda a: a.reshape(count // size, size, *a.shape[1:]), batch)
    joined = lax.map(function, parts)
    return jax.tree.map(lambda a: a.reshape(count, *a.shape[2:]), joined)


def _in_overlapping_chunks(function: Callable[[Any], T], size: int, count: int, batch: Any) -> T:
    """``in_chunks`` of a size that does not divide the batch, without a padded copy of it."""

    def apply(start: Any) -> T:
        take = functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
        return function(jax.tree.map(take, batch))

    def advance(turn: Any, done: T) -> T:
        start = jnp.minimum(turn * size, count - size)
        put = functools.partial(lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return jax.tree.map(put, done, apply(start))

    shapes = jax.eval_shape(apply, 0)
    blank = jax.tree.map(lambda a: jnp.zeros((count, *a.shape[1:]), a.dtype), shapes)
    return lax.fori_loop(0, -(-count // size), advance, blank)


def fit_chunk(chunk: int, count: int) -> int:
    """The size, up to ``chunk``, of the parts in which ``count`` images are taken.

    All parts have one size, so that one program serves them. The last may have to repeat images of
    the one before it: less than an eighth of all, or else the parts are smaller.
    """
    fewest = -(-count // min(chunk, count))
    sizes = (-(-count // parts) for parts in range(fewest, count + 1))
    return next(size for size in sizes if 8 * (-count % size) < count)


def footprint(
    loss: str, ensemble: Sequence[Generator], batch: Batch, platform: str = "cpu"
) -> Footprint:
    """An estimate from the shapes of what the gradients keep; nothing is executed."""
    rows = zip(ensemble, batch.conditions, strict=True)
    kept = [_kept(loss, model, conditions, batch) for model, conditions in rows]
    references, residuals = zip(*kept, strict=True)
    margin = _MARGIN * (_MARGIN_ON_TPU if platform == "tpu" else 1)
    image = [margin * n for n in residuals]
    return _footprint(ensemble, batch, sum(references), image, platform)


def generous_footprint(
    loss: str, ensemble: Sequence[Generator], batch: Batch, platform: str = "cpu"
) -> Footprint:
    """At least the ``footprint``, from the sizes of the outputs: no generator is traced for it."""
    pixels = _output_pixels(ensemble, batch)
    image = [_GENEROUS * n for n in pixels]
    if LOSSES[loss].observe is outputs:
        references = 3 * jnp.result_type(batch.images).itemsize * sum(pixels)
    else:  # what others observe is of unknown size
        references = sum(image)
    return _footprint(ensemble, batch, references, image, platform)


def _footprint(
    ensemble: Sequence[Generator],
    batch: Batch,
    references: int,
    image: Sequence[float],
    platform: str,
) -> Footprint:
    """The footprint, with rows padded as the platform does."""
    count, params = len(batch.images), _bytes([model.params for model in ensemble])
    width = batch.images.shape[2]
    held = _padding(platform, width) * (8 * _bytes(batch.images) / count + 2 * references)
    widths = (width if model.view is None else model.image_size for model in ensemble)
    padded = (_padding(platform, each) * n for each, n in zip(widths, image, strict=True))
    return Footprint(count, 2 * params, math.ceil(held), tuple(map(math.ceil, padded)))


def _padding(platform: str, width: int) -> float:
    """The memory of images over that of their values."""
    return math.ceil(width / _LANES) * _LANES / width if platform == "tpu" else 1


def free_memory(device: jax.Device) -> int:
    """The free bytes of a device; for a CPU, those of the machine or its container."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return free_host_memory()


def free_host_memory() -> int:
    """The free bytes of the machine or its container."""
    return int(min(psutil.virtual_memory().available, cgroups.memory_left()))


def _kept(loss: str, model: Generator, conditions: Any, batch: Batch) -> tuple[int, int]:
    """The bytes of one image's clean outputs, and of what its gradient keeps besides parameters."""

    def one(array: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *array.shape[1:]), array.dtype)

    def observe(params: Any, images: Any, conditions: Any) -> Any:
        generator = dataclasses.replace(model, params=params)
        keys = jnp.broadcast_to(seeded(0), (1,))
        target = make_target(loss, generator, images, conditions, keys, None)
        pull_back = jax.vjp(lambda x: domain_losses(loss, target, x, keys), images)[1]
        return target.references, pull_back

    references, pull_back = jax.eval_shape(
        observe, model.params, one(batch.images), one(conditions)
    )
    return _bytes(references), max(_bytes(pull_back) - _bytes(model.params), 0)


def _bytes(tree: Any) -> int:
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in _shapes(tree))
