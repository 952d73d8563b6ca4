"""Runs attacks: in one compiled program, or in separately compiled pieces."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.backend import get_default_device
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cdmaa_jax import kept
from cdmaa_jax.attack import compilation, pieces
from cdmaa_jax.attack.algorithm import (
    Attack,
    Carried,
    Info,
    Plan,
    advance,
    attack_batch,
    fit,
)
from cdmaa_jax.attack.compilation import (
    cached,
    compiler_options,
    graph_options,
)
from cdmaa_jax.attack.config import Config, check_choice, check_config, registered
from cdmaa_jax.attack.keys import check_seed, key_of_each, seeded
from cdmaa_jax.attack.losses import LOSSES
from cdmaa_jax.attack.memory import can_overlap, has_room, plan_chunks
from cdmaa_jax.attack.numbers import Numbers, numbers_of, structure_of
from cdmaa_jax.attack.targets import (
    as_tuple,
    check_batch,
    check_conditions,
    check_images,
    check_pixel_weights,
    domain_losses,
    fit_conditions,
    make_target,
)
from cdmaa_jax.tracing import is_once, once
from cdmaa_jax.types import Array, Batch, Generator, Result

_CPU_DEVICES = (
    "this version of XLA may compute large generators wrongly on several devices of a CPU, which "
    "run at once; leave out devices"
)


def run(
    config: Config,
    ensemble: Generator | Sequence[Generator],
    batch: Batch,
    key: Array,
    *,
    devices: Sequence[Any] | None = None,
    chunk: int | None = None,
) -> Result[Array]:
    """Runs all steps of an attack in one compiled program around one ``lax.scan``.

    Within ``apart``, it loops over separately compiled pieces instead, on the default device.
    Within another function's trace, under ``jit`` for example, it becomes part of that, whatever
    the ``devices``; a ``shard_map`` around it needs ``check_vma=False``. ``algorithm.build`` says
    how generators see the images. Shapes and types are checked; values only by ``protect``.

    Args:
      config: the options; but for ``steps`` its numbers are arguments of the program.
      ensemble: one generator or J of them; their parameters are arguments of the program.
      batch: the clean images and, for each generator, the condition vectors.
      key: one typed PRNG key, whose start noise every image gets, or [B] of them; of threefry2x32.
      devices: the devices that share the batch, equally; the default device if None. Those of a
        CPU leave it to the first if half of its memory has no room for all. The means of a
        universal perturbation are exchanged in each step; XLA ends the process if one device of a
        CPU waits a minute for another.
      chunk: how many images a generator takes at once, on each device; for each what fits and
        suits the device if None. Fewer take less memory, and change nothing but the rounding of
        sums, which signs of gradients magnify from step to step: the images differ, and are as
        good.

    Raises:
      ValueError: the images are not [B,H,W,3], at least one, in float32 or float64; the batch does
        not fit the memory; the batch or the weights do not fit the ensemble, or the batch the
        devices; ``chunk`` is below 1; a generator's outputs have another shape than its inputs, or
        it has no encoder for the loss ``latent``; the pixel weights are of another shape, or for a
        loss that takes none; or the key is of another implementation, or there is another number
        of keys.

    Warns:
      UserWarning: the devices are several of a CPU, which run at once, and the version of XLA is
        not known to compute large generators rightly then (``compilation.can_share_cpu``).
    """
    devices = None if pieces.is_apart() else devices_of(devices)
    task = _task_of(config, ensemble, batch, key, devices, chunk)
    if _is_traced(task):
        return attack_batch(task.config, *task.arguments, plan=task.plan)
    if _sharers(task.devices) > 1 and not compilation.can_share_cpu():
        warnings.warn(_CPU_DEVICES, stacklevel=2)
    if pieces.is_apart():
        attack, again = (_in_pieces(task, c) for c in (pieces.call, pieces.call_again))
        return compilation.in_turn(pieces.run, attack, again, task.keys, task.config.steps)
    program, static, arguments = _program_of(task)
    if (known := _kept_program(task, arguments)) is not None:
        return Result(*compilation.call(known, *jax.tree.leaves(arguments)))
    if task.device.platform != "gpu":
        return compilation.call(program, *static, *arguments, plan=task.plan)
    graph = graph_for(task.devices is not None, task.plan.overlap)
    return compilation.call_as_graph(graph, program, *static, *arguments, plan=task.plan)


def prepare(
    config: Config,
    ensemble: Generator | Sequence[Generator],
    batch: Batch,
    key: Array,
    *,
    devices: Sequence[Any] | None = None,
    chunk: int | None = None,
) -> None:
    """Compiles the program of ``run`` for the same arguments, unless that was done or begun.

    Runs nothing: values do not matter, except for the structure of the configuration. May be called
    in another thread, in the same contexts (``apart``, ``once``, JAX's own), which a new thread
    does not inherit; a ``run`` that needs the program meanwhile waits for it.

    Raises:
      ValueError: as ``run``.
    """
    devices = None if pieces.is_apart() else devices_of(devices)
    task = _task_of(config, ensemble, batch, key, devices, chunk)
    if pieces.is_apart():
        pieces.prepare(_in_pieces(task, pieces.only_compile), task.keys)
        return
    program, static, arguments = _program_of(task)
    if (known := _kept_program(task, arguments)) is not None:
        compilation.prepare(known, *jax.tree.leaves(arguments))
    else:
        compilation.prepare(program, *static, *arguments, plan=task.plan)


class _Task(NamedTuple):
    config: Config  # reduced by ``structure_of``
    models: tuple[Generator, ...]
    batch: Batch
    keys: Array
    numbers: Numbers
    plan: Plan
    device: jax.Device  # or the first of those that share the batch
    devices: tuple[jax.Device, ...] | None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The array arguments, in the order of ``attack_batch``."""
        return self.models, self.batch, self.keys, self.numbers


def _task_of(
    config: Config,
    ensemble: Generator | Sequence[Generator],
    batch: Batch,
    key: Array,
    devices: tuple[jax.Device, ...] | None,
    chunk: int | None,
) -> _Task:
    """The checked arguments of an attack."""
    models = as_tuple(ensemble)
    check_config(config)
    check_batch(config.loss, models, batch)
    _check_shares(batch, devices)
    batch, keys = fit(batch), key_of_each(key, len(batch.images))
    numbers = numbers_of(config, batch.images.dtype, len(models))
    config = structure_of(config)
    device = get_default_device() if devices is None else devices[0]
    share, sharers = _share(batch, devices), _sharers(devices)
    if sharers > 1 and not has_room(config.loss, models, share, device, chunk, sharers):
        devices = (device,)
        share, sharers = _share(batch, devices), 1
    chunks = plan_chunks(config.loss, models, share, device, chunk, sharers)
    overlap = chunk is None and _can_overlap(config.loss, models, share, device, chunks)
    platform = None if device.platform == "cpu" else device.platform  # XLA itself hoists on CPUs
    plan = Plan(chunks, overlap, is_once(), platform, registered())
    return _Task(config, models, batch, keys, numbers, plan, device, devices)


def _is_traced(tree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _can_overlap(
    loss: str,
    models: tuple[Generator, ...],
    share: Batch,
    device: jax.Device,
    chunks: tuple[int, ...],
) -> bool:
    whole = min(chunks) == len(share.images)
    return whole and len(models) > 1 and can_overlap(loss, models, share, device)


def _in_pieces(task: _Task, call: Callable[..., Any]) -> Attack:
    chunks = task.plan.chunks or ()
    return pieces.build(task.config, task.models, task.batch, task.numbers, chunks, call)


def _kept_program(task: _Task, arguments: Any) -> Any:
    """The program of an attack from ``kept``; None if it has none."""
    places = None if task.devices is None else tuple(device.id for device in task.devices)
    options = compiler_options(task.device.platform, _sharers(task.devices) > 1)
    return kept.program(_attack_kept, (task.config, task.plan, places), arguments, options)


def _attack_kept(
    config: Config, plan: Plan, places: tuple[int, ...] | None, *arguments: Any
) -> Result[Array]:
    if places is None:
        return attack_batch(config, *arguments, plan=plan)
    devices = {device.id: device for device in jax.devices()}
    mesh = _mesh([devices[place] for place in places])
    return _run_sharded(config, mesh, *arguments, plan=plan)


def _program_of(
    task: _Task,
) -> tuple[Callable[..., Result[Array]], tuple[Any, ...], tuple[Any, ...]]:
    """The program of an attack, its static arguments but for the plan, and its arrays."""
    program = program_for(task.device.platform, task.devices and len(task.devices))
    if task.devices is None:
        return program, (task.config,), task.arguments
    mesh, (models, batch, keys, numbers) = _mesh(task.devices), task.arguments
    models, numbers = jax.device_put((models, numbers), NamedSharding(mesh, P()))
    batch, keys = jax.device_put((batch, keys), NamedSharding(mesh, P("batch")))
    return program, (task.config, mesh), (models, batch, keys, numbers)


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), ("batch",))


