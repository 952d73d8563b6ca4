"""The shapes in signatures: checked while the tests run, and only then."""

import subprocess
import sys

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from cdmaa_jax.attack import minnorm, regularization

NOT_CHECKED = """
import sys
import jax.numpy as jnp
from cdmaa_jax.attack.regularization import penalty

images, losses = jnp.ones((2, 4, 4, 3)), jnp.ones(1)
assert penalty(images, losses, 1e-8).shape == (2, 4, 4, 3)
assert not hasattr(penalty, "__wrapped__")
assert "beartype" not in sys.modules
"""


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
