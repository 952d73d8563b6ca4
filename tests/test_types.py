"""The shapes in signatures: checked while the tests run, and only then."""

import subprocess
import sys

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from cdmaa_jax import load_ensemble
from cdmaa_jax.attack import minnorm, regularization
from tests.attack.toys import photos, toy, toy_batch

NOT_CHECKED = """
import sys
import jax.numpy as jnp
from cdmaa_jax.attack.regularization import penalty

images, losses = jnp.ones((2, 4, 4, 3)), jnp.ones(1)
assert penalty(images, losses, 1e-8).shape == (2, 4, 4, 3)
assert not hasattr(penalty, "__wrapped__")
assert "beartype" not in sys.modules
"""


def test_records_of_arrays_are_short_to_read_and_equal_to_themselves_alone():
    models = [toy(0), toy(0)]
    assert len({*models}) == 2 and models[0] in models and models[0] != models[1]
    assert "params" not in repr(models[0]) and repr(models[0]).startswith("Generator(name='toy0'")
    ensemble = load_ensemble("demo")
    assert ensemble == ensemble != load_ensemble("demo") and len(repr(ensemble)) < 10_000
    batches = [toy_batch(photos(2), models) for _ in range(2)]
    assert batches[0] != batches[1] and len({*batches}) == 2


def test_a_wrong_shape_is_refused():
    images = jnp.ones((2, 4, 4, 3))
    assert regularization.penalty(images, jnp.ones(2), 1e-8).shape == images.shape
    with pytest.raises(TypeCheckError, match="parameter 'loss'"):
        regularization.penalty(images, jnp.ones(1), 1e-8)
    with pytest.raises(TypeCheckError, match="parameter 'gradient'"):
        regularization.penalty(images[..., 0], jnp.ones(2), 1e-8)
    with pytest.raises(TypeCheckError, match="parameter 'gram'"):
        minnorm.solve(jnp.ones((2, 3)))


def test_nothing_is_checked_in_normal_use():
    subprocess.run([sys.executable, "-c", NOT_CHECKED], check=True)
