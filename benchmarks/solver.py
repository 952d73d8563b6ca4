"""Min-norm weights in PyTorch: one batched solve for all faces of the simplex at once."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

ROUNDING = 1e-6
"""Added to the diagonal of the cosine matrix, so that parallel gradients have a solution."""


def faces(count: int) -> Tensor:
    """Which gradients are in use on each face of the simplex, bool [2**J - 1, J]."""
    return torch.tensor(list(itertools.product((False, True), repeat=count))[1:])


def min_norm_weights(gradients: Tensor, used: Tensor) -> Tensor:
    """The shortest convex combination per image, equation (12) of the paper.

    Args:
      gradients: [B,J,C,H,W].
      used: ``faces(J)``, on the gradients' device.

    Returns:
      [B,J], non-negative, summing to one.
    """
    if gradients.shape[1] == 1:
        return gradients.new_ones(gradients.shape[:2])
    return solve(gram(gradients), used)


def gram(gradients: Tensor) -> Tensor:
    """The Gram matrix of each image, [B,J,J], its largest entry one; float32 throughout.

    On a GPU it avoids a matrix product, which would use TF32 if the generators do.
    """
    flat = gradients.flatten(2).float()
    flat = flat / flat.abs().amax((1, 2), keepdim=True).clamp(min=1e-37)
    if flat.is_cuda:
        products = (flat[:, :, None] * flat[:, None]).sum(3)
    else:
        products = flat @ flat.transpose(1, 2)
    return products / products.abs().amax((1, 2), keepdim=True).clamp(min=1e-37)


def solve(gram: Tensor, used: Tensor) -> Tensor:
    """The minimum over the faces whose affine minimum lies inside them, [B,J].

    The systems are for unit vectors, since gradients differ in size by orders of magnitude.
    """
    one, sizes = used.to(gram.dtype), gram.diagonal(0, 1, 2).clamp(min=1e-30).sqrt()
    cosines = gram / (sizes[:, :, None] * sizes[:, None, :])
    block = cosines[:, None] * one[:, :, None] * one[:, None, :]
    block = block + torch.diag_embed(torch.where(used, ROUNDING, 1.0)).to(gram.dtype)
    target = one / sizes[:, None, :]
    weights = torch.linalg.solve_ex(block, target[..., None])[0][..., 0] * target
    weights = weights / weights.sum(2, keepdim=True)
    length = (weights[..., None] * gram[:, None] * weights[:, :, None]).sum((2, 3))
    length = torch.where((weights >= 0).all(2), length, torch.inf)
    best = length.argmin(1)[:, None, None].expand(-1, 1, gram.shape[1])
    return weights.gather(1, best)[:, 0]
