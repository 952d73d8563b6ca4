"""Options of one's own, added or replaced after programs have been compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdmaa_jax.attack import Config, apart, evaluate_losses, run
from cdmaa_jax.attack.domains import DOMAIN_STRATEGIES
from cdmaa_jax.attack.losses import LOSSES
from cdmaa_jax.attack.models import MODEL_STRATEGIES
from cdmaa_jax.attack.perturbations import PERTURBATIONS
from cdmaa_jax.attack.regularization import REGULARIZATIONS
from cdmaa_jax.protection import prepare, protect
from tests.attack.toys import photos, toy, toy_batch

ENSEMBLE = (toy(0), toy(1), toy(2))
IMAGES = photos(2)
KEY = jax.random.key(0)


def attack(**options):
    config = Config(steps=2, **options)
    return run(config, ENSEMBLE, toy_batch(IMAGES, ENSEMBLE), KEY)


def giving(*weights):
    """A strategy with these weights."""

    def strategy(gradients, time, given):
        return jnp.broadcast_to(jnp.array(weights, gradients.dtype), gradients.shape[:2])

    return strategy


def scaled(loss, factor):
    def distance(outputs, references, weights=None):
        return factor * loss.distance(outputs, references, weights)

    return loss._replace(distance=distance)


@pytest.fixture(params=[False, True], ids=["whole", "apart"], autouse=True)
def compiled(request):
    with apart(request.param):
        attack()  # with the entries that there are
        yield


def test_models(monkeypatch):
    for weights in ((0.5, 0.5, 0), (0.25, 0.5, 0.25)):
        monkeypatch.setitem(MODEL_STRATEGIES, "mine", giving(*weights))
        for found in attack(across_models="mine").weights.reshape(-1, 3):
            np.testing.assert_allclose(found, weights)


def test_regularizations(monkeypatch):
    for name in ("none", "l2"):
        monkeypatch.setitem(REGULARIZATIONS, "mine", REGULARIZATIONS[name])
        mine, same = attack(regularization="mine"), attack(regularization=name)
        np.testing.assert_array_equal(mine.images, same.images)
        np.testing.assert_array_equal(mine.weights, same.weights)
    assert not np.array_equal(attack(regularization="none").weights, mine.weights)


def test_domains(monkeypatch):
    for name in ("mgda", "iterative"):
        monkeypatch.setitem(DOMAIN_STRATEGIES, "mine", DOMAIN_STRATEGIES[name])
        mine, same = attack(across_domains="mine"), attack(across_domains=name)
        np.testing.assert_allclose(mine.losses, same.losses, rtol=1e-5)


def test_losses(monkeypatch):
    conditions = toy_batch(IMAGES, ENSEMBLE).conditions
    plain = attack().losses
    outputs = evaluate_losses(ENSEMBLE, IMAGES, -IMAGES, conditions)
    for factor in (100, 3):
        monkeypatch.setitem(LOSSES, "mine", scaled(LOSSES["mse"], factor))
        np.testing.assert_allclose(attack(loss="mine").losses[0], factor * plain[0], rtol=1e-5)
        found = evaluate_losses(ENSEMBLE, IMAGES, -IMAGES, conditions, loss="mine")
        for mine, output in zip(found, outputs, strict=True):
            np.testing.assert_allclose(mine, factor * output, rtol=1e-5)


def test_perturbations(monkeypatch):
    def of_channel(channel, batch, radius, axis):
        """Only one channel changes."""
        made = PERTURBATIONS["image"](batch, radius, axis)
        chosen = jnp.arange(3) == channel
        return made._replace(place=lambda moved: jnp.where(chosen, moved, batch.images))

    for channel in (0, 2):
        monkeypatch.setitem(PERTURBATIONS, "mine", functools.partial(of_channel, channel))
        change = np.abs(attack(perturbation="mine").images - IMAGES).max((0, 1, 2))
        assert np.flatnonzero(change).tolist() == [channel]


def test_protect_and_prepare(monkeypatch):
    protect(IMAGES, ENSEMBLE, Config(steps=2))
    monkeypatch.setitem(MODEL_STRATEGIES, "mine", giving(0, 0, 1))
    config = Config(steps=2, across_models="mine")
    prepare(IMAGES, ENSEMBLE, config)
    assert (protect(IMAGES, ENSEMBLE, config).weights == [0, 0, 1]).all()
