"""Trains one generator of the demonstration ensemble on portraits.

    python -m checkpoints.train ARCH --portraits DIR --out DIR

StarGAN is trained much as the original was: WGAN-GP, classification of the attributes, and a cycle
that restores the image from its edit. AttGAN and STGAN are trained in the same way. With their own
reconstruction, of an image from its own labels, small ones were hardly disrupted (an STGAN by PGD
alone: L about 0.03); a cycle makes a network hide the information that it will need in small
signals, which makes it fragile. U-GAT-IT is trained much as the original was: least squares against
spectrally normalized critics with class activation maps, and cycle, identity and CAM losses. Edits
without labels are drawn onto the portraits. The moving average of the weights is saved.

Apart from the size of everything, training differs from the originals as follows:

- StarGAN's cross entropy is a mean over the attributes, where the original takes their sum. With
  weight 3, for three attributes, the generator's is the same; the critic's, with weight 1, is a
  third of the original's. The learning rate is twice the original's.
- AttGAN weights reconstruction by 40 and classification by 20, where the original has 100 and 10;
  STGAN weights reconstruction by 40, where the original has 100. Both have StarGAN's patch critic,
  and conditions of random strength.
- These three take 3 critic steps for each generator step, where the originals take 5.
- U-GAT-IT has one critic for each domain, where the original has a global and a local one. The
  generators and the critics are updated together, where the original updates the critics first.
- The learning rate is constant, where the originals let it decay.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from cdmaa_jax import disk
from cdmaa_jax.cli.parser import OneLineParser
from cdmaa_jax.disk import FileError
from cdmaa_jax.generators import attgan, registry, stargan, stgan, ugatit
from cdmaa_jax.generators.checkpoint import (
    METADATA_FILE,
    check_target,
    read_metadata,
    save_generator,
)
from cdmaa_jax.generators.ensembles import DEMONSTRATION
from checkpoints import commands
from checkpoints.discriminators import AttentionCritic, Critic
from checkpoints.portraits import TABLE, Portraits, check_labels, load, read_table

SIZE = 64
CHUNK = 20
"""Steps that one program runs, after which training may be saved or stopped."""
AVERAGING = 0.995
MARGIN = 3
"""Portraits are shifted by up to this many pixels in training."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one generator is trained."""

    config: Any
    steps: int
    batch: int = 16
    critic_steps: int = 3
    critic_width: int = 24
    learning_rate: float = 1e-4
    classify: float = 1.0
    """Weight of the classification of the generator's edits; the critic's own has weight 1."""
    reconstruct: float = 10.0
    """Weight of restoring the image from its edit with its own labels (StarGAN's cycle)."""
    penalty: float = 10.0
    patches: bool = False
    """Whether the penalty holds the slope of the patches' sum (StarGAN) or of their mean to 1."""


RECIPES = {
    "stargan": Recipe(
        stargan.Config(SIZE, ("Male", "Senior", "Dark_Hair"), width=16, blocks=4),
        steps=1000, classify=3.0, learning_rate=2e-4, patches=True,
    ),
    "attgan": Recipe(
        attgan.Config(SIZE, ("Bangs", "Beard", "Eyeglasses", "Male"), 24, 24, 4, 4, 1, 1),
        steps=2800, classify=20.0, reconstruct=40.0, learning_rate=2e-4,
    ),
    "stgan": Recipe(
        stgan.Config(SIZE, ("Bangs", "Beard", "Eyeglasses", "Pale_Skin"), 20, 4, 2),
        steps=1800, classify=10.0, reconstruct=40.0, learning_rate=2e-4,
    ),
    "ugatit": Recipe(
        ugatit.Config(SIZE, width=16, blocks=4, light=True, domain="Comic"),
        steps=2000, batch=2, reconstruct=10.0, critic_width=32,
    ),
}  # fmt: skip


