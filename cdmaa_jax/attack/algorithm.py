"""Algorithm 1 as pure functions: ``init``, ``step`` and ``finish`` of an attack on one batch.

Everything is per image. A result does not depend on which other images share the batch, on padding,
or on the number of devices, except for rounding in the generators' own sums. The one exception is
optional: a universal perturbation, which all images of a batch share.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Bool, Float, Key, ScalarLike

from cdmaa_jax import hoisting
from cdmaa_jax.attack import targets
from cdmaa_jax.attack.config import Config, check_config
from cdmaa_jax.attack.domains import DOMAIN_STRATEGIES, Evaluation
from cdmaa_jax.attack.keys import key_of_each
from cdmaa_jax.attack.memory import in_chunks
from cdmaa_jax.attack.models import MODEL_STRATEGIES, Gradients, Weights, combine
from cdmaa_jax.attack.numbers import Number, Numbers, inner_radius, numbers_of
from cdmaa_jax.attack.perturbations import PERTURBATIONS, Perturbation, bounds
from cdmaa_jax.attack.regularization import REGULARIZATIONS, Gradient, per_image
from cdmaa_jax.attack.targets import (
    Target,
    check_batch,
    fit_conditions,
    weigh,
)
from cdmaa_jax.attack.updates import ApgdState, make_update
from cdmaa_jax.scheduling import later
from cdmaa_jax.tracing import once
from cdmaa_jax.types import Array, Batch, Conditions, Generator, Images, Keys, Result, Time

T = TypeVar("T")


class State(NamedTuple):
    """The state that an attack carries from step to step.

    Attributes:
      images: x_t, [B,H,W,3].
      time: t.
      keys: for random views; each step derives its own.
      references: for each model, what the loss observes for the clean images; constant, but for
        ``attack_batch``, where the loop's first iteration may have to fill them.
      update: the state of the update rule.
      pixel_weights: for each model, or None if the loss does not weigh pixels; constant.
      perturbation: δ, if all images share one; None otherwise.
    """

    images: Images
    time: Time
    keys: Keys
    references: tuple[Float[Array, "B _K ..."], ...]
    update: optax.OptState
    pixel_weights: tuple[Float[Array, "B h w"] | None, ...]
    perturbation: Float[Array, "1 H W 3"] | None


class Carried(NamedTuple):
    """The fields of a ``State`` that a universal perturbation carries over to the next images."""

    perturbation: Float[Array, "1 H W 3"]
    time: Time
    update: optax.OptState


class Info(NamedTuple):
    """The report of a step: each model's loss and weight at the start of the step."""

    losses: Float[Array, "B J"]
    weights: Float[Array, "B J"]