def _run_sharded(
    config: Config,
    mesh: Mesh,
    ensemble: tuple[Generator, ...],
    batch: Batch,
    keys: Array,
    numbers: Numbers,
    *,
    plan: Plan,
) -> Result[Array]:
    """Each device attacks its own images; only a universal perturbation's means are exchanged."""
    attack_share = functools.partial(attack_batch, config, axis="batch", plan=plan)
    attack = jax.shard_map(
        attack_share,
        mesh=mesh,
        in_specs=(P(), P("batch"), P("batch"), P()),
        out_specs=Result(P("batch"), P(None, "batch"), P(None, "batch"), P()),
        check_vma=False,  # the generators' custom gradient rules do not say what varies
    )
    return attack(ensemble, batch, keys, numbers)


def evaluate_losses(
    ensemble: Generator | Sequence[Generator],
    clean: Any,
    adversarial: Any,
    conditions: Sequence[Any],
    *,
    loss: str = "mse",
    pixel_weights: Any = None,
    seed: int = 0,
) -> list[Array]:
    """L of every model, image and domain, equation (29), in one compiled program.

    Within ``apart``, it calls the pieces with which attacks observe the clean images. It can be
    differentiated in reverse mode, as far as the generators can. Like ``run``, and unlike
    ``protect``, it gives generators the images unchanged, or through their own ``view``, whatever
    their ``image_size``: for images of another size, ``protection.fit_views`` prepares them.

    Args:
      ensemble: one generator or J of them.
      clean: [B,H,W,3], what the reference outputs are made from.
      adversarial: [B,H,W,3], the protected images.
      conditions: [B,K_j,n_j] or [1,K_j,n_j] for each generator.
      loss: a name in ``LOSSES``.
      pixel_weights: [B,H,W], for a loss that weighs pixels; its own choice if None.
      seed: of the views that are random; both images are seen through the same draw.

    Returns:
      J arrays [B,K_j]; [B,1] of a loss that does not depend on the domain.

    Raises:
      ValueError: the images are not [B,H,W,3], at least one, in float32 or float64, or not of one
        shape; there are conditions for more or fewer generators or images; there is no such seed;
        or there is no such loss, or none that takes such weights.
    """
    models = as_tuple(ensemble)
    clean, adversarial = jnp.asarray(clean), jnp.asarray(adversarial)
    check_images(clean)
    check_images(adversarial)
    if clean.shape != adversarial.shape:
        raise ValueError(
            f"clean and adversarial images must be of one shape, [B,H,W,3], not "
            f"{list(clean.shape)} and {list(adversarial.shape)}"
        )
    check_conditions(models, conditions, len(clean))
    check_seed(seed)
    fitted = tuple(fit_conditions(c, clean) for c in conditions)
    check_choice("loss", loss, tuple(LOSSES))
    if pixel_weights is not None:
        pixel_weights = jnp.asarray(pixel_weights)
    check_pixel_weights(loss, clean, pixel_weights)
    keys = jnp.broadcast_to(seeded(seed), (len(clean),))
    arguments = (models, clean, adversarial, fitted, keys, pixel_weights)
    if _is_traced(arguments):
        return _losses(loss, *arguments)
    if pieces.is_apart():
        return pieces.losses_of(loss, *arguments)
    program = _losses_program(get_default_device().platform)
    return compilation.in_turn(program, loss, *arguments, registered=registered())


