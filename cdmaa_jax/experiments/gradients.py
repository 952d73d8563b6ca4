"""Measures Figure 2: how similar the gradients of domains and of models are, step by step.

A compiled scan, or within ``apart`` a loop over pieces of it, records at every step's images the
inner products of the gradients of all domains of all models. Cosines, norm ratios and Theorem 1
follow from these.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.backend import get_default_device

from cdmaa_jax.attack import compilation, pieces
from cdmaa_jax.attack.algorithm import Attack, Plan, State, build, evaluate, keys_at
from cdmaa_jax.attack.compilation import compiler_options
from cdmaa_jax.attack.config import Config, registered
from cdmaa_jax.attack.domains import Evaluation, each_domain
from cdmaa_jax.attack.keys import seeded
from cdmaa_jax.attack.memory import plan_chunks
from cdmaa_jax.attack.models import combine
from cdmaa_jax.attack.numbers import numbers_of
from cdmaa_jax.attack.pieces import is_apart
from cdmaa_jax.attack.regularization import REGULARIZATIONS
from cdmaa_jax.attack.targets import Target
from cdmaa_jax.experiments.statistics import interval, resampling, rounded
from cdmaa_jax.protection import make_batch
from cdmaa_jax.scheduling import later
from cdmaa_jax.tracing import is_once, once
from cdmaa_jax.types import Array, Batch, Generator

RATIO = "norm_ratio"
COSINE = "cosine"


@dataclass(frozen=True)
class Trace:
    """What is recorded for N images, T steps, and M domains of all J models together.

    Attributes:
      gram: float32 [T,N,M,M], inner products of the domains' gradients, scaled per step and image.
      along: [T,N,J], the inner product of w with each model's gradient, scaled.
      along_sign: [T,N,J], that of sign(w), which an I-FGSM step adds before it is clipped.
      along_step: [T,N,J], that of the step that is taken, x_{t+1} - x_t.
    """

    gram: np.ndarray
    along: np.ndarray
    along_sign: np.ndarray
    along_step: np.ndarray


def trace_gradients(
    config: Config,
    models: Sequence[Generator],
    images: np.ndarray,
    conditions: Sequence[np.ndarray],
    seed: int,
) -> Trace:
    """Attacks images [N,H,W,3] with uniform domains, and records the gradients along the way.

    Each model takes as many images at once as it does in an attack on all of them.

    Args:
      config: whose domains are ``uniform``.
      models: J of them.
      images: as many as are attacked at once.
      conditions: of each model, [N,K,n].
      seed: of the attack's start.

    Raises:
      ValueError: the images do not fit the memory.
    """
    what, chunks = _task_of(config, models, images, conditions, seed)
    if is_apart():
        traced = _trace_in_pieces(*what, chunks, pieces.call)
    else:
        program = _program(_platform(), is_once(), registered())
        traced = compilation.call(program, *what, chunks=chunks)
    return Trace(*(np.asarray(array) for array in traced))


def prepare_trace(
    config: Config,
    models: Sequence[Generator],
    images: np.ndarray,
    conditions: Sequence[np.ndarray],
    seed: int,
) -> None:
    """Compiles the programs that ``trace_gradients`` runs for the same arguments; runs nothing.

    Raises:
      ValueError: as ``trace_gradients``.
    """
    what, chunks = _task_of(config, models, images, conditions, seed)
    if is_apart():
        first = dataclasses.replace(config, steps=1)
        _trace_in_pieces(first, *what[1:], chunks, pieces.only_compile)
    else:
        program = _program(_platform(), is_once(), registered())
        compilation.prepare(program, *what, chunks=chunks)


def _task_of(
    config: Config,
    models: Sequence[Generator],
    images: np.ndarray,
    conditions: Sequence[np.ndarray],
    seed: int,
) -> tuple[tuple[Config, tuple[Generator, ...], Batch, Array], tuple[int, ...]]:
    """The attack's inputs, with a key per image, and how many images each model takes at once."""
    everyone = np.arange(len(images))
    batch = make_batch(images, tuple(conditions), everyone, np.ones(len(images), bool))
    keys = jnp.broadcast_to(seeded(seed), (len(images),))
    chunks = plan_chunks(config.loss, models, batch, get_default_device(), None)
    return (config, tuple(models), batch, keys), chunks


