"""Loops whose iteration-independent part is computed first: same results, less work."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Literal, jaxprs_in_params

from cdmaa_jax import hoisting
from cdmaa_jax.attack import Config
from cdmaa_jax.attack.algorithm import Plan, attack_batch
from cdmaa_jax.attack.numbers import numbers_of, structure_of
from cdmaa_jax.attack.running import program_for
from cdmaa_jax.generators import attgan, stargan, stgan, ugatit
from cdmaa_jax.generators.registry import init_params, make_generator
from tests.attack.toys import photos, toy, toy_batch

WEIGHTS = jnp.linspace(-1, 1, 12).reshape(3, 4)


def turns_of(body, init):
    """The equations and constants of the loop, as for a GPU."""
    traced = jax.make_jaxpr(lambda init: hoisting.scan(body, init, 3, "gpu"))(init)
    (loop,) = (e for e in traced.jaxpr.eqns if e.primitive.name == "scan")
    return loop.params["jaxpr"].jaxpr.eqns, constants_of(loop)


def constants_of(loop):
    """The inputs of a loop's body that do not change from turn to turn."""
    if "ft_in" in loop.params:  # from JAX 0.12 on
        count = len(loop.params["ft_in"].unpack()[0])
    else:
        count = loop.params["num_consts"]
    return loop.params["jaxpr"].jaxpr.invars[:count]


def names_in(equations):
    for equation in equations:
        yield equation.primitive.name
        for sub in jaxprs_in_params(equation.params):
            yield from names_in(sub.eqns)


def mixed_call(carry):
    product = jax.jit(lambda x, w: (x + (w @ w.T).sum(), x))(carry, WEIGHTS)
    return product[0], product[1]


def chosen_by_platform(carry):
    scaled = lax.platform_dependent(
        WEIGHTS,
        carry,
        cpu=lambda w, x: (w @ w.T).sum() + 0 * x,
        default=lambda w, _: (w @ w.T).sum(),
    )
    return carry + scaled, carry


def vmapped_gradient(carry):
    def loss(x, w):
        return jnp.tanh(x * (w @ w).sum()).sum()

    matrices = jnp.stack([WEIGHTS @ WEIGHTS.T, WEIGHTS[:, :3]])
    slopes = jax.vmap(jax.grad(loss), (None, 0))(carry, matrices)
    return carry - 0.01 * slopes.sum(), slopes


def random_draw(carry):
    fixed, turning = jax.random.key(0), jax.random.fold_in(jax.random.key(1), carry.astype(int))
    return carry + jax.random.normal(fixed), jax.random.normal(turning)


def constant_results(carry):
    return carry + 1, (1.5, WEIGHTS @ WEIGHTS.T, jnp.zeros(3), carry)


def repeated(carry):
    plane = jnp.broadcast_to((WEIGHTS @ WEIGHTS.T)[:, None], (3, 50, 3))
    both = jnp.concatenate([plane, plane], axis=1)
    return carry + (both * carry).sum(), both[0, 0] * carry


BODIES = [mixed_call, chosen_by_platform, vmapped_gradient, random_draw, constant_results, repeated]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_results_are_those_of_the_whole_loop(body):
    found, wanted = (
        jax.jit(functools.partial(hoisting.scan, body, length=4, platform=platform))(0.5)
        for platform in ("gpu", None)
    )
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_no_product_of_constants_is_left_in_the_loop(body):
    equations, _ = turns_of(body, 0.5)
    assert "dot_general" not in names_in(equations)


def test_what_is_only_repeated_is_held_small():
    equations, constants = turns_of(repeated, 0.5)
    assert "concatenate" in names_in(equations)
    assert max(constant.aval.size for constant in constants) <= WEIGHTS.shape[0] ** 2


def test_what_is_joined_of_constants_is_joined_once():
    def body(carry):
        both = jnp.concatenate([WEIGHTS, WEIGHTS * 2])
        return carry + (both * carry).sum(), carry

    equations, _ = turns_of(body, 0.5)
    assert "concatenate" not in names_in(equations)


