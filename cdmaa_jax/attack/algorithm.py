"""Algorithm 1 as three pure functions: ``init``, ``step`` and ``run``.

Everything is per image. A result does not depend on which other images share the batch, on padding,
or on the number of devices, but for the rounding of the generators' own sums. The one exception is
asked for: a universal perturbation, which the images of a batch share.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cdmaa_jax.attack import compilation
from cdmaa_jax.attack.compilation import compiler_options
from cdmaa_jax.attack.config import Config
from cdmaa_jax.attack.domains import DOMAIN_STRATEGIES, Evaluation
from cdmaa_jax.attack.losses import LOSSES
from cdmaa_jax.attack.memory import in_chunks, plan_chunks
from cdmaa_jax.attack.models import MODEL_STRATEGIES, combine
from cdmaa_jax.attack.numbers import Numbers, inner_radius, numbers_of, structure_of
from cdmaa_jax.attack.perturbations import PERTURBATIONS, Perturbation, bounds
from cdmaa_jax.attack.regularization import REGULARIZATIONS, per_image
from cdmaa_jax.attack.targets import Target, as_tuple, fit_conditions, make_target
from cdmaa_jax.attack.updates import ApgdState, make_update
from cdmaa_jax.tracing import is_once, once
from cdmaa_jax.types import Array, Batch, Generator, Result

_BELOW = -2.0  # less than any pixel


class State(NamedTuple):
    """What an attack carries from step to step.

    Attributes:
      images: x_t, [B,H,W,3].
      time: t.
      keys: [B], of the views that are random; each step derives its own.
      references: of each model what the loss observes for the clean images, [B,K,...]; never
        change.
      update: the state of the update rule.
      weights: of each model those of the pixels [B,h,w], None unless the loss weighs them; never
        change.
      perturbation: δ, [1,H,W,3], where all images share one; None otherwise.
    """

    images: Array
    time: Array
    keys: Array
    references: tuple[Array, ...]
    update: optax.OptState
    weights: tuple[Array | None, ...]
    perturbation: Array | None


class Carried(NamedTuple):
    """What a universal perturbation takes along to the next images: fields of a ``State``."""

    perturbation: Array
    time: Array
    update: optax.OptState


class Info(NamedTuple):
    """What a step reports: of each model the loss and the weight, both [B,J], at its start."""

    losses: Array
    weights: Array


class Attack(NamedTuple):
    """An attack on one batch.

    Attributes:
      init: ``init(keys [B]) -> State``, the start and the clean references; with what other images
        were left with as a second argument, that instead of the start.
      step: ``step(state) -> (state, info)``; with what the models come to at its images as a second
        argument, an ``Evaluation`` for each, that instead of evaluating them.
      finish: ``finish(state) -> State``, that of the result: x_T, or APGD's best.
    """

    init: Callable[..., State]
    step: Callable[..., tuple[State, Info]]
    finish: Callable[[State], State]


class _Problem(NamedTuple):
    config: Config  # of its numbers only ``steps`` is read
    numbers: Numbers
    ensemble: Sequence[Generator]
    batch: Batch
    perturbation: Perturbation
    rule: optax.GradientTransformationExtraArgs
    chunks: Sequence[int | None]


def build(
    config: Config,
    ensemble: Sequence[Generator],
    batch: Batch,
    numbers: Numbers | None = None,
    axis: str | None = None,
    chunks: Sequence[int] | None = None,
) -> Attack:
    """The attack on a batch; its functions are pure, to be called under ``jit``.

    ``numbers`` stand for those of the configuration, where they are arguments of a program. Under
    ``shard_map`` the ``axis`` names the devices that share the batch. ``chunks`` are how many
    images each generator takes at once, all if None.
    """
    config, batch = config.resolve(), _fit(batch)
    if numbers is None:
        numbers = numbers_of(config, batch.images.dtype, len(ensemble))
    moved = PERTURBATIONS[config.perturbation](batch, numbers.radius, axis)
    rule = make_update(config, numbers, moved.lower, moved.upper)
    each = [None] * len(ensemble) if chunks is None else chunks
    problem = _Problem(config, numbers, ensemble, batch, moved, rule, each)
    bind = functools.partial
    return Attack(bind(_init, problem), bind(_step, problem), bind(_finish, problem))


def _init(problem: _Problem, keys: Array, carried: Carried | None = None) -> State:
    batch, clean = problem.batch, problem.batch.images
    start_keys, view_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    rows = zip(problem.ensemble, batch.conditions, problem.chunks, strict=True)
    targets = [_observe_clean(problem.config.loss, batch, view_keys, *row) for row in rows]
    references, weights = zip(*targets, strict=True)
    noise = start_noise(problem.numbers.start, start_keys, clean)
    moved = problem.perturbation.project(problem.perturbation.start(noise))
    if carried is None:
        carried = Carried(moved, jnp.zeros((), jnp.int32), problem.rule.init(moved))
    return State(
        time=carried.time,
        keys=view_keys,
        references=references,
        update=carried.update,
        weights=weights,
        **_placed(problem, carried.perturbation),
    )


def _observe_clean(
    loss: str, batch: Batch, keys: Array, model: Generator, conditions: Array, chunk: int | None
) -> tuple[Array, Array | None]:
    """What outputs are compared with: the references, and the weights of pixels."""

    def observe(part: tuple[Any, ...]) -> tuple[Array, Array | None]:
        target = make_target(loss, model, *part)
        return target.references, target.weights

    return in_chunks(observe, chunk, (batch.images, conditions, keys, batch.weights))


def _placed(problem: _Problem, moved: Array) -> dict[str, Any]:
    """The fields of a state that tell of what is moved."""
    shared = problem.config.perturbation == "universal"
    images = problem.perturbation.place(moved)
    return {"images": images, "perturbation": moved if shared else None}


def _moved(state: State) -> Array:
    return state.images if state.perturbation is None else state.perturbation


def _step(
    problem: _Problem, state: State, models: Sequence[Evaluation] | None = None
) -> tuple[State, Info]:
    numbers, pool = problem.numbers, problem.perturbation.pool
    if models is None:
        models = _evaluate(problem, state)
    gradients = [regularized(numbers, pool(m.gradient), pool(m.loss)) for m in models]
    stacked = jnp.stack(gradients, axis=1)
    weights = weights_of(numbers, stacked, state.time)
    direction, value = combine(weights, stacked), pool(objective(numbers.threshold, models))
    moved = _moved(state)
    change, update = problem.rule.update(direction, state.update, moved, value=value)
    moved = problem.perturbation.project(optax.apply_updates(moved, change))
    losses = jnp.stack([model.loss for model in models], axis=1)
    info = Info(losses, jnp.broadcast_to(weights, losses.shape))
    state = state._replace(time=state.time + 1, update=update, **_placed(problem, moved))
    return state, info


def regularized(numbers: Numbers, gradient: Array, loss: Array) -> Array:
    """A model's gradient [B,H,W,3] as the chosen regularization has it, for its loss [B]."""
    each = [regularize(gradient, loss, numbers.zeta) for regularize in REGULARIZATIONS.values()]
    return lax.select_n(numbers.regularization, *each)


