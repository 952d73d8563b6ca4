"""Algorithm 1 as three pure functions: ``init``, ``step`` and ``run``.

Everything is per image. A result does not depend on which other images share the batch, on padding,
or on the number of devices, but for the rounding of the generators' own sums.
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

from cdmaa_jax.attack.config import Config
from cdmaa_jax.attack.domains import DOMAIN_STRATEGIES, Evaluation
from cdmaa_jax.attack.losses import LOSSES
from cdmaa_jax.attack.models import MODEL_STRATEGIES, combine
from cdmaa_jax.attack.numbers import Numbers, inner_radius, numbers_of, structure_of
from cdmaa_jax.attack.regularization import REGULARIZATIONS, per_image
from cdmaa_jax.attack.targets import Target, as_tuple, fit_conditions, make_target
from cdmaa_jax.attack.updates import ApgdState, make_update
from cdmaa_jax.types import Array, Batch, Generator, Result


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
    """

    images: Array
    time: Array
    keys: Array
    references: tuple[Array, ...]
    update: optax.OptState
    weights: tuple[Array | None, ...]


class Info(NamedTuple):
    """What a step reports: of each model the loss and the weight, both [B,J], at its start."""

    losses: Array
    weights: Array


class Attack(NamedTuple):
    """An attack on one batch.

    Attributes:
      init: ``init(keys [B]) -> State``, the start and the clean references.
      step: ``step(state) -> (state, info)``.
      finish: ``finish(state) -> images``, the result: x_T, or APGD's best.
    """

    init: Callable[[Array], State]
    step: Callable[[State], tuple[State, Info]]
    finish: Callable[[State], Array]


class _Problem(NamedTuple):
    config: Config  # of its numbers only ``steps`` is read
    numbers: Numbers
    ensemble: Sequence[Generator]
    batch: Batch
    project: Callable[[Array], Array]
    rule: optax.GradientTransformationExtraArgs


def build(
    config: Config, ensemble: Sequence[Generator], batch: Batch, numbers: Numbers | None = None
) -> Attack:
    """The attack on a batch; its functions are pure, to be called under ``jit``.

    ``numbers`` stand for those of the configuration, where they are arguments of a program.
    """
    config, batch = config.resolve(), _fit(batch)
    if numbers is None:
        numbers = numbers_of(config, batch.images.dtype, len(ensemble))
    lower, upper = _bounds(batch.images, numbers.radius)
    project = functools.partial(optax.projections.projection_box, lower=lower, upper=upper)
    rule = make_update(config, numbers.step_size, lower, upper)
    problem = _Problem(config, numbers, ensemble, batch, project, rule)
    bind = functools.partial
    return Attack(bind(_init, problem), bind(_step, problem), bind(_finish, problem))


def _init(problem: _Problem, keys: Array) -> State:
    batch, clean = problem.batch, problem.batch.images
    start_keys, view_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    targets = [
        make_target(problem.config.loss, model, clean, conditions, view_keys, batch.weights)
        for model, conditions in zip(problem.ensemble, batch.conditions, strict=True)
    ]
    references, weights = (tuple(getattr(t, n) for t in targets) for n in ("references", "weights"))
    images = problem.project(clean + start_noise(problem.numbers.start, start_keys, clean))
    start = jnp.zeros((), jnp.int32)
    return State(images, start, view_keys, references, problem.rule.init(images), weights)


def _step(problem: _Problem, state: State) -> tuple[State, Info]:
    config, numbers = problem.config, problem.numbers
    models = _evaluate(problem, state)
    regularize = REGULARIZATIONS[config.regularization]
    gradients = [regularize(model.gradient, model.loss, numbers.zeta) for model in models]
    stacked = jnp.stack(gradients, axis=1)
    weigh = MODEL_STRATEGIES[config.across_models]
    weights = weigh(stacked, state.time, numbers.model_weights)
    direction, value = combine(weights, stacked), objective(numbers.threshold, models)
    change, update = problem.rule.update(direction, state.update, state.images, value=value)
    images = problem.project(optax.apply_updates(state.images, change))
    info = Info(jnp.stack([model.loss for model in models], axis=1), weights)
    return state._replace(images=images, time=state.time + 1, update=update), info


def _finish(problem: _Problem, state: State) -> Array:
    if not isinstance(state.update, ApgdState):
        return state.images
    value = objective(problem.numbers.threshold, _evaluate(problem, state))
    better = value > state.update.best_value
    return jnp.where(per_image(better), state.images, state.update.best)


