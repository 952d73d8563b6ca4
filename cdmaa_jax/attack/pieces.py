"""Attacks in separately compiled pieces, which attacks that differ elsewhere can share.

Nearly all of the compilation is of the models' gradients, and many attacks have these in common,
whatever their update rule, number of steps and combination of the models. If a few photos are
attacked in many ways, compiling each attack as a whole takes longer than running them all.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.backend import get_default_device

from cdmaa_jax.attack import algorithm, compilation
from cdmaa_jax.attack.algorithm import Attack, Info, State, observe
from cdmaa_jax.attack.compilation import compiler_options
from cdmaa_jax.attack.config import Config, registered
from cdmaa_jax.attack.domains import DOMAIN_STRATEGIES, Evaluation, each_domain, joined
from cdmaa_jax.attack.keys import seeded
from cdmaa_jax.attack.losses import LOSSES
from cdmaa_jax.attack.numbers import Numbers, structure_of
from cdmaa_jax.attack.targets import Target, weigh
from cdmaa_jax.tracing import is_once, once
from cdmaa_jax.types import Array, Batch, Generator, Result

_ALIKE_FOR_ONE = ("uniform", "single", "iterative", "mgda")
_apart = contextvars.ContextVar("apart", default=False)


@contextlib.contextmanager
def apart(holds: bool = True) -> Iterator[None]:
    """Attacks run or prepared in this context are compiled in pieces, for the default device."""
    token = _apart.set(holds)
    try:
        yield
    finally:
        _apart.reset(token)


def is_apart() -> bool:
    """Whether attacks are compiled in pieces."""
    return _apart.get()


def call(piece: Callable[..., Any], static: Sequence[Any], *arguments: Any) -> Any:
    """``piece(*static, *arguments)``, compiled for the static arguments."""
    return compilation.call(_program(piece, static), *arguments)


def call_again(piece: Callable[..., Any], static: Sequence[Any], *arguments: Any) -> Any:
    """``call`` for a piece already called like this, without checking whether it is compiled."""
    return _program(piece, static)(*arguments)


def only_compile(piece: Callable[..., Any], static: Sequence[Any], *arguments: Any) -> Any:
    """``call`` that only compiles, unless that was done or begun; returns shapes for arrays.

    Raises:
      Exception: whatever compilation raises.
    """
    program = _program(piece, static)
    compilation.prepare(program, *arguments)
    return program.eval_shape(*arguments)


def build(
    config: Config,
    ensemble: Sequence[Generator],
    batch: Batch,
    numbers: Numbers,
    chunks: Sequence[int],
    call: Callable[..., Any] = call,
) -> Attack:
    """Like ``algorithm.build``, but the functions run compiled pieces; they are not to be traced.

    Args:
      config: what it does, of which the numbers are not read.
      ensemble: the models.
      batch: on the default device.
      numbers: those of the configuration.
      chunks: how many images each model takes at once.
      call: ``call``, ``call_again``, or ``only_compile`` for shapes.
    """
    config, batch, count = structure_of(config), algorithm.fit(batch), len(batch.images)
    attack = _Pieces(config, tuple(ensemble), batch, numbers, _sizes(chunks, count), call)
    return Attack(attack.init, attack.step, attack.finish)


def _sizes(chunks: Sequence[int], count: int) -> tuple[int | None, ...]:
    """The chunk sizes for a batch of ``count``; None for any that covers it, to share programs."""
    return tuple(None if chunk >= count else chunk for chunk in chunks)


def run(attack: Attack, again: Attack, keys: Array, steps: int) -> Result[Array]:
    """Runs all T steps of an attack in pieces; returns what ``algorithm.attack_batch`` returns.

    ``again`` is the same attack, built with ``call_again``, for all steps but the first.
    """
    state, told = attack.init(keys), []
    for step in range(steps):
        state, info = (again if step else attack).step(state)
        told.append(info)
    state = attack.finish(state)
    traces = Info(*(jnp.stack(parts) for parts in zip(*told, strict=True)))
    shared = None if state.perturbation is None else state.perturbation[0]
    return Result(state.images, traces.losses, traces.weights, shared)


def prepare(attack: Attack, keys: Array) -> None:
    """Compiles the pieces that ``run`` calls, given an attack built with ``only_compile``."""
    state, _ = attack.step(attack.init(keys))
    attack.finish(state)


def gradients_by(config: Config) -> tuple[str, str]:
    """The options that the compiled gradient programs depend on."""
    structure = structure_of(config)
    return _weighted(structure.loss), structure.across_domains


def domains_of(
    loss: str,
    ensemble: Sequence[Generator],
    batch: Batch,
    state: State,
    chunks: Sequence[int],
    call: Callable[..., Any] = call,
) -> list[tuple[Array, Array]]:
    """For each model, the gradients [B,K,H,W,3] and losses [B,K] of its domains."""
    sizes = _sizes(chunks, len(state.images))
    rows = zip(
        ensemble, sizes, batch.conditions, state.references, state.pixel_weights, strict=True
    )
    where, loss = (state.images, state.keys, state.time), _weighted(loss)
    found = []
    for model, chunk, conditions, *rest in rows:
        if _has_one(conditions):
            static, period = ("uniform", False, loss, chunk), np.ones((), np.int32)
            only = call(_evaluate, static, model, *where, period, conditions, *rest)
            found.append((call(_alone, (), only.gradient), only.domain_losses))
        else:
            found.append(call(_each_domain, (loss, chunk), model, *where, conditions, *rest))
    return found


def outputs_of(model: Generator, images: Array, conditions: Array) -> Array:
    """A model's outputs [B,K,h,w,3], computed by a piece, for images that it sees unchanged."""
    keys = jnp.broadcast_to(seeded(0), (len(images),))  # unused without a view
    model = dataclasses.replace(model, view=None)
    return call(observe, ("mse", None), model, images, conditions, keys)


