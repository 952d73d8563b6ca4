"""Algorithm 1 in plain PyTorch, written from the paper alone: the reference for this package.

Images are NCHW in [-1, 1]. Nothing is shared with ``cdmaa_jax``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Model(NamedTuple):
    """A generator ``generate(x [B,3,h,w], c [B,n]) -> [B,3,h,w]`` and its conditions [B,K,n]."""

    generate: Callable[[Tensor, Tensor], Tensor]
    conditions: Tensor


class Trace(NamedTuple):
    """The result [B,3,H,W], and the loss and weight of each step and model, [T,B,J]."""

    images: Tensor
    losses: Tensor
    weights: Tensor


def attack(
    clean: Tensor,
    start: Tensor,
    models: Sequence[Model],
    *,
    steps: int = 80,
    epsilon: float = 0.05,
    step_size: float = 0.01,
    update: str = "i-fgsm",
    across_domains: str = "uniform",
    across_models: str = "mgda",
    regularization: str = "penalty",
    zeta: float = 1e-8,
) -> Trace:
    """Algorithm 1 from the given start; ``update`` is ``i-fgsm`` or ``mi-fgsm``."""
    with torch.no_grad():
        references = [outputs(model, clean) for model in models]
    x, momentum, losses, weights = start, torch.zeros_like(clean), [], []
    for t in range(steps):
        turn = t // len(models) if across_models == "iterative" else t
        step_losses, gradients = [], []
        for model, reference in zip(models, references, strict=True):
            loss, gradient = cross_domain_gradient(model, reference, x, across_domains, turn)
            step_losses.append(loss)
            gradients.append(gradient / factor(regularization, loss, gradient, zeta))
        a = model_weights(across_models, gradients, t)
        w = combine(a, gradients)
        if update == "mi-fgsm":
            momentum = momentum + w / per_image(w.abs().sum((1, 2, 3)).clamp(min=1e-300))
            w = momentum
        x = x + step_size * w.sign()
        x = torch.clamp(torch.clamp(x, clean - epsilon, clean + epsilon), -1, 1)
        losses.append(torch.stack(step_losses, 1))
        weights.append(a)
    return Trace(x, torch.stack(losses), torch.stack(weights))


def outputs(model: Model, x: Tensor) -> list[Tensor]:
    """The outputs in every domain, K of [B,3,h,w]."""
    return [model.generate(x, model.conditions[:, i]) for i in range(model.conditions.shape[1])]


def cross_domain_gradient(
    model: Model, reference: list[Tensor], x: Tensor, across_domains: str, turn: int
) -> tuple[Tensor, Tensor]:
    """The loss [B] of a model and its gradient: equations (4) and (7) to (9)."""
    x = x.detach().requires_grad_()
    losses = [((y - r) ** 2).mean((1, 2, 3)) for y, r in zip(outputs(model, x), reference)]  # noqa: B905
    if across_domains == "mgda":
        grads = [torch.autograd.grad(one.sum(), x, retain_graph=True)[0] for one in losses]
        mean = torch.stack(losses).mean(0).detach()
        return mean, combine(min_norm_weights(gram(grads)), grads)
    if across_domains == "uniform":
        loss = torch.stack(losses).mean(0)
    else:
        loss = losses[0 if across_domains == "single" else turn % len(losses)]
    return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]


def factor(regularization: str, loss: Tensor, gradient: Tensor, zeta: float) -> Tensor:
    """S of equation (23), [B,1,1,1]."""
    if regularization == "penalty":
        return per_image(1 / loss.clamp(min=zeta))
    if regularization == "l2":
        return per_image((gradient**2).sum((1, 2, 3)).sqrt())
    return per_image(loss.clamp(min=zeta) if regularization == "log" else torch.ones_like(loss))


def model_weights(across_models: str, gradients: list[Tensor], t: int) -> Tensor:
    """The weight of every model, [B,J]."""
    if across_models == "mgda":
        return min_norm_weights(gram(gradients))
    count = len(gradients)
    weights = gradients[0].new_zeros(len(gradients[0]), count)
    if across_models == "uniform":
        return weights + 1 / count
    weights[:, 0 if across_models == "single" else t % count] = 1
    return weights


def combine(weights: Tensor, gradients: list[Tensor]) -> Tensor:
    """The weighted sum of gradients, [B,3,H,W]."""
    return sum(per_image(weights[:, j]) * g for j, g in enumerate(gradients))  # type: ignore


def gram(gradients: list[Tensor]) -> Tensor:
    """The Gram matrix of each image, [B,J,J], its largest entry one."""
    flat = torch.stack(gradients, 1).flatten(2)
    products = flat @ flat.transpose(1, 2)
    return products / products.abs().amax((1, 2), keepdim=True).clamp(min=1e-300)


def min_norm_weights(gram: Tensor) -> Tensor:
    """The shortest convex combination, equation (12), by trying every face of the simplex."""
    batch, count, _ = gram.shape
    best = gram.new_zeros(batch, count)
    shortest = gram.new_full((batch,), float("inf"))
    for size in range(1, count + 1):
        for face in itertools.combinations(range(count), size):
            part = gram[:, face][:, :, face]
            weights = torch.linalg.pinv(part, hermitian=True).sum(2)
            weights = weights / weights.sum(1, keepdim=True)
            length = (weights[:, None] @ part @ weights[:, :, None]).flatten()
            better = (weights >= 0).all(1) & (length < shortest)
            shortest = torch.where(better, length, shortest)
            full = gram.new_zeros(batch, count).index_copy(1, torch.tensor(face), weights)
            best = torch.where(better[:, None], full, best)
    return best


def per_image(v: Tensor) -> Tensor:
    """A vector [B], reshaped to broadcast with images [B,3,H,W]."""
    return v[:, None, None, None]