class Attack(NamedTuple):
    """An attack on one batch.

    Attributes:
      init: ``init(keys, carried=None) -> State``, the start and the clean references, for [B] keys
        or one; ``carried``, of other images, replaces the start.
      step: ``step(state, evaluations=None) -> (state, info)``; an ``Evaluation`` of each model at
        the state's images, where they are given, saves computing them.
      finish: ``finish(state, evaluations=None) -> State``, the result's: x_T, or APGD's best.
    """

    init: Callable[..., State]
    step: Callable[..., tuple[State, Info]]
    finish: Callable[..., State]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How an attack is computed; it affects the result only through rounding.

    A static argument of every program that computes attacks.

    Attributes:
      chunks: how many images each generator takes at once; all of them if None.
      overlap: whether the generators need not take turns, which takes the memory of all of them.
      computed_once: whether fast compilation is preferred to fast execution.
      platform: the platform for which everything that is the same in all steps is computed before
        them (see ``hoisting``); None leaves that to XLA, which does it on CPUs alone.
      registered: ``config.registered()`` when the program was asked for.
    """

    chunks: tuple[int, ...] | None = None
    overlap: bool = False
    computed_once: bool = False
    platform: str | None = None
    registered: tuple[Any, ...] = ()


class _Problem(NamedTuple):
    config: Config  # ``steps`` is the only numeric option read from it
    numbers: Numbers
    ensemble: Sequence[Generator]
    batch: Batch
    perturbation: Perturbation
    rule: optax.GradientTransformationExtraArgs
    plan: Plan

    @property
    def chunks(self) -> Sequence[int | None]:
        """How many images each generator takes at once."""
        return self.plan.chunks or (None,) * len(self.ensemble)


def build(
    config: Config,
    ensemble: Generator | Sequence[Generator],
    batch: Batch,
    numbers: Numbers | None = None,
    axis: str | None = None,
    plan: Plan = Plan(),
    rule: optax.GradientTransformation | None = None,
) -> Attack:
    """The attack on a batch; its functions are pure, to be called under ``jit``.

    Generators see the images unchanged, or through their own ``view``, whatever their
    ``image_size``; ``protection.fit_views`` adds resizing views to generators that need them.

    Args:
      config: the options.
      ensemble: the generators; with none, the steps must be given evaluations, and ``numbers`` be
        ``numbers.numbers_of`` as many models.
      batch: the clean images and the condition vectors of each generator.
      numbers: used in place of the configuration's, where they are arguments of a program.
      axis: under ``shard_map``, the axis of the devices that share the batch.
      plan: how the steps are computed; of it the functions read ``chunks`` and ``overlap``.
      rule: an optax transformation in place of the configuration's update rule. It is given the
        direction along which the losses rise, and as ``value`` the mean of min(L, τ), and returns
        what to add to the images, or to a universal perturbation; the sum is projected onto the
        box.

    Raises:
      ValueError: the images are not [B,H,W,3], at least one, in float32 or float64; the batch has
        conditions, or the configuration ``model_weights``, for more or fewer generators; or its
        mask or pixel weights are of another shape, or for a loss that takes none. Its ``init``
        raises it for a key that is untyped, of another implementation, or one of another number of
        keys, and ``step`` for evaluations of more or fewer models.
    """
    problem = _pose(config, ensemble, batch, numbers, axis, plan)
    if rule is not None:
        problem = problem._replace(rule=optax.with_extra_args_support(rule))
    bind = functools.partial
    return Attack(bind(_init, problem), bind(_step, problem), bind(_finish, problem))


def _pose(
    config: Config,
    ensemble: Generator | Sequence[Generator],
    batch: Batch,
    numbers: Numbers | None,
    axis: str | None,
    plan: Plan,
) -> _Problem:
    ensemble = (ensemble,) if isinstance(ensemble, Generator) else ensemble
    check_config(config)
    check_batch(config.loss, ensemble, batch)
    config, batch = config.resolve(), fit(batch)
    if numbers is None:
        numbers = numbers_of(config, batch.images.dtype, len(ensemble))
    perturbation = PERTURBATIONS[config.perturbation](batch, numbers.radius, axis)
    rule = make_update(config, numbers, perturbation.lower, perturbation.upper)
    return _Problem(config, numbers, ensemble, batch, perturbation, rule, plan)


def _init(
    problem: _Problem,
    keys: Any,
    carried: Carried | None = None,
    observes: bool = True,
) -> State:
    """The initial state; its references are zeros unless it ``observes`` the clean images."""
    batch, clean = problem.batch, problem.batch.images
    keys = key_of_each(keys, len(clean))
    start_keys, view_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    rows = zip(problem.ensemble, batch.conditions, problem.chunks, strict=True)
    loss, see = problem.config.loss, observe if observes else _blank
    references = tuple(
        see(loss, chunk, model, clean, conditions, view_keys) for model, conditions, chunk in rows
    )
    weights = tuple(
        weigh(loss, model, clean, view_keys, batch.pixel_weights) for model in problem.ensemble
    )
    noise = start_noise(problem.numbers.start, start_keys, clean)
    start = problem.perturbation.project(problem.perturbation.start(noise))
    if carried is None:
        carried = Carried(start, jnp.zeros((), jnp.int32), problem.rule.init(start))
    return State(
        time=carried.time,
        keys=view_keys,
        references=references,
        update=carried.update,
        pixel_weights=weights,
        **_placed(problem, carried.perturbation),
    )


def observe(
    loss: str,
    chunk: int | None,
    model: Generator,
    images: Images,
    conditions: Conditions,
    keys: Keys,
) -> Float[Array, "B _K ..."]:
    """``targets.observe``, ``chunk`` images at a time."""

    def observe_part(part: tuple[Array, ...]) -> Array:
        return targets.observe(loss, model, *part)

    return in_chunks(observe_part, chunk, (images, conditions, keys))


def _blank(loss: str, chunk: int | None, *seen: Any) -> Array:
    """Zeros like what ``observe`` returns."""
    shape = jax.eval_shape(functools.partial(observe, loss, chunk), *seen)
    return jnp.zeros(shape.shape, shape.dtype)


def _placed(problem: _Problem, iterate: Array) -> dict[str, Any]:
    """The fields of a state that an iterate determines."""
    shared = problem.config.perturbation == "universal"
    images = problem.perturbation.place(iterate)
    return {"images": images, "perturbation": iterate if shared else None}


def _iterate(state: State) -> Array:
    """The variable that the update rule optimizes: x_t, or the shared perturbation."""
    return state.images if state.perturbation is None else state.perturbation


def _step(
    problem: _Problem, state: State, models: Sequence[Evaluation] | None = None
) -> tuple[State, Info]:
    numbers, pool = problem.numbers, problem.perturbation.pool
    if models is None:
        models = _evaluate(problem, state)
    if len(models) != len(numbers.model_weights):
        raise ValueError(
            f"there are evaluations of {len(models)} of {len(numbers.model_weights)} models"
        )
    gradients = [regularized(numbers, pool(m.gradient), pool(m.loss)) for m in models]
    stacked = jnp.stack(gradients, axis=1)
    weights = weights_of(numbers, stacked, state.time)
    direction, value = combine(weights, stacked), pool(objective(numbers.threshold, models))
    iterate = _iterate(state)
    change, update = problem.rule.update(direction, state.update, iterate, value=value)
    iterate = problem.perturbation.project(optax.apply_updates(iterate, change))
    losses = jnp.stack([model.loss for model in models], axis=1)
    info = Info(losses, jnp.broadcast_to(weights, losses.shape))
    state = state._replace(time=state.time + 1, update=update, **_placed(problem, iterate))
    return state, info


def _observe_or_step(problem: _Problem, state: State) -> tuple[State, Info]:
    """Takes a step or, at time -1, evaluates the clean images and stores the references.

    Computing the references in the loop avoids a second copy of the generators in the program,
    which would be a tenth of the code to compile.
    """
    observes = state.time < 0
    models = _evaluate(problem, state, observes)
    stepped, info = _step(problem, state, models)
    references = tuple(model.observed for model in models if model.observed is not None)
    observed = state._replace(time=stepped.time, references=references)
    return jax.tree.map(functools.partial(jnp.where, observes), observed, stepped), info


def regularized(numbers: Numbers, gradient: Gradient, loss: Float[Array, "B"]) -> Gradient:
    """A model's gradient with the chosen regularization, given its loss."""
    each = [regularize(gradient, loss, numbers.zeta) for regularize in REGULARIZATIONS.values()]
    return lax.select_n(numbers.regularization, *each)