@cached
def _losses_program(platform: str) -> Any:
    options = compiler_options(platform)
    static = ("loss", "registered")
    return jax.jit(_losses, static_argnames=static, compiler_options=options)


def _losses(
    loss: str,
    models: tuple[Generator, ...],
    clean: Array,
    adversarial: Array,
    conditions: tuple[Array, ...],
    keys: Array,
    pixel_weights: Array | None,
    registered: tuple[Any, ...] = (),
) -> list[Array]:
    del registered  # of the program's key alone
    with once():
        targets = [
            make_target(loss, model, clean, c, keys, pixel_weights)
            for model, c in zip(models, conditions, strict=True)
        ]
        return [domain_losses(loss, target, adversarial, keys) for target in targets]


@cached
def program_for(platform: str, devices: int | None) -> Callable[..., Result[Array]]:
    """``attack_batch``, or ``_run_sharded`` over so many devices, jitted.

    The first argument, the options, is static.
    """
    return _jitted(devices is not None, compiler_options(platform, (devices or 1) > 1))


@cached
def graph_for(sharded: bool, overlap: bool) -> Callable[..., Result[Array]]:
    """``program_for`` a GPU as one graph, whose kernels may ``overlap``; for ``call_as_graph``."""
    return _jitted(sharded, graph_options(overlap))


