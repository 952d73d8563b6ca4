"""Update rules, as optax gradient transformations that ascend: step 8 of Algorithm 1.

``update(w, state, images, value=objective)`` takes the direction w and returns what to add to the
images, all [B,H,W,3]; the caller projects the sum onto the box. Only APGD reads the images and the
objective [B] at them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Int, ScalarLike

from cdmaa_jax.attack.config import Config
from cdmaa_jax.attack.numbers import Numbers
from cdmaa_jax.attack.regularization import per_image
from cdmaa_jax.types import Array, Images, Time

MOMENTUM = 1.0
RHO, ALPHA = 0.75, 0.75


def make_update(
    config: Config, numbers: Numbers, lower: Images, upper: Images
) -> optax.GradientTransformationExtraArgs:
    """The update rule of a resolved configuration inside the box [lower, upper].

    The step size and the choice of momentum may be arguments of a program.
    """
    if config.update == "apgd":
        return apgd(config.steps, numbers.step_size, lower, upper)
    rule = with_momentum_if(numbers.momentum, numbers.step_size)
    return optax.with_extra_args_support(rule)


def i_fgsm(step_size: ScalarLike) -> optax.GradientTransformation:
    """a · sign(w), equation (2)."""
    return optax.chain(optax.scale_by_sign(), optax.scale(step_size))


def mi_fgsm(step_size: ScalarLike) -> optax.GradientTransformation:
    """a · sign(m) of the momentum m = Σ w / ‖w‖₁, per image (Dong et al. 2018, with μ = 1)."""
    normalize = optax.stateless(lambda w, params: _unit_l1(w))
    return optax.chain(normalize, optax.trace(MOMENTUM), i_fgsm(step_size))


def with_momentum_if(holds: ScalarLike, step_size: ScalarLike) -> optax.GradientTransformation:
    """``mi_fgsm`` if ``holds``, else ``i_fgsm``; the state is that of ``mi_fgsm``."""
    with_momentum, without = mi_fgsm(step_size), i_fgsm(step_size)

    def update(w, state, params=None):
        change, state = with_momentum.update(w, state, params)
        plain, _ = without.update(w, without.init(w), params)
        return jnp.where(holds, change, plain), state

    return optax.GradientTransformation(with_momentum.init, update)


def _unit_l1(w: Images) -> Images:
    largest = jnp.abs(w).max((1, 2, 3), keepdims=True)
    scaled = w / jnp.where(largest > 0, largest, 1)
    return scaled / jnp.maximum(jnp.abs(scaled).sum((1, 2, 3), keepdims=True), 1)


class ApgdState(NamedTuple):
    """The state of APGD; all but ``time`` is per image.

    Attributes:
      time: the number of the step.
      step_size: the current one.
      previous: the images one step earlier.
      best: the images of the largest objective so far.
      best_direction: w there.
      best_value: that objective.
      last_value: the objective one step earlier.
      successes: how many steps since the last checkpoint raised the objective.
      value_at_check: the best objective at the last checkpoint.
      halved: whether the last checkpoint halved the step.
    """

    time: Time
    step_size: Float[Array, "B"]
    previous: Images
    best: Images
    best_direction: Images
    best_value: Float[Array, "B"]
    last_value: Float[Array, "B"]
    successes: Float[Array, "B"]
    value_at_check: Float[Array, "B"]
    halved: Bool[Array, "B"]


def checkpoints(steps: int) -> list[int]:
    """The steps w_0 = 0 < w_1 < ... < steps at which APGD may halve its step size."""
    times, fraction, period = [0], 0.22, 0.22
    while (time := math.ceil(round(fraction * steps, 9))) < steps:
        if time > times[-1]:
            times.append(time)
        period = max(period - 0.03, 0.06)
        fraction += period
    return times


def apgd(
    steps: int, step_size: ScalarLike, lower: Images, upper: Images
) -> optax.GradientTransformationExtraArgs:
    """Auto-PGD (Croce and Hein 2020, Algorithm 1) in a box, with the initial ``step_size``.

    The state holds the best images, which are the result.
    """
    times = checkpoints(steps)
    intervals = np.zeros(steps + 1, np.int32)
    intervals[times] = np.diff(times, prepend=0)

    def init(images: Images) -> ApgdState:
        zero = jnp.zeros_like(images[:, 0, 0, 0])  # with the images' sharding
        low, high = zero - jnp.inf, zero + jnp.inf
        return ApgdState(
            time=jnp.zeros((), jnp.int32),
            step_size=zero + step_size,
            previous=images,
            best=images,
            best_direction=jnp.zeros_like(images),
            best_value=low,
            last_value=high,
            successes=zero,
            value_at_check=low,
            halved=jnp.zeros_like(zero, bool),
        )

    def update(direction, state, images, *, value, **_):
        state = _record(state, images, direction, value)
        state, restart = _check(state, jnp.asarray(intervals)[state.time])
        start = jnp.where(per_image(restart), state.best, images)
        direction = jnp.where(per_image(restart), state.best_direction, direction)
        moved = _move(state, start, direction, lower, upper)
        last_value = jnp.where(restart, state.best_value, value)
        state = state._replace(time=state.time + 1, previous=start, last_value=last_value)
        return moved - images, state

    return optax.GradientTransformationExtraArgs(init, update)


def _record(
    state: ApgdState, images: Images, direction: Images, value: Float[Array, "B"]
) -> ApgdState:
    """Counts a success, and keeps the best images."""
    better = value > state.best_value
    success = (value > state.last_value).astype(value.dtype)
    return state._replace(
        best=jnp.where(per_image(better), images, state.best),
        best_direction=jnp.where(per_image(better), direction, state.best_direction),
        best_value=jnp.where(better, value, state.best_value),
        successes=state.successes + success,
    )


def _check(state: ApgdState, interval: Int[Array, ""]) -> tuple[ApgdState, Bool[Array, "B"]]:
    """At a checkpoint, ``interval`` steps after the last, halves the step size where needed.

    That is if too few steps succeeded, or nothing has changed since the last checkpoint. Also
    returns which images restart from their best.
    """
    stalled = ~state.halved & (state.value_at_check == state.best_value)
    failing = state.successes < RHO * interval.astype(state.successes.dtype)
    restart = (interval > 0) & (failing | stalled)
    begins = (interval > 0) | (state.time == 0)
    state = state._replace(
        step_size=jnp.where(restart, state.step_size / 2, state.step_size),
        successes=jnp.where(begins, 0, state.successes),
        value_at_check=jnp.where(begins, state.best_value, state.value_at_check),
        halved=jnp.where(begins, restart, state.halved),
    )
    return state, restart


def _move(
    state: ApgdState, images: Images, direction: Images, lower: Images, upper: Images
) -> Images:
    """The projected trial point, combined with the last move."""
    trial = images + per_image(state.step_size) * jnp.sign(direction)
    trial = optax.projections.projection_box(trial, lower, upper)
    share = jnp.where(state.time == 0, 1.0, ALPHA).astype(images.dtype)
    moved = images + share * (trial - images) + (1 - share) * (images - state.previous)
    return optax.projections.projection_box(moved, lower, upper)