class Data(NamedTuple):
    """The training portraits on the device."""

    images: jax.Array
    """uint8 [N,s,s,3]"""
    labels: jax.Array
    """float32 [N,n]; 0 for attributes that an overlay decides"""
    overlays: jax.Array
    """uint8 [n,N,s,s,4]; transparent where the labels decide"""
    drawn: jax.Array
    """float32 [n], 1 where an overlay decides the attribute"""
    chance: jax.Array
    """float32 [N], the probability of each portrait; with ``Male``, of men and women alike"""
    comic: jax.Array
    """uint8 [N,s,s,3]"""


class State(NamedTuple):
    """Everything that training changes."""

    generators: Any
    critics: Any
    optimizers: Any
    average: Any


def training_data(portraits: Portraits, attributes: tuple[str, ...]) -> Data:
    """The training split, without portraits that lack a label for one of the attributes."""
    keep = usable(portraits, attributes)
    known = [name for name in attributes if name not in portraits.overlays]
    n, size = int(keep.sum()), portraits.images.shape[1]
    blank = np.zeros((n, size, size, 4), np.uint8)
    overlays = [portraits.overlays[a][keep] if a not in known else blank for a in attributes]
    labels = [portraits.labels[a][keep] if a in known else np.zeros(n) for a in attributes]
    chance = balance(portraits.labels["Male"][keep]) if "Male" in known else np.full(n, 1 / n)
    return Data(
        images=jnp.asarray(portraits.images[keep]),
        labels=jnp.asarray(np.array(labels, np.float32).T.reshape(n, len(attributes))),
        overlays=jnp.asarray(np.array(overlays, np.uint8).reshape(-1, n, size, size, 4)),
        drawn=jnp.asarray([a not in known for a in attributes], jnp.float32),
        chance=jnp.asarray(chance, jnp.float32),
        comic=jnp.asarray(portraits.comic[keep]),
    )


def usable(portraits: Portraits, attributes: tuple[str, ...]) -> np.ndarray:
    """Which portraits [N] are for training and have a label for each of the attributes."""
    labels = [portraits.labels[name] for name in attributes if name not in portraits.overlays]
    return np.logical_and.reduce([~portraits.test, *(label >= 0 for label in labels)])


def balance(label: np.ndarray) -> np.ndarray:
    """Probabilities [N] under which both values of a label are equally frequent."""
    chance = np.where(label == 1, 0.5 / (label == 1).sum(), 0.5 / (label != 1).sum())
    return chance / chance.sum()


def to_unit(images: Any) -> jax.Array:
    """uint8 to float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def draw(x: Any, overlays: Any, present: Any) -> jax.Array:
    """Lays overlays [n,B,s,s,4] over x [B,s,s,3] where ``present`` [B,n] is 1."""
    for i in range(overlays.shape[0]):
        opacity = overlays[i, ..., 3:].astype(jnp.float32) / 255 * present[:, i, None, None, None]
        x = x + opacity * (to_unit(overlays[i, ..., :3]) - x)
    return x


def augment(x: Any, key: Any) -> jax.Array:
    """Mirrors half of the images and shifts all by up to ``MARGIN`` pixels."""
    flip, shift = jax.random.split(key)
    mirrored = jax.random.bernoulli(flip, 0.5, (x.shape[0], 1, 1, 1))
    x = jnp.where(mirrored, x[:, :, ::-1], x)
    wide = jnp.pad(x, [(0, 0), (MARGIN,) * 2, (MARGIN,) * 2, (0, 0)], mode="edge")
    starts = jax.random.randint(shift, (x.shape[0], 2), 0, 2 * MARGIN + 1)
    cut = lambda image, start: jax.lax.dynamic_slice(image, (*start, 0), x.shape[1:])  # noqa: E731
    return jax.vmap(cut)(wide, starts)


def sample(data: Data, batch: int, key: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Images [B,s,s,3], their labels [B,n], and labels of others [B,n] as the edits' targets."""
    pick, coin, look, order = jax.random.split(key, 4)
    index = jax.random.choice(pick, data.images.shape[0], (batch,), p=data.chance)
    on = jax.random.bernoulli(coin, 0.5, (batch, data.drawn.shape[0]))
    labels = jnp.where(data.drawn > 0, on, data.labels[index])
    x = draw(to_unit(data.images[index]), data.overlays[:, index], labels * data.drawn)
    other = jax.random.permutation(order, labels)
    return augment(x, look), labels, other