def weights_of(numbers: Numbers, gradients: Array, time: Array) -> Array:
    """The weights [B,J] of the models as the chosen strategy has them, in a step."""
    each = [
        strategy(gradients, time, numbers.model_weights) for strategy in MODEL_STRATEGIES.values()
    ]
    return lax.select_n(numbers.across_models, *each)


def _finish(problem: _Problem, state: State) -> State:
    if not isinstance(state.update, ApgdState):
        return state
    value = objective(problem.numbers.threshold, _evaluate(problem, state))
    better = problem.perturbation.pool(value) > state.update.best_value
    best = jnp.where(per_image(better), _moved(state), state.update.best)
    return state._replace(**_placed(problem, best))


def _evaluate(problem: _Problem, state: State) -> list[Evaluation]:
    """Every model at the current images, through this step's draw of the random views."""
    config, batch = problem.config, problem.batch
    evaluate = DOMAIN_STRATEGIES[config.across_domains]
    turn = state.time * problem.numbers.domain_stride
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(state.keys, state.time)

    def at_once(model: Generator, part: tuple[Any, ...]) -> Evaluation:
        images, keys, *target = part
        return evaluate(config.loss, Target(model, *target), images, keys, turn)

    rows = zip(batch.conditions, state.references, state.weights, strict=True)
    images, evaluations = state.images, []
    for model, row, chunk in zip(problem.ensemble, rows, problem.chunks, strict=True):
        evaluate_one = functools.partial(at_once, model)
        evaluations.append(in_chunks(evaluate_one, chunk, (images, keys, *row)))
        images = _after(evaluations[-1].gradient, images)
    return evaluations


def _after(gradient: Array, images: Array) -> Array:
    """The images, but computed after a gradient of their shape; NaN where that is.

    So the models take turns, and what one keeps for its gradient is freed before the next begins.
    Nothing weaker lasts until XLA orders a program, which then might hold all of it at once.
    """
    return jnp.maximum(images, jnp.minimum(gradient, _BELOW))


