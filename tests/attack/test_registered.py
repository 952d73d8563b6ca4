"""Options of one's own, added or replaced after programs have been compiled."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdmaa_jax.attack import Config, apart, evaluate_losses, run
from cdmaa_jax.attack.domains import DOMAIN_STRATEGIES
from cdmaa_jax.attack.losses import LOSSES
from cdmaa_jax.attack.memory import footprint, generous_footprint
from cdmaa_jax.attack.models import MODEL_STRATEGIES
from cdmaa_jax.attack.perturbations import PERTURBATIONS
from cdmaa_jax.attack.regularization import REGULARIZATIONS
from cdmaa_jax.experiments.gradients import trace_gradients
from cdmaa_jax.protection import prepare, protect
from tests.attack.toys import photos, toy, toy_batch, toy_conditions

ENSEMBLE = (toy(0), toy(1), toy(2))
IMAGES = photos(2)
KEY = jax.random.key(0)


def attack(**options):
    config = Config(steps=2, start="uniform", **options)  # far enough for L to be exact
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


def test_a_strategy_of_ones_own_meets_a_single_domain_too(monkeypatch):
    def halved(loss, target, images, keys, turn):
        found = DOMAIN_STRATEGIES["uniform"](loss, target, images, keys, turn)
        return found._replace(loss=found.loss / 2)

    one = toy(0, domains=("dark",), conditions=lambda labels: toy_conditions(labels)[:, :1])
    plain = run(Config(steps=1, start="uniform"), one, toy_batch(IMAGES, [one]), KEY).losses
    monkeypatch.setitem(DOMAIN_STRATEGIES, "mine", halved)
    config = Config(steps=1, start="uniform", across_domains="mine")
    found = run(config, one, toy_batch(IMAGES, [one]), KEY).losses
    np.testing.assert_allclose(found, plain / 2, rtol=1e-5)


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


def test_protect_and_memory(monkeypatch):
    """A loss that observes more than the outputs is planned for."""

    def observe(generator, seen, conditions):
        return jnp.repeat(LOSSES["mse"].observe(generator, seen, conditions), 50, axis=-1)

    monkeypatch.setitem(LOSSES, "mine", LOSSES["latent"]._replace(observe=observe))
    batch = toy_batch(IMAGES, ENSEMBLE)
    least, generous = (
        estimate("mine", ENSEMBLE, batch) for estimate in (footprint, generous_footprint)
    )
    assert generous.held >= least.held
    config = Config(steps=2, loss="mine", threshold=5)
    assert (protect(IMAGES, ENSEMBLE, config).losses[-1] > 0).all()


def test_what_cannot_be_a_key_is_named(monkeypatch):
    @dataclasses.dataclass
    class Mine:
        def __call__(self, gradients, time, given):
            return gradients

    monkeypatch.setitem(MODEL_STRATEGIES, "mine", Mine())
    with pytest.raises(ValueError, match="what mine stands for must be hashable"):
        attack()


def test_gradients_of_experiments(monkeypatch):
    found, conditions = [], toy_batch(IMAGES, ENSEMBLE).conditions
    for weights in ((1, 0, 0), (0, 0, 1)):
        monkeypatch.setitem(MODEL_STRATEGIES, "mine", giving(*weights))
        config = Config(steps=2, across_models="mine")
        found.append(trace_gradients(config, ENSEMBLE, IMAGES, conditions, 0))
    assert not np.array_equal(*(trace.gram for trace in found))


def test_protect_and_prepare(monkeypatch):
    protect(IMAGES, ENSEMBLE, Config(steps=2))
    monkeypatch.setitem(MODEL_STRATEGIES, "mine", giving(0, 0, 1))
    config = Config(steps=2, across_models="mine")
    prepare(IMAGES, ENSEMBLE, config)
    assert (protect(IMAGES, ENSEMBLE, config).weights == [0, 0, 1]).all()