def _jitted(sharded: bool, options: dict[str, str]) -> Callable[..., Result[Array]]:
    if sharded:
        static = ("config", "mesh", "plan")
        return jax.jit(_run_sharded, static_argnames=static, compiler_options=options)
    return jax.jit(attack_batch, static_argnames=("config", "plan"), compiler_options=options)


@cached
def step_program(platform: str) -> Callable[..., tuple[Carried, Info]]:
    """``advance``, compiled for a platform; the configuration and the plan are static."""
    options = compiler_options(platform)
    return jax.jit(advance, static_argnames=("config", "plan"), compiler_options=options)


def _share(batch: Batch, devices: Sequence[jax.Device] | None) -> Batch:
    """The shapes of each device's share of a batch."""
    count = len(devices or (None,))

    def shape(array: Array) -> Any:
        return jax.ShapeDtypeStruct((len(array) // count, *array.shape[1:]), array.dtype)

    return jax.tree.map(shape, batch)


def _sharers(devices: Sequence[jax.Device] | None) -> int:
    """How many devices share one memory, as those of a CPU do."""
    return len(devices) if devices and devices[0].platform == "cpu" else 1


def devices_of(devices: Any) -> tuple[jax.Device, ...] | None:
    """Devices that share a batch; None stays None.

    Raises:
      ValueError: they are no devices, or not different ones.
    """
    if devices is None:
        return None
    each = tuple(devices) if isinstance(devices, Iterable) else (None,)
    if not all(isinstance(one, jax.Device) for one in each) or len({*each}) < len(each):
        raise ValueError(f"devices must be a list of different jax.devices(), not {devices!r}")
    return each


def _check_shares(batch: Batch, devices: Sequence[Any] | None) -> None:
    if devices is not None and (not devices or len(batch.images) % len(devices)):
        raise ValueError(
            f"a batch of {len(batch.images)} cannot be shared by {len(devices)} devices"
        )