def objective(threshold: float | Array, models: Sequence[Evaluation]) -> Array:
    """What APGD maximizes, [B]: the mean over models and their domains of min(L, τ)."""
    capped = [jnp.minimum(model.domain_losses, threshold).mean(1) for model in models]
    return jnp.stack(capped).mean(0)


def box(clean: Array, epsilon: float) -> tuple[Array, Array]:
    """The bounds of what is within epsilon of the clean images and in [-1, 1], each [B,H,W,3].

    They are rounded inwards: the distance of a bound to the clean value, in exact arithmetic, is at
    most epsilon.
    """
    return bounds(clean, inner_radius(epsilon, clean.dtype))


def start_noise(radius: float | Array, keys: Array, like: Array) -> Array:
    """What is added to the clean images [B,H,W,3] at first; a field depends on its key alone."""
    draw = functools.partial(
        jax.random.uniform, shape=like.shape[1:], dtype=like.dtype, minval=-radius, maxval=radius
    )
    return jax.vmap(draw)(keys)


def run(
    config: Config,
    ensemble: Generator | Sequence[Generator],
    batch: Batch,
    key: Array,
    *,
    devices: Sequence[Any] | None = None,
    chunk: int | None = None,
) -> Result:
    """All steps of an attack, one compiled program around one ``lax.scan``.

    Args:
      config: the options; but for ``steps`` its numbers are arguments of the program.
      ensemble: one generator or J of them; their parameters are arguments of the program.
      batch: the clean images and, for each generator, the condition vectors.
      key: one typed PRNG key, whose start noise every image gets, or [B] of them.
      devices: the devices that share the batch, equally; the default device if None.
      chunk: how many images a generator takes at once; for each what fits and suits the device if
        None. Fewer take less memory, and change nothing but the rounding of sums.

    Raises:
      ValueError: the batch does not fit the memory; the batch or the weights do not fit the
        ensemble, or the batch the devices; or a generator's outputs have another shape than its
        inputs.
    """
    program, arguments, options = _program_of(config, ensemble, batch, key, devices, chunk)
    return compilation.call(program, *arguments, **options)


def prepare(
    config: Config,
    ensemble: Generator | Sequence[Generator],
    batch: Batch,
    key: Array,
    *,
    devices: Sequence[Any] | None = None,
    chunk: int | None = None,
) -> None:
    """Compiles what ``run`` runs for the same arguments, unless that was done or begun.

    Runs nothing: values do not matter, but for the structure of the configuration. May be called in
    another thread; a ``run`` that needs the program meanwhile waits for it.

    Raises:
      ValueError: as ``run``.
    """
    program, arguments, options = _program_of(config, ensemble, batch, key, devices, chunk)
    compilation.prepare(program, *arguments, **options)


def _program_of(
    config: Config,
    ensemble: Generator | Sequence[Generator],
    batch: Batch,
    key: Array,
    devices: Sequence[Any] | None,
    chunk: int | None,
) -> tuple[Callable[..., Result], tuple[Any, ...], dict[str, Any]]:
    """The program of an attack, what it is called with, and that by name."""
    models = as_tuple(ensemble)
    _check_batch(models, batch, devices)
    _check_weights(config, batch)
    batch, keys = _fit(batch), jnp.broadcast_to(key, (len(batch.images),))
    numbers = numbers_of(config, batch.images.dtype, len(models))
    config = structure_of(config)
    device = jax.devices()[0] if devices is None else devices[0]
    share = _share(batch, 1 if devices is None else len(devices))
    chunks = plan_chunks(config.loss, models, share, device, chunk)
    program = program_for(device.platform, devices is not None)
    options = {"chunks": chunks, "computed_once": is_once()}
    if devices is None:
        return program, (config, models, batch, keys, numbers), options
    mesh = Mesh(np.asarray(devices), ("batch",))
    models, numbers = jax.device_put((models, numbers), NamedSharding(mesh, P()))
    batch, keys = jax.device_put((batch, keys), NamedSharding(mesh, P("batch")))
    return program, (config, mesh, models, batch, keys, numbers), options


def attack_batch(
    config: Config,
    ensemble: tuple[Generator, ...],
    batch: Batch,
    keys: Array,
    numbers: Numbers | None = None,
    axis: str | None = None,
    chunks: tuple[int, ...] | None = None,
    computed_once: bool = False,
) -> Result:
    """``run`` without its checks and its compilation: a pure function, to trace.

    If it is ``computed_once``, all of it is rather quick to compile than to compute.
    """
    attack = build(config, ensemble, batch, numbers, axis, chunks)
    with once():
        start = attack.init(keys)
    with once(computed_once):
        state, info = lax.scan(
            lambda state, _: attack.step(state), start, length=config.resolve().steps
        )
        state = attack.finish(state)
    shared = None if state.perturbation is None else state.perturbation[0]
    return Result(state.images, info.losses, info.weights, shared)