def losses_of(
    loss: str,
    ensemble: Sequence[Generator],
    clean: Array,
    adversarial: Array,
    conditions: Sequence[Array],
    keys: Array,
    weights: Array | None,
) -> list[Array]:
    """L of every model, image and domain, [B,K], by the pieces that observe the clean images."""
    found = []
    for model, vectors in zip(ensemble, conditions, strict=True):
        references, observed = (
            call(observe, (_observed(loss), None), model, images, vectors, keys)
            for images in (clean, adversarial)
        )
        seen = call(weigh, (loss,), model, clean, keys, weights) if _weighs(loss) else None
        found.append(LOSSES[loss].distance(observed, references, seen))
    return found


def _observed(loss: str) -> str:
    """The first loss that observes the same, so that they share the piece for the references."""
    return next(name for name in LOSSES if LOSSES[name].observe is LOSSES[loss].observe)


def _weighted(loss: str) -> str:
    """The pixel-weighted loss that includes this one, so that they share the gradients' piece."""
    return "face-weighted" if loss == "mse" else loss


def _has_one(conditions: Array) -> bool:
    """Whether conditions [B,K,n] have one domain, for which ``_ALIKE_FOR_ONE`` are equivalent."""
    return conditions.shape[1] == 1


def _weighs(loss: str) -> bool:
    return LOSSES[loss].weighs_pixels


