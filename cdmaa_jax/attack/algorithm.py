"""Algorithm 1 as pure functions: ``init``, ``step`` and ``finish`` of an attack on one batch.

Everything is per image. A result does not depend on which other images share the batch, on padding,
or on the number of devices, but for the rounding of the generators' own sums. The one exception is
asked for: a universal perturbation, which the images of a batch share.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cdmaa_jax import hoisting
from cdmaa_jax.attack.config import Config
from cdmaa_jax.attack.domains import DOMAIN_STRATEGIES, Evaluation
from cdmaa_jax.attack.memory import in_chunks
from cdmaa_jax.attack.models import MODEL_STRATEGIES, combine
from cdmaa_jax.attack.numbers import Numbers, inner_radius, numbers_of
from cdmaa_jax.attack.perturbations import PERTURBATIONS, Perturbation, bounds
from cdmaa_jax.attack.regularization import REGULARIZATIONS, per_image
from cdmaa_jax.attack.targets import Target, fit_conditions, make_target, weigh
from cdmaa_jax.attack.updates import ApgdState, make_update
from cdmaa_jax.tracing import once
from cdmaa_jax.types import Array, Batch, Generator, Result

T = TypeVar("T")
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
      init: ``init(keys) -> State``, of [B] keys or one: the start and the clean references; with
        what other images were left with as a second argument, that instead of the start.
      step: ``step(state) -> (state, info)``; with what the models come to at its images as a second
        argument, an ``Evaluation`` for each, that instead of evaluating them.
      finish: ``finish(state) -> State``, that of the result: x_T, or APGD's best; evaluations as
        for ``step``.
    """

    init: Callable[..., State]
    step: Callable[..., tuple[State, Info]]
    finish: Callable[..., State]


class _Problem(NamedTuple):
    config: Config  # of its numbers only ``steps`` is read
    numbers: Numbers
    ensemble: Sequence[Generator]
    batch: Batch
    perturbation: Perturbation
    rule: optax.GradientTransformationExtraArgs
    chunks: Sequence[int | None]
    overlap: bool


def build(
    config: Config,
    ensemble: Generator | Sequence[Generator],
    batch: Batch,
    numbers: Numbers | None = None,
    axis: str | None = None,
    chunks: Sequence[int] | None = None,
    overlap: bool = False,
) -> Attack:
    """The attack on a batch; its functions are pure, to be called under ``jit``.

    Generators see the images as they are, or through their own ``view``, whatever their
    ``image_size``: ``protection.fit_views`` gives those views that need one to resize.

    ``numbers`` stand for those of the configuration, where they are arguments of a program. Under
    ``shard_map`` the ``axis`` names the devices that share the batch. ``chunks`` are how many
    images each generator takes at once, all if None. If they may ``overlap``, generators need not
    take turns, which takes the memory of all. Of no generators it is an attack whose steps are
    given evaluations.

    Raises:
      ValueError: the batch has conditions for more or fewer generators.
    """
    problem = _pose(config, ensemble, batch, numbers, axis, chunks, overlap)
    bind = functools.partial
    return Attack(bind(_init, problem), bind(_step, problem), bind(_finish, problem))


def _pose(
    config: Config,
    ensemble: Generator | Sequence[Generator],
    batch: Batch,
    numbers: Numbers | None,
    axis: str | None,
    chunks: Sequence[int] | None,
    overlap: bool,
) -> _Problem:
    ensemble = (ensemble,) if isinstance(ensemble, Generator) else ensemble
    if ensemble:
        check_conditions(ensemble, batch)
    config, batch = config.resolve(), fit(batch)
    if numbers is None:
        numbers = numbers_of(config, batch.images.dtype, len(ensemble))
    moved = PERTURBATIONS[config.perturbation](batch, numbers.radius, axis)
    rule = make_update(config, numbers, moved.lower, moved.upper)
    each = [None] * len(ensemble) if chunks is None else chunks
    return _Problem(config, numbers, ensemble, batch, moved, rule, each, overlap)


def check_conditions(ensemble: Sequence[Generator], batch: Batch) -> None:
    """Raises ValueError where a batch has conditions for more or fewer generators."""
    if len(batch.conditions) != len(ensemble):
        raise ValueError(
            f"the batch has conditions for {len(batch.conditions)} generators, not {len(ensemble)}"
        )


def _init(
    problem: _Problem, keys: Array, carried: Carried | None = None, look: bool = True
) -> State:
    """The state at the start; without a ``look`` at the clean images its references are zeros."""
    batch, clean = problem.batch, problem.batch.images
    keys = jnp.broadcast_to(keys, (len(clean),))
    start_keys, view_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    rows = zip(problem.ensemble, batch.conditions, problem.chunks, strict=True)
    see = observe if look else _blank
    observed = [
        see(problem.config.loss, chunk, model, clean, conditions, view_keys, batch.weights)
        for model, conditions, chunk in rows
    ]
    noise = start_noise(problem.numbers.start, start_keys, clean)
    moved = problem.perturbation.project(problem.perturbation.start(noise))
    if carried is None:
        carried = Carried(moved, jnp.zeros((), jnp.int32), problem.rule.init(moved))
    return State(
        time=carried.time,
        keys=view_keys,
        references=tuple(references for references, _ in observed),
        update=carried.update,
        weights=tuple(weights for _, weights in observed),
        **_placed(problem, carried.perturbation),
    )