def _platform() -> str:
    return get_default_device().platform


def join(traces: Sequence[Trace]) -> Trace:
    """The traces of several batches as one."""
    arrays = zip(*map(arrays_of, traces), strict=True)
    return Trace(*(np.concatenate(parts, axis=1) for parts in arrays))


def arrays_of(trace: Trace) -> tuple[np.ndarray, ...]:
    """The arrays of a trace, in order."""
    return tuple(getattr(trace, field.name) for field in dataclasses.fields(trace))


def summarize_trace(
    trace: Trace, domains: Mapping[str, Sequence[str]], seed: int
) -> dict[str, Any]:
    """The figures of Figure 2, with intervals over images.

    Args:
      trace: what was recorded.
      domains: model name to the names of its domains, in the trace's order.
      seed: of the intervals.
    """
    summary = _summarizer(trace, seed)
    gram = trace.gram.astype(np.float64)
    between_domains: dict[str, Any] = {}
    at = 0
    for model, names in domains.items():
        inside = slice(at, at + len(names))
        at += len(names)
        if len(names) > 1:
            between_domains[model] = _pairs(gram[..., inside, inside], names, summary)
    of_models = between_models(gram, [len(names) for names in domains.values()])
    return {
        "between_domains": between_domains,
        "between_models": _pairs(of_models, list(domains), summary) if len(domains) > 1 else None,
        "theorem1": {
            "w": summary((trace.along > 0).all(-1).astype(float)),
            "sign(w)": summary((trace.along_sign > 0).all(-1).astype(float)),
            "step": summary((trace.along_step > 0).all(-1).astype(float)),
        },
    }


def between_models(gram: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Inner products of the models' gradients, the means over their domains, [...,J,J]."""
    mean = np.zeros((len(counts), sum(counts)))
    starts = np.cumsum([0, *counts])
    for j, count in enumerate(counts):
        mean[j, starts[j] : starts[j + 1]] = 1 / count
    return mean @ gram @ mean.T


def _pairs(
    gram: np.ndarray, names: Sequence[str], summary: Callable[[np.ndarray], dict[str, Any]]
) -> dict[str, Any]:
    """Cosines and norm ratios, the smaller over the larger, of each pair, and their means."""
    norms = np.sqrt(np.maximum(np.diagonal(gram, axis1=-2, axis2=-1), 0))
    pairs = list(combinations(range(len(names)), 2))
    figures: dict[str, dict[str, np.ndarray]] = {COSINE: {}, RATIO: {}}
    for a, b in pairs:
        title = f"{names[a]}, {names[b]}"
        low, high = (
            np.minimum(norms[..., a], norms[..., b]),
            np.maximum(norms[..., a], norms[..., b]),
        )
        product = _positive(norms[..., a] * norms[..., b])
        figures[COSINE][title] = gram[..., a, b] / product
        figures[RATIO][title] = low / _positive(high)
    return {
        metric: {
            **summary(np.mean(list(values.values()), axis=0)),
            "pairs": {title: summary(value) for title, value in values.items()},
        }
        for metric, values in figures.items()
    }


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, 1)


def _summarizer(trace: Trace, seed: int) -> Callable[[np.ndarray], dict[str, Any]]:
    draws = resampling(trace.gram.shape[1], seed)

    def summary(values: np.ndarray) -> dict[str, Any]:
        """The mean of values [T,N], its interval over images, and the means by step and image."""
        return {
            "mean": rounded(values.mean(), 12),  # beyond that, the order of a sum counts
            "interval": rounded(interval(values.mean(0), draws), 12),
            "by_step": rounded(values.mean(1)),
            "by_image": rounded(values.mean(0)),
        }

    return summary


@compilation.cached
def _program(
    platform: str, computed_once: bool, registered: tuple[Any, ...]
) -> Callable[..., tuple[Array, ...]]:
    """``_trace``, compiled for a platform."""
    del registered  # of the program's key alone
    trace = functools.partial(_trace, computed_once=computed_once)
    return jax.jit(
        trace, static_argnames=("config", "chunks"), compiler_options=compiler_options(platform)
    )


