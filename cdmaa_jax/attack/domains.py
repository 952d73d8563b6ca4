"""Combines a model's domains into one loss and one gradient: steps 3 and 4 of Algorithm 1.

Each strategy takes the name of the loss, a target, the images, the keys of random views and the
turn: a whole number that says, modulo K, which domain's turn it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax
from jaxtyping import Float

from cdmaa_jax.attack.losses import Losses
from cdmaa_jax.attack.minnorm import min_norm_weights
from cdmaa_jax.attack.models import combine
from cdmaa_jax.attack.targets import Target, compare, domain_losses, observe
from cdmaa_jax.types import Array, Images, Keys, Time


class Evaluation(NamedTuple):
    """The evaluation of a model at the current images.

    Attributes:
      loss: the loss L of the model.
      gradient: the model's cross-domain gradient.
      domain_losses: L of every domain that the strategy attacks.
      observed: what the loss observes of every domain; None if the strategy does not observe them
        all together.
    """

    loss: Float[Array, "B"]
    gradient: Float[Array, "B H W 3"]
    domain_losses: Losses
    observed: Float[Array, "B K ..."] | None = None


Strategy = Callable[[str, Target, Images, Keys, Time], Evaluation]


def uniform(loss: str, target: Target, images: Images, keys: Keys, turn: Time) -> Evaluation:
    """The mean over domains and its gradient, equations (8) and (9)."""
    del turn

    def total(images: Images) -> tuple[Array, tuple[Losses, Array]]:
        observed = observe(loss, target.generator, images, target.conditions, keys)
        losses = compare(loss, target, observed)
        # Images do not interact, so the gradient of the sum holds each image's own gradient.
        return losses.mean(1).sum(), (losses, observed)

    gradient, (losses, observed) = jax.grad(total, has_aux=True)(images)
    return Evaluation(losses.mean(1), gradient, losses, observed)


def single(loss: str, target: Target, images: Images, keys: Keys, turn: Time) -> Evaluation:
    """The first domain alone: its gradient, and its loss, by which the gradient is regularized."""
    return uniform(loss, _only(target, 0), images, keys, turn)._replace(observed=None)


def iterative(loss: str, target: Target, images: Images, keys: Keys, turn: Time) -> Evaluation:
    """Domain ``turn mod K`` alone: its gradient, and its loss, as with ``single``."""
    chosen = _only(target, turn)
    losses = domain_losses(loss, target, images, keys)  # dead code unless the update rule uses it
    found = uniform(loss, chosen, images, keys, turn)
    return found._replace(domain_losses=losses, observed=None)


def mgda(loss: str, target: Target, images: Images, keys: Keys, turn: Time) -> Evaluation:
    """The mean over domains, and the shortest convex combination of the domains' gradients."""
    del turn
    return joined(*each_domain(loss, target, images, keys))


def joined(gradients: Float[Array, "B K H W 3"], losses: Losses) -> Evaluation:
    """The evaluation by ``mgda``, given the gradients and losses of all domains."""
    gradient = combine(min_norm_weights(gradients), gradients)
    return Evaluation(losses.mean(1), gradient, losses)


def each_domain(
    loss: str, target: Target, images: Images, keys: Keys
) -> tuple[Float[Array, "B K H W 3"], Losses]:
    """The gradient and the loss of every domain."""

    def alone(
        conditions: Float[Array, "B n"], references: Float[Array, "B ..."]
    ) -> tuple[Float[Array, "B H W 3"], Float[Array, "B"]]:
        """The gradient of one domain's loss, and that loss."""
        domain = target._replace(conditions=conditions[:, None], references=references[:, None])

        def total(images: Images) -> tuple[Array, Float[Array, "B"]]:
            losses = domain_losses(loss, domain, images, keys)[:, 0]
            return losses.sum(), losses

        return jax.grad(total, has_aux=True)(images)

    conditions = target.conditions[:, : target.references.shape[1]]  # a latent is for all domains
    return jax.vmap(alone, 1, 1)(conditions, target.references)


def _only(target: Target, index: Time | int) -> Target:
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