def weights_of(numbers: Numbers, gradients: Gradients, time: Time) -> Weights:
    """The weights that the chosen strategy gives the models in a step."""
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
    best = jnp.where(per_image(better), _iterate(state), state.update.best)
    return state._replace(**_placed(problem, best))


def _evaluate(
    problem: _Problem, state: State, clean: Bool[Array, ""] | None = None
) -> list[Evaluation]:
    """Evaluates every model at the current images, with this step's draw of the random views.

    If ``clean`` is true: at the clean images, with the draw for those.
    """
    config, images, evaluations = problem.config, state.images, []
    strategy = functools.partial(DOMAIN_STRATEGIES[config.across_domains], config.loss)
    turn = state.time // problem.numbers.domain_period
    keys = keys_at(state.keys, state.time)
    if clean is not None:
        images = jnp.where(clean, problem.batch.images, images)
        keys = jnp.where(clean, state.keys, keys)
    rows = zip(problem.batch.conditions, state.references, state.pixel_weights, strict=True)
    for model, row, chunk in zip(problem.ensemble, rows, problem.chunks, strict=True):
        evaluations.append(evaluate(strategy, chunk, model, images, keys, turn, *row))
        if not problem.plan.overlap:
            # Models take turns: one's gradient frees its memory before the next begins.
            images = later(images, evaluations[-1].gradient)
    return evaluations