def condition(arch: str, source: Any, target: Any, key: Any = None) -> jax.Array:
    """The condition vectors [B,n] that take labels ``source`` to ``target``, at random strength."""
    if arch == "stargan":
        return target
    strength = 1.0 if key is None else jax.random.uniform(key, target.shape)
    if arch == "attgan":
        return (2 * target - 1) * strength
    return (target - source) * strength


def cross_entropy(logits: Any, labels: Any) -> jax.Array:
    """Mean binary cross entropy."""
    return optax.sigmoid_binary_cross_entropy(logits, labels).mean()


def split_module(module: nnx.Module) -> tuple[Any, Any, Any]:
    """Graph definition in training mode, parameters, statistics."""
    module.set_attributes(use_running_average=False, raise_if_not_found=False)
    graph, *states = nnx.split(module, nnx.Param, nnx.BatchStat)
    return graph, *map(nnx.to_pure_dict, states)


def call(graph: Any, params: Any, stats: Any, *args: Any, method: str = "__call__") -> Any:
    """Calls a module in training mode; returns its output and its new statistics."""
    module = nnx.merge(graph, params, stats)
    out = getattr(module, method)(*args)
    return out, nnx.to_pure_dict(nnx.split(module, nnx.Param, nnx.BatchStat)[2])


def gradient_penalty(realness: Any, real: Any, fake: Any, key: Any, patches: bool) -> jax.Array:
    """WGAN-GP's penalty: the mean of (slope - 1)^2 at random places between real and fake.

    Args:
      realness: ``x [B,s,s,3] -> [B,p,p,1]``.
      real: [B,s,s,3].
      fake: [B,s,s,3].
      key: draws the places.
      patches: whether the slope is that of the patches' sum, or of their mean.
    """
    mix = jax.random.uniform(key, (real.shape[0], 1, 1, 1))
    total = (lambda y: y.sum()) if patches else (lambda y: y.mean((1, 2, 3)).sum())
    slope = jax.grad(lambda x: total(realness(x)))(real + mix * (fake - real))
    norm = jnp.sqrt((slope**2).sum((1, 2, 3)) + 1e-12)
    return ((norm - 1) ** 2).mean()


