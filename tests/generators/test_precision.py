"""Generators in bfloat16: they take and return the images' type, with nearly the same outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.work import random_params
from cdmaa_jax import Config, Generator, in_bfloat16, protect
from cdmaa_jax.generators.registry import make_generator
from tests.attack.toys import photos, toy
from tests.parity.test_generators import SMALL


@pytest.mark.parametrize("arch", ["stargan", "attgan", "ugatit"])
def test_outputs_are_close_and_keep_the_images_type(arch):
    config = SMALL[arch][0]
    model = make_generator(arch, config, random_params(arch, config, 0))
    half = in_bfloat16(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype(jnp.bfloat16)}
    x, c = photos(1, config.image_size), jnp.asarray(model.conditions(None))[:, 0]
    exact, found = (jax.jit(type(one).__call__)(one, x, c) for one in (model, half))
    assert found.dtype == jnp.float32
    difference = float(jnp.abs(found - exact).mean() / jnp.abs(exact).mean())
    assert 0 < difference < 0.1
    if model.encode is not None:
        latent = half.encode(half.params, x)
        assert latent.dtype == jnp.float32


def test_whole_numbers_stay_what_they_are():
    model = Generator(
        "toy",
        lambda params, x, c: x * params["gains"][params["place"]],
        {"gains": jnp.array([1.0, 2.0]), "place": jnp.array(1)},
        8,
        ("edit",),
        lambda labels: np.zeros((1, 1, 0), np.float32),
    )
    half = in_bfloat16(model)
    assert half.params["place"].dtype == model.params["place"].dtype
    x = photos(1, 8)
    found = half(x, jnp.zeros((1, 0)))
    assert found.dtype == jnp.float32 and jnp.allclose(found, 2 * x, atol=0.02)


def halved(generator):
    """The parameters of the generator in bfloat16, as float32."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), in_bfloat16(generator).params)


def test_parameters_of_all_shapes_are_rounded_by_one_program(caplog):
    params = {str(n): photos(1, 2 + n) for n in range(3)} | {"gain": 0.3, "place": 2}
    params |= {str(n): jnp.asarray(photos(1, 2 + n)) for n in range(3, 6)}
    model = toy(params=params)
    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):  # the command line hides it
        half = jax.block_until_ready(in_bfloat16(model).params)
    compiled = [r.getMessage() for r in caplog.records if "Finished XLA comp" in r.getMessage()]
    assert len(compiled) == 1, compiled
    assert half["place"] == 2 and isinstance(half["place"], int)
    for name in params.keys() - {"place"}:
        np.testing.assert_array_equal(half[name], jnp.asarray(params[name], jnp.bfloat16))


def test_parameters_can_be_traced():
    model = toy()
    traced = jax.jit(lambda params: halved(toy(params=params)))(model.params)
    jax.tree.map(np.testing.assert_array_equal, traced, halved(model))


def test_equal_generators_in_bfloat16_are_equal_to_the_compiler():
    config = SMALL["stargan"][0]
    model = make_generator("stargan", config, random_params("stargan", config, 0))
    one, other = (jax.tree.structure(in_bfloat16(model)) for _ in range(2))
    assert one == other != jax.tree.structure(model)


def test_an_attack_keeps_float32():
    config = SMALL["stargan"][0]
    model = make_generator("stargan", config, random_params("stargan", config, 0))
    images = photos(1, config.image_size)
    result = protect(images, in_bfloat16(model), Config(steps=2))
    assert result.images.dtype == result.losses.dtype == np.float32
    assert np.abs(result.images - images).max() <= np.float32(0.05) + 1e-7


def test_what_returns_no_array_is_told_of_as_ever():
    model = in_bfloat16(toy(0, apply=lambda params, x, c: (x, x)))
    with pytest.raises(ValueError, match="toy0 returns a tuple; its apply must return the images"):
        protect(photos(1), model, Config(steps=1))