def observe(
    loss: str,
    chunk: int | None,
    model: Generator,
    images: Array,
    conditions: Array,
    keys: Array,
    weights: Array | None,
) -> tuple[Array, Array | None]:
    """What a loss observes of a model for images, and the weights of pixels: of ``make_target``."""

    def observe_part(part: tuple[Any, ...]) -> tuple[Array, Array | None]:
        target = make_target(loss, model, *part)
        return target.references, target.weights

    return in_chunks(observe_part, chunk, (images, conditions, keys, weights))


def _blank(
    loss: str, chunk: int | None, model: Generator, *seen: Any
) -> tuple[Array, Array | None]:
    """What ``observe`` returns for the same, but zeros for what is observed."""
    shape, _ = jax.eval_shape(functools.partial(observe, loss, chunk), model, *seen)
    images, _, keys, weights = seen
    return jnp.zeros(shape.shape, shape.dtype), weigh(loss, model, images, keys, weights)


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


def _turn(problem: _Problem, state: State) -> tuple[State, Info]:
    """A step; but at time -1 a look at the clean images, which gives the references.

    So these take no program of their own, which would be a tenth of all that there is to compile.
    """
    looks = state.time < 0
    models = _evaluate(problem, state, looks)
    moved, info = _step(problem, state, models)
    observed = tuple(model.observed for model in models if model.observed is not None)
    looked = state._replace(time=moved.time, references=observed)
    return jax.tree.map(functools.partial(jnp.where, looks), looked, moved), info


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


def _finish(problem: _Problem, state: State, models: Sequence[Evaluation] | None = None) -> State:
    if not isinstance(state.update, ApgdState):
        return state
    if models is None:
        models = _evaluate(problem, state)
    value = objective(problem.numbers.threshold, models)
    better = problem.perturbation.pool(value) > state.update.best_value
    best = jnp.where(per_image(better), _moved(state), state.update.best)
    return state._replace(**_placed(problem, best))


def _evaluate(problem: _Problem, state: State, looks: Array | None = None) -> list[Evaluation]:
    """Every model at the current images, through this step's draw of the random views.

    Or at the clean images, through the draw for them, if it ``looks`` at those.
    """
    config, images, evaluations = problem.config, state.images, []
    strategy = functools.partial(DOMAIN_STRATEGIES[config.across_domains], config.loss)
    turn = state.time * problem.numbers.domain_stride
    keys = keys_at(state.keys, state.time)
    if looks is not None:
        images = jnp.where(looks, problem.batch.images, images)
        keys = jnp.where(looks, state.keys, keys)
    rows = zip(problem.batch.conditions, state.references, state.weights, strict=True)
    for model, row, chunk in zip(problem.ensemble, rows, problem.chunks, strict=True):
        evaluations.append(evaluate(strategy, chunk, model, images, keys, turn, *row))
        if not problem.overlap:
            images = after(evaluations[-1].gradient, images)
    return evaluations


def keys_at(keys: Array, time: Array) -> Array:
    """The keys [B] of the random views in a step."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, time)


def evaluate(
    strategy: Callable[..., T],
    chunk: int | None,
    model: Generator,
    images: Array,
    keys: Array,
    turn: Array,
    *target: Any,
) -> T:
    """A model at images, by ``strategy(target, images, keys, turn)``, so many images at a time."""

    def evaluate_part(part: tuple[Any, ...]) -> T:
        images, keys, *rest = part
        return strategy(Target(model, *rest), images, keys, turn)

    return in_chunks(evaluate_part, chunk, (images, keys, *target))


def after(gradient: Array, images: Array) -> Array:
    """The images, but computed after a gradient of their shape, whatever its values.

    So the models take turns, and what one keeps for its gradient is freed before the next begins.
    Nothing weaker lasts until XLA orders a program, which then might hold all of it at once.
    """
    return jnp.maximum(images, jnp.where(gradient < _BELOW, gradient, _BELOW))


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


def attack_batch(
    config: Config,
    ensemble: tuple[Generator, ...],
    batch: Batch,
    keys: Array,
    numbers: Numbers | None = None,
    axis: str | None = None,
    chunks: tuple[int, ...] | None = None,
    computed_once: bool = False,
    overlap: bool = False,
    platform: str | None = None,
) -> Result:
    """``run`` without its checks and its compilation: a pure function, to trace.

    If it is ``computed_once``, all of it is rather quick to compile than to compute. Where a
    ``platform`` is given, what does not depend on a step is computed before them: see ``hoisting``.
    """
    problem = _pose(config, ensemble, batch, numbers, axis, chunks, overlap)
    steps = problem.config.steps
    judged = problem.config.update == "apgd"  # by one more step, after which the best is known
    with once(computed_once):
        if config.across_domains == "uniform":  # which observes all that the references are of
            start = _init(problem, keys, look=False)._replace(time=jnp.full((), -1, jnp.int32))
            move, looks = _turn, 1
        else:
            with once():
                start = _init(problem, keys)
            move, looks = _step, 0
        turns = looks + steps + judged
        step = functools.partial(move, problem)
        state, info = hoisting.scan(step, start, turns, platform)
        info = jax.tree.map(lambda each: each[looks : looks + steps], info)
        if judged:
            state = state._replace(**_placed(problem, state.update.best))
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


def fit(batch: Batch) -> Batch:
    """A batch whose condition vectors are of every image, in the images' type."""
    conditions = tuple(fit_conditions(c, batch.images) for c in batch.conditions)
    return dataclasses.replace(batch, conditions=conditions)