def test_reversed_kernels_stay_where_convolutions_are():
    """Otherwise XLA does not see that a convolution is the transpose of another."""
    kernel = jnp.ones((3, 3, 2, 4))

    def body(images):
        numbers = ("NHWC", "HWIO", "NHWC")
        y, pull = jax.vjp(
            lambda x: lax.conv_general_dilated(
                x, kernel, (2, 2), "SAME", dimension_numbers=numbers
            ),
            images,
        )
        return pull(y)[0], ()

    equations, _ = turns_of(body, jnp.ones((1, 8, 8, 2)))
    assert list(names_in(equations)).count("rev") == 1


def test_effects_are_of_every_turn():
    seen = []

    def body(carry):
        jax.debug.callback(lambda w: seen.append(float(w)), WEIGHTS.sum(), ordered=True)
        return carry + 1, carry

    jax.block_until_ready(jax.jit(lambda: hoisting.scan(body, 0.0, 3, "gpu"))())
    jax.effects_barrier()
    assert len(seen) == 3


def test_branches_that_gpus_differ_in_are_left_to_the_compiler():
    def body(carry):
        factor = lax.platform_dependent(carry, cuda=lambda x: x, rocm=lambda x: 2 * x, cpu=jnp.sin)
        return factor, carry

    equations, _ = turns_of(body, 0.5)
    assert "cond" in names_in(equations)


CONFIGS = {
    "stargan": stargan.Config(16, ("a", "b"), width=4, blocks=1),
    "attgan": attgan.Config(16, ("a", "b", "c"), 4, 6, 3, 3),
    "stgan": stgan.Config(32, ("a", "b", "c"), 8, 5, 2, use_stu=True),
    "ugatit": ugatit.Config(16, width=4, blocks=1),
}


def attack_of(arch):
    config = CONFIGS[arch]
    params = jax.tree.map(lambda v: v.astype(np.float64), init_params(arch, config, seed=0))
    generator = make_generator(arch, config, params)
    batch = toy_batch(photos(2, size=config.image_size, dtype=np.float64), (generator,))
    return (generator,), batch, jax.random.split(jax.random.key(0), 2)


@pytest.mark.parametrize("arch", CONFIGS)
def test_an_attack_for_a_gpu_is_the_same_with_nothing_constant_in_its_loop(arch, x64):
    arguments = attack_of(arch)
    whole = functools.partial(attack_batch, Config(steps=3, start="uniform"))
    split = functools.partial(whole, plan=Plan(platform="gpu"))
    found, wanted = (jax.jit(attack)(*arguments) for attack in (split, whole))
    np.testing.assert_allclose(found.losses, wanted.losses, rtol=1e-8)
    np.testing.assert_allclose(found.images, wanted.images, atol=1e-8)
    (loop,) = (e for e in jax.make_jaxpr(split)(*arguments).eqns if e.primitive.name == "scan")
    constant = set(constants_of(loop))
    for equation in loop.params["jaxpr"].jaxpr.eqns:
        if all(isinstance(atom, Literal) or atom in constant for atom in equation.invars):
            assert equation.primitive.name in (*hoisting._SPREADING, *hoisting._TURNING)
            constant |= set(equation.outvars)


def test_devices_share_such_an_attack():
    ensemble = (toy(0, size=4), toy(1, size=4))
    batch, keys = toy_batch(photos(4, size=4), ensemble), jax.random.split(jax.random.key(0), 4)
    config, mesh = Config(steps=3), jax.sharding.Mesh(jax.devices()[:2], ("batch",))
    conditions = tuple(jnp.repeat(c, 4, 0) for c in batch.conditions)
    batch = dataclasses.replace(batch, conditions=conditions)
    numbers = numbers_of(config, batch.images.dtype, 2)
    arguments = (structure_of(config), mesh, ensemble, batch, keys, numbers)
    found, wanted = (
        program_for("cpu", 2)(*arguments, plan=Plan((2, 2), platform=platform))
        for platform in ("gpu", None)
    )
    np.testing.assert_allclose(found.images, wanted.images, atol=1e-6)