def critic_loss(
    judge: Any, recipe: Recipe, real: Any, labels: Any, fake: Any, key: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The loss of a critic ``judge(x) -> (realness, logits)``, and two of its terms."""
    (score, logits), (fake_score, _) = judge(real), judge(fake)
    classified = cross_entropy(logits, labels)
    gap = score.mean() - fake_score.mean()
    penalty = gradient_penalty(lambda x: judge(x)[0], real, fake, key, recipe.patches)
    return -gap + recipe.penalty * penalty + classified, (gap, classified)


def generator_loss(
    edit: Any, judge: Any, recipe: Recipe, stats: Any, real: Any, forth: Any, back: Any, target: Any
) -> tuple[jax.Array, tuple[Any, tuple[jax.Array, jax.Array]]]:
    """The loss of a generator ``edit(stats, x, c) -> (x', stats)``, its statistics, two terms.

    Args:
      edit: the generator in training mode.
      judge: the critic, ``x -> (realness, logits)``.
      recipe: weights the losses.
      stats: the generator's statistics.
      real: images [B,s,s,3].
      forth: the condition [B,n] that takes them to ``target``.
      back: the condition [B,n] that takes them back.
      target: labels [B,n].
    """
    fake, stats = edit(stats, real, forth)
    again, stats = edit(stats, fake, back)
    cycle = jnp.abs(again - real).mean()
    score, logits = judge(fake)
    classified = cross_entropy(logits, target)
    loss = -score.mean() + recipe.classify * classified + recipe.reconstruct * cycle
    return loss, (stats, (classified, cycle))


def attribute_steps(arch: str, recipe: Recipe, seed: int) -> tuple[State, Any]:
    """The initial state, and a function ``(state, data, key) -> (state, figures)``."""
    n = len(recipe.config.attributes)
    rngs = nnx.Rngs(seed)
    graph, params, stats = split_module(registry.architecture(arch).module(recipe.config, rngs))
    critic = Critic(SIZE, n, recipe.critic_width, int(math.log2(SIZE)) - 2, rngs)
    critic_graph, critic_params, critic_stats = split_module(critic)
    optimizer = optax.adam(recipe.learning_rate, 0.5, 0.999)

    def judge_by(weights):
        return lambda x: call(critic_graph, weights, critic_stats, x)[0]

    def edit_by(weights):
        return lambda stats, x, c: call(graph, weights, stats, x, c)

    def critic_step(generator, data, carry, key):
        weights, moments = carry
        parts = jax.random.split(key, 3)
        real, labels, target = sample(data, recipe.batch, parts[0])
        fake, _ = call(graph, *generator, real, condition(arch, labels, target, parts[1]))
        loss = lambda w: critic_loss(judge_by(w), recipe, real, labels, fake, parts[2])  # noqa: E731
        grads, figures = jax.grad(loss, has_aux=True)(weights)
        updates, moments = optimizer.update(grads, moments, weights)
        return (optax.apply_updates(weights, updates), moments), figures

    def generator_step(generator, critic, moments, data, key):
        parts = jax.random.split(key, 2)
        real, labels, target = sample(data, recipe.batch, parts[0])
        forth = condition(arch, labels, target, parts[1])
        back = condition(arch, target, labels)
        weights, stats = generator

        def loss(weights):
            edit, judge = edit_by(weights), judge_by(critic)
            return generator_loss(edit, judge, recipe, stats, real, forth, back, target)

        grads, (stats, figures) = jax.grad(loss, has_aux=True)(weights)
        updates, moments = optimizer.update(grads, moments, weights)
        return (optax.apply_updates(weights, updates), stats), moments, figures

    def step(state, data, key):
        keys = jax.random.split(key, recipe.critic_steps + 1)
        moments, critic_moments = state.optimizers
        (critic, critic_moments), judged = jax.lax.scan(
            functools.partial(critic_step, state.generators, data),
            (state.critics, critic_moments),
            keys[1:],
        )
        generator, moments, made = generator_step(state.generators, critic, moments, data, keys[0])
        average = moving_average(state.average, generator, moments)
        names = ("gap", "critic_classify", "classify", "cycle")
        figures = dict(zip(names, (*[f[-1] for f in judged], *made), strict=True))
        return State(generator, critic, (moments, critic_moments), average), figures

    moments = (optimizer.init(params), optimizer.init(critic_params))
    return State((params, stats), critic_params, moments, (params, stats)), step


def squares(scores: Any, goal: float) -> jax.Array:
    """The mean squared distance of scores from a goal, summed over several arrays of scores."""
    return sum(((score - goal) ** 2).mean() for score in scores)


def critics_loss(judge: Any, weights: Any, stats: Any, pairs: Any) -> tuple[jax.Array, list[Any]]:
    """The loss of U-GAT-IT's critics, and their new statistics.

    Args:
      judge: ``(weights, stats, x) -> ((realness, logits), stats)``.
      weights: of each critic.
      stats: of each critic.
      pairs: for each critic, real and fake images of its domain.
    """
    loss, new = 0.0, []
    for w, s, (real, fake) in zip(weights, stats, pairs, strict=True):
        scores, s = judge(w, s, real)
        fakes, _ = judge(w, s, fake)
        loss += squares(scores, 1.0) + squares(fakes, 0.0)
        new.append(s)
    return loss, new


def translators_loss(
    translate: Any, judge: Any, recipe: Recipe, critics: Any, a: Any, b: Any
) -> tuple[jax.Array, Any]:
    """The loss of U-GAT-IT's two generators, with the fakes of both domains and the loss's terms.

    Args:
      translate: from a to b and from b to a, each ``x -> (x', logits of the class activation)``.
      judge: ``(weights, stats, x) -> ((realness, logits), stats)``.
      recipe: weights the losses.
      critics: weights, and statistics, of the critics of a and of b.
      a: images [B,s,s,3] of one domain.
      b: images [B,s,s,3] of the other.
    """
    to_b, to_a = translate
    (fake_b, cam_ab), (fake_a, cam_ba) = to_b(a), to_a(b)
    cycle = jnp.abs(to_a(fake_b)[0] - a).mean() + jnp.abs(to_b(fake_a)[0] - b).mean()
    (same_a, cam_aa), (same_b, cam_bb) = to_a(a), to_b(b)
    same = jnp.abs(same_a - a).mean() + jnp.abs(same_b - b).mean()
    cam = sum(cross_entropy(logits, jnp.ones_like(logits)) for logits in (cam_ab, cam_ba))
    cam += sum(cross_entropy(logits, jnp.zeros_like(logits)) for logits in (cam_aa, cam_bb))
    fooled = sum(
        squares(judge(w, s, fake)[0], 1.0)
        for w, s, fake in zip(*critics, (fake_a, fake_b), strict=True)
    )
    loss = fooled + recipe.reconstruct * (cycle + same) + 1000 * cam
    return loss, ((fake_a, fake_b), {"fooled": fooled, "cycle": cycle, "same": same, "cam": cam})


def translation_steps(recipe: Recipe, seed: int) -> tuple[State, Any]:
    """The same as ``attribute_steps`` for U-GAT-IT's two generators and two critics."""
    rngs = nnx.Rngs(seed)
    modules = [registry.architecture("ugatit").module(recipe.config, rngs) for _ in "AB"]
    graph, *there = split_module(modules[0])
    _, *back = split_module(modules[1])
    critics = [AttentionCritic(recipe.critic_width, 4, rngs) for _ in "AB"]
    critic_graph, *critic_a = split_module(critics[0])
    _, *critic_b = split_module(critics[1])
    optimizer = optax.chain(
        optax.add_decayed_weights(1e-4), optax.adam(recipe.learning_rate, 0.5, 0.999)
    )

    def translate(weights, stats, x):
        module = nnx.merge(graph, weights, stats)
        attended, logits = module.attend(module.encode(x))
        return module.decode(attended), logits

    def judge(weights, stats, x):
        return call(critic_graph, weights, stats, x)

    def pictures(data, key):
        pick_a, pick_b, look_a, look_b = jax.random.split(key, 4)
        count = data.images.shape[0]
        index_a = jax.random.randint(pick_a, (recipe.batch,), 0, count)
        index_b = jax.random.randint(pick_b, (recipe.batch,), 0, count)
        a = augment(to_unit(data.images[index_a]), look_a)
        return a, augment(to_unit(data.comic[index_b]), look_b)

    def made_by(weights, stats, critics, a, b):
        both = [functools.partial(translate, *ws) for ws in zip(weights, stats, strict=True)]
        return translators_loss(both, judge, recipe, critics, a, b)

    def step(state, data, key):
        a, b = pictures(data, key)
        weights, stats = state.generators
        critic_weights, critic_stats = state.critics
        grads, (fakes, figures) = jax.grad(made_by, has_aux=True)(
            weights, stats, state.critics, a, b
        )
        slopes, critic_stats = jax.grad(functools.partial(critics_loss, judge), has_aux=True)(
            critic_weights, critic_stats, tuple(zip((a, b), fakes, strict=True))
        )
        updates, moments = optimizer.update(grads, state.optimizers[0], weights)
        weights = clip_rho(optax.apply_updates(weights, updates))
        updates, critic_moments = optimizer.update(slopes, state.optimizers[1], critic_weights)
        critics = (optax.apply_updates(critic_weights, updates), critic_stats)
        kept = (weights[0], stats[0])
        average = moving_average(state.average, kept, moments)
        return State((weights, stats), critics, (moments, critic_moments), average), figures

    weights, stats = [there[0], back[0]], [there[1], back[1]]
    critic_weights, critic_stats = [critic_a[0], critic_b[0]], [critic_a[1], critic_b[1]]
    moments = (optimizer.init(weights), optimizer.init(critic_weights))
    return State((weights, stats), (critic_weights, critic_stats), moments, tuple(there)), step


def moving_average(average: Any, new: Any, moments: Any) -> Any:
    """The exponential moving average, with a shorter memory in the first steps."""
    count = jnp.asarray(optax.tree.get(moments, "count"), jnp.float32)
    return optax.incremental_update(new, average, jnp.maximum(1 - AVERAGING, 5 / (5 + count)))


def clip_rho(weights: Any) -> Any:
    """Keeps the mixture of the two normalizations within [0, 1], as the original does."""

    def clip(path, value):
        return jnp.clip(value, 0, 1) if "'rho'" in jax.tree_util.keystr(path) else value

    return jax.tree_util.tree_map_with_path(clip, weights)


def averaged_params(arch: str, config: Any, average: Any) -> Any:
    """The parameters to save: averaged weights and statistics as one plain dict."""
    graph, _ = registry.graph_of(arch, config)
    return nnx.to_pure_dict(nnx.split(nnx.merge(graph, *average))[1])


def train(
    arch: str,
    portraits: Portraits,
    out: Path,
    seed: int,
    steps: int | None = None,
    minutes: float = math.inf,
    save_every: int = 200,
    overwrite: bool = False,
) -> None:
    """Trains ``arch`` and saves the averaged generator to ``out``.

    A new generator is also saved during training; an existing one is replaced only at the end.

    Args:
      arch: a key of ``RECIPES``.
      portraits: the test portraits among them are left out.
      out: the directory of the generator; its history is written beside it.
      seed: of the first weights and of everything random.
      steps: of the generator, rounded up to a multiple of ``CHUNK``; None for the recipe's.
      minutes: after which it stops.
      save_every: that many steps.
      overwrite: replaces a generator that is there.

    Raises:
      FileError: a generator is there, or the disk refuses.
      CheckpointError: something else is there, or the disk refuses.
    """
    check_out(out, overwrite)
    recipe, is_new = RECIPES[arch], not (out / METADATA_FILE).exists()
    steps = recipe.steps if steps is None else steps
    data = training_data(portraits, attributes_of(recipe))
    state, advance = compiled(arch, recipe, seed)
    history, start = [], time.monotonic()
    with tqdm(range(0, steps, CHUNK), unit_scale=CHUNK, unit="step", desc=arch) as bar:
        for first in bar:
            state, figures = advance(state, data, first)
            figures = {name: round(float(value), 4) for name, value in figures.items()}
            bar.set_postfix(figures)
            done, late = first + CHUNK, time.monotonic() - start > 60 * minutes
            history.append({"step": done, **figures})
            is_last = done >= steps or late
            if is_last or (is_new and done % save_every == 0):
                params = averaged_params(arch, recipe.config, state.average)
                save(out, arch, params, history, seed, len(data.images), steps)
            if is_last:
                break


def check_out(out: Path, overwrite: bool) -> None:
    """Checks, before the training, that a generator can be saved to ``out``.

    Raises:
      FileError: one is there and not to be overwritten, or the folder around it cannot be used.
      CheckpointError: something else is there.
    """
    check_target(out, overwrite=True)
    if not overwrite and (out / METADATA_FILE).exists():
        stopped = read_metadata(out).extra.get("stopped")
        what = "a generator is there already" + (f", stopped {stopped}" if stopped else "")
        remedy = "choose another --out, or replace it with --overwrite"
        raise FileError(out, what, remedy)
    if history_file(out).is_dir():
        raise FileError(history_file(out), "it is a folder", "choose another --out")
    disk.make_folder(out.absolute().parent)


def history_file(out: Path) -> Path:
    """The file for the figures of a generator's training."""
    return out.with_name(out.name + ".history.json")


def attributes_of(recipe: Recipe) -> tuple[str, ...]:
    """The attributes that a generator edits; none for U-GAT-IT."""
    return getattr(recipe.config, "attributes", ())


def compiled(arch: str, recipe: Recipe, seed: int) -> tuple[State, Any]:
    """The initial state, and ``(state, data, first) -> (state, figures)``, ``CHUNK`` steps."""
    steps = attribute_steps(arch, recipe, seed) if attributes_of(recipe) else None
    state, step = steps or translation_steps(recipe, seed)

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(state, data, first):
        def body(state, i):
            return step(state, data, jax.random.fold_in(jax.random.key(seed), i))

        state, figures = jax.lax.scan(body, state, first + jnp.arange(CHUNK))
        return state, jax.tree.map(jnp.mean, figures)

    return jax.tree.map(jnp.array, state), advance  # a copy, so that it can be donated


def save(
    out: Path,
    arch: str,
    params: Any,
    history: list[dict[str, Any]],
    seed: int,
    portraits: int,
    steps: int,
) -> None:
    """Writes a generator, and beside it the figures of its training, whose end is at ``steps``."""
    done = history[-1]["step"]
    stopped = {"stopped": f"after {done} of {steps} steps"} if done < steps else {}
    extra = {
        "purpose": DEMONSTRATION,
        "seed": seed,
        "steps": done,
        "portraits": portraits,
        **stopped,
    }
    save_generator(
        out, arch, RECIPES[arch].config, params, name=arch, metadata=extra, dtype="float16",
        overwrite=True,
    )  # fmt: skip
    disk.write_whole(history_file(out), json.dumps(history, indent=1).encode())


def make_parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    parser = OneLineParser(
        prog="python -m checkpoints.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("arch", choices=RECIPES)
    parser.add_argument("--portraits", type=Path, required=True, help="folder with portraits.csv")
    parser.add_argument("--cache", type=Path, help="an .npz to keep the aligned portraits in")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to write")
    parser.add_argument(
        "--overwrite", action="store_true",
        help="replace a generator in --out, when the training has ended",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=commands.seed, default=0, help="of everything random; default: 0"
    )
    parser.add_argument(
        "--steps", type=commands.positive,
        help=f"generator steps, rounded up to a multiple of {CHUNK} (default: the recipe's)",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=commands.minutes, default=math.inf, help="stop after that long"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and trains; returns the exit status."""
    parser = make_parser()
    return commands.run(parser.prog, functools.partial(_run, parser.parse_args(argv)))


def _run(args: argparse.Namespace) -> int:
    check_out(args.out, args.overwrite)
    attributes, table = attributes_of(RECIPES[args.arch]), args.portraits / TABLE
    check_labels(table, read_table(table), attributes)
    portraits = load(args.portraits, SIZE, cache=args.cache)
    if not usable(portraits, attributes).any():
        what = "no face is found in a portrait to train on"
        raise FileError(args.portraits, what, "add portraits with larger faces")
    train(
        args.arch, portraits, args.out, args.seed, args.steps, args.minutes,
        overwrite=args.overwrite,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