def _trace(
    config: Config,
    models: tuple[Generator, ...],
    batch: Batch,
    keys: Array,
    chunks: tuple[int, ...],
    computed_once: bool,
) -> tuple[Array, ...]:
    attack = build(config, models, batch, plan=Plan(chunks))

    def step(state: State, _: None) -> tuple[State, tuple[Array, ...]]:
        return _record(config, attack, state, _of_domains(config, models, batch, state, chunks))

    with once():
        start = attack.init(keys)
    with once(computed_once):
        _, recorded = lax.scan(step, start, length=config.steps)
    return recorded


def _trace_in_pieces(
    config: Config,
    models: tuple[Generator, ...],
    batch: Batch,
    keys: Array,
    chunks: tuple[int, ...],
    call: Callable[..., Any],
) -> list[Any]:
    """The same in a loop over pieces; the models' pieces are those of an ``mgda`` attack."""
    numbers = numbers_of(config, batch.images.dtype, len(models))
    state = pieces.build(config, models, batch, numbers, chunks, call).init(keys)
    bare = dataclasses.replace(batch, conditions=())
    one = dataclasses.replace(config, steps=1)  # the same program for any number
    told = []
    for _ in range(config.steps):
        of_domains = pieces.domains_of(config.loss, models, batch, state, chunks, call)
        before = pieces.without_references(state)
        stepped, recorded = call(_record_apart, (one,), bare, before, of_domains)
        state = stepped._replace(references=state.references, pixel_weights=state.pixel_weights)
        told.append(recorded)
    return list(zip(*told, strict=True))


def _record_apart(
    config: Config, batch: Batch, state: State, of_domains: Sequence[tuple[Array, Array]]
) -> tuple[State, tuple[Array, ...]]:
    """``_record`` without the models."""
    numbers = numbers_of(config, batch.images.dtype, len(of_domains))
    return _record(config, build(config, (), batch, numbers), state, of_domains)


def _record(
    config: Config,
    attack: Attack,
    state: State,
    of_domains: Sequence[tuple[Array, Array]],
) -> tuple[State, tuple[Array, ...]]:
    """Takes a step from all domains' gradients; also gives the inner products of a ``Trace``."""
    regularize = REGULARIZATIONS[config.regularization]
    evaluations = [Evaluation(loss.mean(1), g.mean(1), loss) for g, loss in of_domains]
    each = jnp.concatenate([gradients for gradients, _ in of_domains], axis=1)
    stepped, info = attack.step(state, evaluations)
    of_models = jnp.stack([model.gradient for model in evaluations], axis=1)
    regular = jax.vmap(regularize, in_axes=(1, 1, None), out_axes=1)(
        of_models, info.losses, config.zeta
    )
    direction, scaled = _scaled(combine(info.weights, regular)[:, None]), _scaled(of_models)
    taken = _scaled((stepped.images - state.images)[:, None])
    ways = direction, jnp.sign(direction), taken
    along = [(way * scaled).sum((2, 3, 4)) for way in ways]
    flat = _scaled(each).reshape(*each.shape[:2], -1)
    gram = jnp.einsum("bmd,bnd->bmn", flat, flat, precision=lax.Precision.HIGHEST)
    return stepped, (gram, *along)


def _of_domains(
    config: Config,
    models: tuple[Generator, ...],
    batch: Batch,
    state: State,
    chunks: tuple[int, ...],
) -> list[tuple[Array, Array]]:
    """For each model, the gradients of its domains' losses, [B,K,H,W,3], and the losses, [B,K]."""

    def strategy(target: Target, images: Array, keys: Array, turn: Array) -> tuple[Array, Array]:
        return each_domain(config.loss, target, images, keys)

    keys, images, found = keys_at(state.keys, state.time), state.images, []
    rows = zip(models, chunks, batch.conditions, state.references, state.pixel_weights, strict=True)
    for model, chunk, *target in rows:
        found.append(evaluate(strategy, chunk, model, images, keys, state.time, *target))
        images = later(images, found[-1][0].mean(1))  # so that models take turns in memory
    return found


def _scaled(gradients: Array) -> Array:
    """Gradients [B,M,H,W,3] over each image's largest entry: their squares would underflow."""
    largest = jnp.abs(gradients).max((1, 2, 3, 4), keepdims=True)
    return gradients / jnp.where(largest > 0, largest, 1)
