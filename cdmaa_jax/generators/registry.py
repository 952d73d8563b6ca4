"""The one list of architectures, and how a module becomes a ``Generator``."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdmaa_jax.generators import attgan, cyclegan, pix2pix, stargan, stgan, ugatit
from cdmaa_jax.generators.attributes import no_conditions
from cdmaa_jax.generators.sizes import check_images
from cdmaa_jax.types import Array, Generator, Labels, Params


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One architecture: its configuration, its module and ``conditions(config, labels)``."""

    name: str
    title: str
    config: type[Any]
    module: Callable[..., nnx.Module]
    conditions: Callable[[Any, Labels | None], np.ndarray]

    def domains(self, config: Any) -> tuple[str, ...]:
        """Names of the K edits."""
        return (config.domain,) if hasattr(config, "domain") else tuple(config.attributes)


ARCHITECTURES = {
    entry.name: entry
    for entry in (
        Architecture("stargan", "StarGAN", stargan.Config, stargan.StarGAN, stargan.conditions),
        Architecture("attgan", "AttGAN", attgan.Config, attgan.AttGAN, attgan.conditions),
        Architecture("stgan", "STGAN", stgan.Config, stgan.STGAN, stgan.conditions),
        Architecture("ugatit", "U-GAT-IT", ugatit.Config, ugatit.UGATIT, no_conditions),
        Architecture("cyclegan", "CycleGAN", cyclegan.Config, cyclegan.CycleGAN, no_conditions),
        Architecture("pix2pix", "pix2pix", pix2pix.Config, pix2pix.Pix2Pix, no_conditions),
    )
}


def architecture(name: str) -> Architecture:
    """Looks up an architecture.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; there are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


@dataclasses.dataclass(frozen=True)
class _Apply:
    """The pure function of a module; equal configurations share compiled programs."""

    arch: str
    config: Any
    method: str = "__call__"

    def __call__(self, params: Params, *args: Any) -> Any:
        check_images(ARCHITECTURES[self.arch].title, args[0], self.config.multiple)
        if args[0].dtype == jnp.float64:  # convolutions take only one dtype
            params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        module = nnx.merge(graph_of(self.arch, self.config)[0], params)
        return getattr(module, self.method)(*args)


@dataclasses.dataclass(frozen=True)
class _Latent:
    apply: _Apply

    def __call__(self, params: Params, x: Any) -> Array:
        features = self.apply(params, x)
        return features[-1] if isinstance(features, list) else features


@dataclasses.dataclass(frozen=True)
class _Conditions:
    arch: str
    config: Any

    def __call__(self, labels: Labels | None) -> np.ndarray:
        return ARCHITECTURES[self.arch].conditions(self.config, labels)


def init_params(arch: str, config: Any, seed: int = 0) -> Params:
    """Freshly initialized parameters, a plain nested dict of float32 arrays."""
    module = architecture(arch).module(config, rngs=nnx.Rngs(seed))
    return nnx.to_pure_dict(nnx.split(module)[1])


@functools.cache
def graph_of(arch: str, config: Any) -> tuple[nnx.GraphDef, Params]:
    """The graph definition of a module and the shapes of its parameters, without computing any.

    Random numbers are not even traced: that takes several times as long as all the rest.
    """
    graph, state = nnx.split(nnx.eval_shape(lambda: architecture(arch).module(config, rngs=None)))
    return graph, nnx.to_pure_dict(state)


def make_generator(arch: str, config: Any, params: Params, name: str | None = None) -> Generator:
    """A ``Generator`` from a configuration and its parameters.

    Args:
      arch: a key of ``ARCHITECTURES``.
      config: that architecture's ``Config``.
      params: a nested dict of arrays; keys and shapes as ``init_params`` gives them.
      name: what reports call it; the architecture's name if None.

    Raises:
      ValueError: the configuration is not that architecture's, or the parameters do not fit it; the
        message names the first misfit.
    """
    entry = architecture(arch)
    if not isinstance(config, entry.config):
        given, needed = (f"{c.__module__}.{c.__name__}" for c in (type(config), entry.config))
        raise ValueError(f"the configuration is a {given}, not a {needed}")
    _check(graph_of(arch, config)[1], params)
    has_latent = hasattr(entry.module, "encode")
    return Generator(
        name=name or arch,
        apply=_Apply(arch, config),
        params=jax.tree.map(jnp.asarray, params),
        image_size=config.image_size,
        domains=entry.domains(config),
        conditions=_Conditions(arch, config),
        encode=_Latent(_Apply(arch, config, "encode")) if has_latent else None,
    )


def _check(expected: Params, params: Params) -> None:
    want, have = _shapes(expected), _shapes(params)
    for key in have:
        if key not in want:
            raise ValueError(f"parameter {key} is not part of the network")
    for key, shape in want.items():
        if key not in have:
            raise ValueError(f"parameter {key} is missing")
        if have[key] != shape:
            raise ValueError(f"parameter {key} has shape {have[key]}, the network takes {shape}")


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    """The shape of every leaf, by its path as text."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}