def keys_at(keys: Keys, time: Time) -> Keys:
    """The keys of the random views in a step."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, time)


def evaluate(
    strategy: Callable[..., T],
    chunk: int | None,
    model: Generator,
    images: Images,
    keys: Keys,
    turn: Time,
    *target: Any,
) -> T:
    """``strategy(target, images, keys, turn)`` for a model, ``chunk`` images at a time."""

    def evaluate_part(part: tuple[Any, ...]) -> T:
        images, keys, *rest = part
        return strategy(Target(model, *rest), images, keys, turn)

    return in_chunks(evaluate_part, chunk, (images, keys, *target))


def objective(threshold: ScalarLike, models: Sequence[Evaluation]) -> Float[Array, "B"]:
    """The objective of APGD: the mean over models and domains of min(L, τ).

    The domains are those that the strategy across domains attacks: with ``single`` only the first.
    """
    capped = [jnp.minimum(model.domain_losses, threshold).mean(1) for model in models]
    return jnp.stack(capped).mean(0)


def box(clean: Images, epsilon: float) -> tuple[Images, Images]:
    """The bounds of values within epsilon of the clean images and in [-1, 1].

    They are rounded inwards: in exact arithmetic, a bound is at most epsilon from the clean value.
    """
    return bounds(clean, inner_radius(epsilon, clean.dtype))


def start_noise(radius: Number, keys: Keys, like: Images) -> Images:
    """The start noise for the clean images; an image's noise depends only on its key."""
    draw = functools.partial(
        jax.random.uniform, shape=like.shape[1:], dtype=like.dtype, minval=-radius, maxval=radius
    )
    return jax.vmap(draw)(keys)


def attack_batch(
    config: Config,
    ensemble: tuple[Generator, ...],
    batch: Batch,
    keys: Key[Array, "..."],
    numbers: Numbers | None = None,
    *,
    axis: str | None = None,
    plan: Plan = Plan(),
) -> Result[Array]:
    """``run`` without its checks and compilation: a pure function, to be traced.

    It computes the same as ``init``, T times ``step``, and ``finish`` of ``build``. But APGD's last
    images are evaluated by one more iteration of the loop, and where the strategy across domains
    evaluates all of them (``uniform``), the clean references by one before the steps. So the
    program contains the generators once, not three times.
    """
    problem = _pose(config, ensemble, batch, numbers, axis, plan)
    steps = problem.config.steps
    judged = int(problem.config.update == "apgd")
    with once(plan.computed_once):
        if config.across_domains == "uniform":  # evaluates all domains, as the references need
            start = _init(problem, keys, observes=False)._replace(time=jnp.full((), -1, jnp.int32))
            body, first = _observe_or_step, 1
        else:
            with once():
                start = _init(problem, keys)
            body, first = _step, 0
        turns = first + steps + judged
        state, info = hoisting.scan(functools.partial(body, problem), start, turns, plan.platform)
        info = jax.tree.map(lambda each: each[first : first + steps], info)
        if judged:
            state = state._replace(**_placed(problem, state.update.best))
    shared = None if state.perturbation is None else state.perturbation[0]
    return Result(state.images, info.losses, info.weights, shared)


def advance(
    config: Config,
    ensemble: tuple[Generator, ...],
    batch: Batch,
    keys: Key[Array, "..."],
    numbers: Numbers,
    carried: Carried,
    plan: Plan = Plan(),
) -> tuple[Carried, Info]:
    """One step of a universal perturbation on the next images: a pure function, to be traced."""
    attack = build(config, ensemble, batch, numbers, plan=plan)
    with once(plan.computed_once):
        state, info = attack.step(attack.init(keys, carried))
    return _carry(state), info


def begin(config: Config, batch: Batch, keys: Key[Array, "..."], numbers: Numbers) -> Carried:
    """The start of a universal perturbation, for ``advance``; it depends on no generator."""
    batch = dataclasses.replace(batch, conditions=(), pixel_weights=None)
    return _carry(build(config, (), batch, numbers).init(keys))


def _carry(state: State) -> Carried:
    return Carried(_iterate(state), state.time, state.update)


def fit(batch: Batch) -> Batch:
    """The batch with images in one of JAX's types, and condition vectors of each in the same."""
    images = batch.images
    if isinstance(images, np.ndarray):  # not where there are shapes alone, to ``prepare`` for
        images = jnp.asarray(images)
    conditions = tuple(fit_conditions(c, images) for c in batch.conditions)
    return dataclasses.replace(batch, images=images, conditions=conditions)
