"""The data types that the package passes around; no logic.

Conventions of all modules: images are NHWC, RGB, in [-1, 1]; a *domain* is one edit of one
generator, given to it as a condition vector; a *model*, as the paper calls it, is a ``Generator``;
arrays may be NumPy's or JAX's.

In shapes, B are the images, J the models, K a model's domains, n the entries of a condition vector
and T the steps; H and W are of the canonical images, h and w of what a generator sees; an axis with
an underscore, such as _K, need not be as long as its namesake. ``Float[Array, "B J"]`` is an array
of floats [B,J]. Tests check the signatures of the modules that ``tests/conftest.py`` lists at every
call; nothing else does, and the fields of records are never checked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

import jax
from jaxtyping import Bool, Float, Int, Key

Array: TypeAlias = jax.Array
A = TypeVar("A")
Images: TypeAlias = Float[Array, "B H W 3"]
Conditions: TypeAlias = Float[Array, "B K n"]
Keys: TypeAlias = Key[Array, "B"]
"""A typed PRNG key for each image."""
Time: TypeAlias = Int[Array, ""]
"""The number of a step, or what is counted like it."""
Params: TypeAlias = Any
"""Any pytree of arrays."""
Labels: TypeAlias = Mapping[str, Any]
"""Maps an attribute's name to an array [B] of 0 (absent) or 1 (present), as in a label file."""
View: TypeAlias = Callable[..., jax.Array]
"""What a ``Generator`` sees of the canonical images: see there."""


@dataclasses.dataclass(frozen=True, eq=False)
class Generator:
    """A face-editing network as the attack sees it: a pure function and its parameters.

    A registered pytree whose only leaves are ``params``, so that weights are arguments of a
    compiled program and everything else is part of its identity. Equal only to itself.

    Attributes:
      name: what reports call it.
      apply: ``apply(params, x [B,h,w,3], c [B,n]) -> [B,h,w,3]``, pure and differentiable in x.
      params: any pytree of arrays.
      image_size: the native height and width, in pixels, of what ``apply`` takes.
      domains: names of the K edits, in the order of ``conditions``.
      conditions: ``conditions(labels) -> [B,K,n]`` float32, the condition vector of each edit of
        images with those labels, or [1,K,n] for all of them; ``conditions(None) -> [1,K,n]``, a
        choice for unlabelled images.
      view: ``view(images [B,H,W,3], key) -> [B,h,w,3]``, what the network sees of the canonical
        images, differentiable; None when it sees the images themselves. An attack passes one image
        at a time, and one typed PRNG key, in each step another than for the clean reference, so
        that L under a random view includes the difference between two draws. A view that is not
        random ignores the key.
      encode: ``encode(params, x [B,h,w,3]) -> [B,...]``, the latent of a network that has one.
    """

    name: str
    apply: Callable[[Params, Any, Any], jax.Array]
    params: Params = dataclasses.field(repr=False)
    image_size: int
    domains: tuple[str, ...]
    conditions: Callable[[Labels | None], Any]
    view: View | None = None
    encode: Callable[[Params, Any], jax.Array] | None = None

    def __call__(self, x: Any, c: Any) -> jax.Array:
        """Maps images [B,h,w,3] and condition vectors [B,n] to edited images [B,h,w,3]."""
        return self.apply(self.params, x, c)


jax.tree_util.register_dataclass(
    Generator,
    data_fields=["params"],
    meta_fields=[f.name for f in dataclasses.fields(Generator) if f.name != "params"],
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Images of one fixed shape, with the condition vectors of every model.

    Attributes:
      images: [B,H,W,3], the clean canonical images.
      conditions: one array [B,K_j,n_j] (or [1,K_j,n_j]) for each of the J models.
      mask: [B], False where an image is padding; None if none is. A universal perturbation leaves
        padding out; otherwise it is attacked like any image.
      pixel_weights: [B,H,W], how much each pixel counts in a loss that weighs them, at least 0 and
        of any scale; None for the loss's own choice.
    """

    images: Images
    conditions: tuple[Conditions, ...]
    mask: Bool[Array, "B"] | None = None
    pixel_weights: Float[Array, "B H W"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Result(Generic[A]):
    """The result of an attack, in JAX's arrays or in NumPy's.

    Attributes:
      images: [B,H,W,3], the protected images, within epsilon of the clean ones as computed with:
        in float32 unless JAX has float64 enabled.
      losses: [T,B,J], the loss L of every model at the start of each step.
      weights: [T,B,J], the weight of every model in each step.
      perturbation: [H,W,3], the universal one, if one was asked for.
    """

    images: A
    losses: A
    weights: A
    perturbation: A | None = None