@dataclasses.dataclass(frozen=True)
class _Pieces:
    config: Config
    ensemble: tuple[Generator, ...]
    batch: Batch
    numbers: Numbers
    chunks: tuple[int | None, ...]
    call: Callable[..., Any]

    def init(self, keys: Array) -> State:
        state, batch = self._call_shared(_start, keys), self.batch
        rows = zip(self.ensemble, batch.conditions, self.chunks, strict=True)
        loss, images, view_keys = _observed(self.config.loss), batch.images, state.keys
        references = tuple(
            self.call(observe, (loss, chunk), model, images, conditions, view_keys)
            for model, conditions, chunk in rows
        )
        pairs = zip(self.ensemble, references, strict=True)
        weights = tuple(self._weights(*pair, view_keys) for pair in pairs)
        return state._replace(references=references, pixel_weights=weights)

    def _weights(self, model: Generator, references: Array, keys: Array) -> Array | None:
        """The pixel weights for ``_weighted``: those of the loss, or all 1."""
        loss, batch = self.config.loss, self.batch
        if _weighs(loss):
            return self.call(weigh, (loss,), model, batch.images, keys, batch.pixel_weights)
        if not _weighs(_weighted(loss)):
            return None
        count, _, height, width, _ = references.shape
        return jnp.ones((count, height, width), batch.images.dtype)

    def step(self, state: State, models: Sequence[Evaluation] | None = None) -> tuple[State, Info]:
        stepped, info = self._call_combining(_step, state, models)
        return stepped._replace(
            references=state.references, pixel_weights=state.pixel_weights
        ), info

    def finish(self, state: State, models: Sequence[Evaluation] | None = None) -> State:
        if self.config.update != "apgd":  # only APGD evaluates the last images
            return state
        return self._call_combining(_finish, state, models)

    def _call_combining(
        self, piece: Callable[..., Any], state: State, models: Sequence[Evaluation] | None
    ) -> Any:
        """Calls a piece with the models' evaluations, without the fields that it does not read."""
        models = self._evaluations(state) if models is None else models
        losses, gradients = [m.loss for m in models], [m.gradient for m in models]
        read = [m.domain_losses for m in models] if self.config.update == "apgd" else []
        return self._call_shared(piece, without_references(state), losses, gradients, read)

    def _call_shared(self, piece: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a piece that depends only on the number of models."""
        batch = dataclasses.replace(self.batch, conditions=(), pixel_weights=None)
        return self.call(piece, (self._rest,), batch, self.numbers, *arguments)

    @property
    def _rest(self) -> Config:
        """The options that concern no model; T only for APGD, whose schedule depends on it."""
        config = self.config
        steps = config.steps if config.update == "apgd" else Config().steps
        return Config(steps=steps, update=config.update, perturbation=config.perturbation)

    def _evaluations(self, state: State) -> list[Evaluation]:
        constants = self.batch.conditions, state.references, state.pixel_weights
        rows = zip(self.ensemble, self.chunks, *constants, strict=True)
        return [self._evaluate(state, *row) for row in rows]

    def _evaluate(
        self, state: State, model: Generator, chunk: int | None, conditions: Array, *rest: Any
    ) -> Evaluation:
        loss, where = _weighted(self.config.loss), (state.images, state.keys, state.time)
        strategy = self.config.across_domains
        if _has_one(conditions) and strategy in _ALIKE_FOR_ONE:
            strategy = "uniform"
        target = (conditions, *rest)
        if strategy == "mgda":
            found = self.call(_each_domain, (loss, chunk), model, *where, *target)
            return self.call(joined, (), *found)
        lone = strategy == "iterative" and self.config.update != "apgd"
        period = self.numbers.domain_period
        return self.call(_evaluate, (strategy, lone, loss, chunk), model, *where, period, *target)


def without_references(state: State) -> State:
    """The state without the fields that only the models' evaluations read."""
    return state._replace(references=(), pixel_weights=())


def _start(config: Config, batch: Batch, numbers: Numbers, keys: Array) -> State:
    return algorithm.build(config, (), batch, numbers).init(keys)


def _step(
    config: Config, batch: Batch, numbers: Numbers, state: State, *found: Sequence[Array]
) -> tuple[State, Info]:
    return algorithm.build(config, (), batch, numbers).step(state, _evaluations(*found))


def _finish(
    config: Config, batch: Batch, numbers: Numbers, state: State, *found: Sequence[Array]
) -> State:
    return algorithm.build(config, (), batch, numbers).finish(state, _evaluations(*found))


def _evaluations(
    losses: Sequence[Array], gradients: Sequence[Array], of_domains: Sequence[Array]
) -> list[Evaluation]:
    """The models' evaluations, with the models' losses in place of absent domain losses."""
    of_domains = of_domains or [loss[:, None] for loss in losses]
    return list(map(Evaluation, losses, gradients, of_domains))


def _evaluate(
    strategy: str,
    lone: bool,
    loss: str,
    chunk: int | None,
    model: Generator,
    images: Array,
    keys: Array,
    time: Array,
    period: Array,
    *target: Any,
) -> Evaluation:
    """Evaluates a model in a step; if ``lone``, without the losses of domains not taking part."""
    strategize = functools.partial(DOMAIN_STRATEGIES[strategy], loss)
    keys = algorithm.keys_at(keys, time)
    found = algorithm.evaluate(strategize, chunk, model, images, keys, time // period, *target)
    found = found._replace(observed=None)  # the references have been observed
    return found._replace(domain_losses=found.loss[:, None]) if lone else found


def _each_domain(
    loss: str,
    chunk: int | None,
    model: Generator,
    images: Array,
    keys: Array,
    time: Array,
    *target: Any,
) -> tuple[Array, Array]:
    def gradients(target: Target, images: Array, keys: Array, turn: Array) -> tuple[Array, Array]:
        return each_domain(loss, target, images, keys)

    keys = algorithm.keys_at(keys, time)
    return algorithm.evaluate(gradients, chunk, model, images, keys, time, *target)


def _alone(gradient: Array) -> Array:
    """The gradient [B,H,W,3] of a model with one domain, with an axis for domains."""
    return gradient[:, None]


_REPEATED = (_evaluate, _each_domain)
"""The pieces with the convolutions of every step; for others fast compilation is preferred."""


def _program(piece: Callable[..., Any], static: Sequence[Any]) -> Any:
    platform = get_default_device().platform
    quick = piece not in _REPEATED or (is_once() and platform == "cpu")  # no effect elsewhere
    return _compiled(piece, tuple(static), platform, quick, registered())


@compilation.cached
def _compiled(
    piece: Callable[..., Any],
    static: tuple[Any, ...],
    platform: str,
    computed_once: bool,
    registered: tuple[Any, ...],
) -> Any:
    del registered  # of the program's key alone

    def traced(*arguments: Any) -> Any:
        with once(computed_once):
            return piece(*static, *arguments)

    traced.__name__ = piece.__name__.lstrip("_")
    return jax.jit(traced, compiler_options=compiler_options(platform))
