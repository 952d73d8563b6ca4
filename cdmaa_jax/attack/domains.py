"""Combines a model's domains into one loss and one gradient: steps 3 and 4 of Algorithm 1.

Each strategy takes the name of the loss, a target, the images [B,H,W,3], the keys [B] of random
views and the turn: a whole number that says, modulo K, which domain's turn it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax

from cdmaa_jax.attack.minnorm import min_norm_weights
from cdmaa_jax.attack.models import combine
from cdmaa_jax.attack.targets import Target, compare, domain_losses, observe
from cdmaa_jax.types import Array


class Evaluation(NamedTuple):
    """The evaluation of a model at the current images.

    Attributes:
      loss: [B], the loss L of the model.
      gradient: [B,H,W,3], the model's cross-domain gradient.
      domain_losses: [B,K], L of every domain that the strategy attacks.
      observed: [B,K,...], what the loss observes of every domain; None if the strategy does not
        observe them all together.
    """

    loss: Array
    gradient: Array
    domain_losses: Array
    observed: Array | None = None


Strategy = Callable[[str, Target, Array, Array, Array], Evaluation]


def uniform(loss: str, target: Target, images: Array, keys: Array, turn: Array) -> Evaluation:
    """The mean over domains and its gradient, equations (8) and (9)."""
    del turn

    def total(images: Array) -> tuple[Array, tuple[Array, Array]]:
        observed = observe(loss, target.generator, images, target.conditions, keys)
        losses = compare(loss, target, observed)
        # Images do not interact, so the gradient of the sum holds each image's own gradient.
        return losses.mean(1).sum(), (losses, observed)

    gradient, (losses, observed) = jax.grad(total, has_aux=True)(images)
    return Evaluation(losses.mean(1), gradient, losses, observed)


def single(loss: str, target: Target, images: Array, keys: Array, turn: Array) -> Evaluation:
    """The first domain alone."""
    return uniform(loss, _only(target, 0), images, keys, turn)._replace(observed=None)


def iterative(loss: str, target: Target, images: Array, keys: Array, turn: Array) -> Evaluation:
    """Domain ``turn mod K`` alone."""
    chosen = _only(target, turn)
    losses = domain_losses(loss, target, images, keys)  # dead code unless the update rule uses it
    found = uniform(loss, chosen, images, keys, turn)
    return found._replace(domain_losses=losses, observed=None)


def mgda(loss: str, target: Target, images: Array, keys: Array, turn: Array) -> Evaluation:
    """The mean over domains, and the shortest convex combination of the domains' gradients."""
    del turn
    return joined(*each_domain(loss, target, images, keys))


def joined(gradients: Array, losses: Array) -> Evaluation:
    """The evaluation by ``mgda``, given gradients [B,K,H,W,3] and losses [B,K] of all domains."""
    gradient = combine(min_norm_weights(gradients), gradients)
    return Evaluation(losses.mean(1), gradient, losses)


def each_domain(loss: str, target: Target, images: Array, keys: Array) -> tuple[Array, Array]:
    """The gradient [B,K,H,W,3] and the loss [B,K] of every domain."""

    def alone(conditions: Array, references: Array) -> tuple[Array, Array]:
        """The gradient of one domain's loss, and that loss [B]."""
        domain = target._replace(conditions=conditions[:, None], references=references[:, None])

        def total(images: Array) -> tuple[Array, Array]:
            losses = domain_losses(loss, domain, images, keys)[:, 0]
            return losses.sum(), losses

        return jax.grad(total, has_aux=True)(images)

    conditions = target.conditions[:, : target.references.shape[1]]  # a latent is for all domains
    return jax.vmap(alone, 1, 1)(conditions, target.references)


def _only(target: Target, index: Array | int) -> Target:
    """The target with domain ``index mod K`` alone."""

    def take(array: Array) -> Array:
        return lax.dynamic_index_in_dim(array, index % array.shape[1], axis=1)

    conditions, references = take(target.conditions), take(target.references)
    return target._replace(conditions=conditions, references=references)


DOMAIN_STRATEGIES: dict[str, Strategy] = {
    "uniform": uniform,
    "single": single,
    "iterative": iterative,
    "mgda": mgda,
}
