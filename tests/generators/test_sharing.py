"""``meet``: what domains share receives the sum of their gradients, or each gradient separately."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cdmaa_jax.generators.sharing import meet


def ours(x, own):
    shared = jnp.sin(2 * x)
    return (meet(shared, own) * own + meet(own, shared)) ** 2


def plain(x, own):
    return (jnp.sin(2 * x) * own + own) ** 2


def arrays(count, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal(3)), jnp.asarray(rng.standard_normal((count, 3)))


@settings(max_examples=15)
@given(count=st.integers(1, 5), axis=st.integers(0, 1), seed=st.integers(0, 2**16))
def test_the_gradient_over_domains_is_the_sum(count, axis, seed):
    with jax.enable_x64(True):
        x, own = arrays(count, seed)
        own = own if axis == 0 else own.T

        def total(function, x):
            return jax.vmap(function, (None, axis))(x, own).sum()

        for compiled in (False, True):
            mine, theirs = (
                jax.grad(jax.jit(total, static_argnums=0) if compiled else total, 1)(function, x)
                for function in (ours, plain)
            )
            np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_each_domain_is_its_own():
    with jax.enable_x64(True):
        x, own = arrays(4)
        mine, theirs = (
            jax.vmap(jax.grad(lambda x, own, f=f: f(x, own).sum()), (None, 0))(x, own)
            for f in (ours, plain)
        )
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_without_domains_it_changes_nothing():
    x, own = arrays(1)
    np.testing.assert_array_equal(meet(x, own[0]), x)
    slope = jax.grad(lambda x: ours(x, own[0]).sum())(x)
    np.testing.assert_allclose(slope, jax.grad(lambda x: plain(x, own[0]).sum())(x), rtol=1e-6)


def test_domains_are_added_up_without_a_reduction():
    x, own = arrays(3)

    def slope(function):
        each = jax.vmap(function, (None, 0))
        return str(jax.make_jaxpr(lambda x, own: jax.vjp(each, x, own)[1](own)[0])(x, own))

    assert "reduce_sum" in slope(lambda x, own: x * own)
    assert "reduce_sum" not in slope(lambda x, own: meet(x, own) * own)
