"""Small generators whose outputs depend on every pixel and on the condition."""

import jax
import jax.numpy as jnp
import numpy as np

from cdmaa_jax.attack.algorithm import attack_batch, build
from cdmaa_jax.generators.registry import architecture, init_params, make_generator
from cdmaa_jax.types import Batch, Generator

DOMAINS = ("dark", "light", "odd")


def convolution(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def toy_apply(params, x, c):
    features = jnp.tanh(convolution(x, params["encoder"]))
    planes = jnp.broadcast_to((c @ params["planes"])[:, None, None], features.shape)
    return jnp.tanh(convolution(jnp.tanh(features + planes), params["decoder"]))


def toy_conditions(labels):
    source = np.zeros(1, np.float32) if labels is None else np.asarray(labels["odd"], np.float32)
    vectors = np.broadcast_to(np.eye(3, dtype=np.float32), (len(source), 3, 3)).copy()
    vectors[:, 2, 2] -= source
    return vectors


def toy_params(seed, gain=1.0, width=4, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        "encoder": (gain * rng.normal(size=(3, 3, 3, width)) / 4).astype(dtype),
        "planes": rng.normal(size=(3, width)).astype(dtype),
        "decoder": (rng.normal(size=(3, 3, width, 3)) / 4).astype(dtype),
    }


def toy(seed=0, gain=1.0, size=8, dtype=np.float32, **changes):
    fields = {
        "name": f"toy{seed}",
        "apply": toy_apply,
        "params": jax.tree.map(jnp.asarray, toy_params(seed, gain, dtype=dtype)),
        "image_size": size,
        "domains": DOMAINS,
        "conditions": toy_conditions,
    }
    return Generator(**(fields | changes))


def photos(count=3, size=8, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).uniform(-1, 1, (count, size, size, 3)).astype(dtype)


def official(name):
    """A generator of official width, with random weights."""
    config = architecture(name).config()
    return make_generator(name, config, init_params(name, config))


def toy_batch(images, ensemble):
    conditions = tuple(jnp.asarray(g.conditions(None)) for g in ensemble)
    return Batch(jnp.asarray(images), conditions, jnp.ones(len(images), bool))


def quick_run(config, ensemble, batch, key):
    """``run``, compiled with little optimization, in a fraction of the time."""
    return _quick_run(config, tuple(ensemble), batch, jnp.broadcast_to(key, (len(batch.images),)))


def quick_start(config, ensemble, batch, key):
    """The images that ``run`` starts from."""
    return _quick_start(config, tuple(ensemble), batch, jnp.broadcast_to(key, (len(batch.images),)))


def _start(config, ensemble, batch, keys):
    return build(config, ensemble, batch).init(keys).images


LITTLE = {"xla_backend_optimization_level": 0}
_quick_run = jax.jit(attack_batch, static_argnums=0, compiler_options=LITTLE)
_quick_start = jax.jit(_start, static_argnums=0, compiler_options=LITTLE)