def _evaluate(problem: _Problem, state: State) -> list[Evaluation]:
    """Every model at the current images, through this step's draw of the random views."""
    config, batch = problem.config, problem.batch
    evaluate = DOMAIN_STRATEGIES[config.across_domains]
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(state.keys, state.time)
    targets = zip(problem.ensemble, batch.conditions, state.references, state.weights, strict=True)
    return [
        evaluate(config.loss, Target(*target), state.images, keys, state.time) for target in targets
    ]


def objective(threshold: float | Array, models: Sequence[Evaluation]) -> Array:
    """What APGD maximizes, [B]: the mean over models and their domains of min(L, τ)."""
    capped = [jnp.minimum(model.domain_losses, threshold).mean(1) for model in models]
    return jnp.stack(capped).mean(0)


def box(clean: Array, epsilon: float) -> tuple[Array, Array]:
    """The bounds of what is within epsilon of the clean images and in [-1, 1], each [B,H,W,3].

    They are rounded inwards: the distance of a bound to the clean value, in exact arithmetic, is at
    most epsilon.
    """
    return _bounds(clean, inner_radius(epsilon, clean.dtype))


def _bounds(clean: Array, radius: Any) -> tuple[Array, Array]:
    lower = jnp.nextafter(clean - radius, jnp.ones_like(clean))
    upper = jnp.nextafter(clean + radius, -jnp.ones_like(clean))
    return jnp.clip(lower, -1, clean), jnp.clip(upper, clean, 1)


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
) -> Result:
    """All steps of an attack, one compiled program around one ``lax.scan``.

    Args:
      config: the options; but for ``steps`` its numbers are arguments of the program.
      ensemble: one generator or J of them; their parameters are arguments of the program.
      batch: the clean images and, for each generator, the condition vectors.
      key: one typed PRNG key, whose start noise every image gets, or [B] of them.
      devices: the devices that share the batch, equally; the default device if None.

    Raises:
      ValueError: the batch or the weights do not fit the ensemble, or the batch the devices; or a
        generator's outputs have another shape than its inputs.
    """
    models = as_tuple(ensemble)
    _check_batch(models, batch, devices)
    _check_weights(config, batch)
    batch, keys = _fit(batch), jnp.broadcast_to(key, (len(batch.images),))
    numbers = numbers_of(config, batch.images.dtype, len(models))
    config = structure_of(config)
    if devices is None:
        return _run(config, models, batch, keys, numbers)
    mesh = Mesh(np.asarray(devices), ("batch",))
    models, numbers = jax.device_put((models, numbers), NamedSharding(mesh, P()))
    batch, keys = jax.device_put((batch, keys), NamedSharding(mesh, P("batch")))
    return _run_sharded(config, mesh, models, batch, keys, numbers)


def attack_batch(
    config: Config,
    ensemble: tuple[Generator, ...],
    batch: Batch,
    keys: Array,
    numbers: Numbers | None = None,
) -> Result:
    """``run`` without its checks and its compilation: a pure function, to trace."""
    attack = build(config, ensemble, batch, numbers)
    state, info = lax.scan(
        lambda state, _: attack.step(state), attack.init(keys), length=config.resolve().steps
    )
    return Result(attack.finish(state), info.losses, info.weights)


_run = jax.jit(attack_batch, static_argnames="config")


@functools.partial(jax.jit, static_argnames=("config", "mesh"))
def _run_sharded(
    config: Config,
    mesh: Mesh,
    ensemble: tuple[Generator, ...],
    batch: Batch,
    keys: Array,
    numbers: Numbers,
) -> Result:
    """Each device attacks its own images; nothing is communicated."""
    attack = jax.shard_map(
        functools.partial(attack_batch, config),
        mesh=mesh,
        in_specs=(P(), P("batch"), P("batch"), P()),
        out_specs=Result(P("batch"), P(None, "batch"), P(None, "batch")),  # type: ignore[arg-type]
        check_vma=False,  # the generators' own gradient rules do not say what varies
    )
    return attack(ensemble, batch, keys, numbers)


def _fit(batch: Batch) -> Batch:
    conditions = tuple(fit_conditions(c, batch.images) for c in batch.conditions)
    return dataclasses.replace(batch, conditions=conditions)


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