def advance(
    config: Config,
    ensemble: tuple[Generator, ...],
    batch: Batch,
    keys: Array,
    numbers: Numbers,
    carried: Carried,
    chunks: tuple[int, ...] | None = None,
    computed_once: bool = False,
) -> tuple[Carried, Info]:
    """One step of a universal perturbation on the next images: a pure function, to trace."""
    attack = build(config, ensemble, batch, numbers, chunks=chunks)
    with once(computed_once):
        state, info = attack.step(attack.init(keys, carried))
    return _carry(state), info


def step_program(platform: str) -> Callable[..., tuple[Carried, Info]]:
    """``advance``, compiled for a platform; for a few runs within ``once``."""
    return _step_program(platform, is_once())


@functools.cache
def _step_program(platform: str, computed_once: bool) -> Callable[..., tuple[Carried, Info]]:
    step = functools.partial(advance, computed_once=computed_once)
    static, options = ("config", "chunks"), compiler_options(platform)
    return jax.jit(step, static_argnames=static, compiler_options=options)


def begin(
    config: Config,
    ensemble: tuple[Generator, ...],
    batch: Batch,
    keys: Array,
    numbers: Numbers,
) -> Carried:
    """The start of a universal perturbation, for ``advance``."""
    return _carry(build(config, ensemble, batch, numbers).init(keys))


def _carry(state: State) -> Carried:
    return Carried(_moved(state), state.time, state.update)


def _run_sharded(
    config: Config,
    mesh: Mesh,
    ensemble: tuple[Generator, ...],
    batch: Batch,
    keys: Array,
    numbers: Numbers,
    chunks: tuple[int, ...],
    computed_once: bool = False,
) -> Result:
    """Each device attacks its own images, and only a universal perturbation's means meet."""
    attack_share = functools.partial(
        attack_batch, config, axis="batch", chunks=chunks, computed_once=computed_once
    )
    attack = jax.shard_map(
        attack_share,
        mesh=mesh,
        in_specs=(P(), P("batch"), P("batch"), P()),
        out_specs=Result(P("batch"), P(None, "batch"), P(None, "batch"), P()),  # type: ignore[arg-type]
        check_vma=False,  # the generators' own gradient rules do not say what varies
    )
    return attack(ensemble, batch, keys, numbers)


@functools.cache
def program_for(platform: str, sharded: bool) -> Callable[..., Result]:
    """The compiled function: ``attack_batch`` with the configuration first, static."""
    options = compiler_options(platform)
    if sharded:
        static = ("config", "mesh", "chunks", "computed_once")
        return jax.jit(_run_sharded, static_argnames=static, compiler_options=options)
    static = ("config", "axis", "chunks", "computed_once")
    return jax.jit(attack_batch, static_argnames=static, compiler_options=options)


def _fit(batch: Batch) -> Batch:
    conditions = tuple(fit_conditions(c, batch.images) for c in batch.conditions)
    return dataclasses.replace(batch, conditions=conditions)


def _share(batch: Batch, devices: int) -> Batch:
    """The shapes of what each of some devices has of a batch."""

    def shape(array: Array) -> Any:
        return jax.ShapeDtypeStruct((len(array) // devices, *array.shape[1:]), array.dtype)

    return jax.tree.map(shape, batch)


def _check_batch(
    models: tuple[Generator, ...], batch: Batch, devices: Sequence[Any] | None
) -> None:
    if len(batch.conditions) != len(models):
        raise ValueError(
            f"the batch has conditions for {len(batch.conditions)} generators, not {len(models)}"
        )
    if devices is not None and (not devices or len(batch.images) % len(devices)):
        raise ValueError(
            f"a batch of {len(batch.images)} cannot be shared by {len(devices)} devices"
        )


def _check_weights(config: Config, batch: Batch) -> None:
    if batch.weights is None:
        return
    if not LOSSES[config.loss].weighs_pixels:
        raise ValueError(f"the loss {config.loss} takes no weights of pixels; face-weighted does")
    if batch.weights.shape != batch.images.shape[:3]:
        raise ValueError(
            f"weights of pixels must be [B,H,W], {list(batch.images.shape[:3])}, "
            f"not {list(batch.weights.shape)}"
        )
