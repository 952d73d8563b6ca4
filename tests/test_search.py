"""The line search over the models' weights."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmaa_jax import Config, search, search_weights
from cdmaa_jax.attack import running
from cdmaa_jax.search import disruption, line_search, output_losses, weighted_config
from tests.attack.toys import photos, toy


@given(st.lists(st.floats(-3.9, 3.9), min_size=0, max_size=3))
def test_finds_the_peak_of_what_is_separable(peak):
    """To within the resolution of the second round's grid, a sixth of a decade."""

    def value(ratios):
        return -sum((math.log10(r) - p) ** 2 for r, p in zip(ratios[1:], peak, strict=True))

    best, known = line_search(value, len(peak) + 1, rounds=2)
    assert best[0] == 1 and known[best] == max(known.values())
    for ratio, place in zip(best[1:], peak, strict=True):
        assert abs(math.log10(ratio) - place) < 1 / 6 + 1e-9


def test_tries_nothing_twice_and_tells_of_each_trial():
    tried, told = [], []

    def value(ratios):
        tried.append(ratios)
        return 0.0

    best, known = line_search(
        value, 3, (0.1, 1, 10), rounds=2, progress=lambda *counts: told.append(counts)
    )
    assert best == (1, 1, 1)  # the first of equal values
    assert tried == list(known) and len(set(tried)) == len(tried) == 1 + 2 * 2 * 2
    assert told == [(i, 13) for i in range(1, 14)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": ()}, "grid"),
        ({"grid": (1, 0)}, "grid"),
        ({"grid": ["a"]}, "grid"),
        ({"grid": 3}, "grid"),
        ({"rounds": 0}, "rounds"),
        ({"rounds": 1.5}, "rounds must be a whole number"),
        ({"devices": jax.devices()[0]}, "devices must be a list"),
        ({"batch_size": 2.0}, "batch_size must be a whole number"),
    ],
)
def test_the_grid_is_checked(options, message):
    with pytest.raises(ValueError, match=message):
        search_weights(photos(1), toy(0), Config(steps=1), **options)
    with pytest.raises(ValueError, match="a Config, not dict"):
        search_weights(photos(1), toy(0), {"steps": 1})


# Two models that depend on the same channel. The first is satisfied with either sign and five
# times as sensitive; the second needs the sign that the first would not choose.

SENSITIVITY = 5.0


def first(params, x, c):
    return params["gain"] * (2 * x[..., :1] - x[..., 1:2]) * jnp.ones((1, 1, 1, 3))


def second(params, x, c):
    return params["gain"] * (x[..., :1] + x[..., 1:2]) * jnp.ones((1, 1, 1, 3))


def rivals():
    return [
        toy(name="first", apply=first, params={"gain": jnp.float32(SENSITIVITY)}, size=4),
        toy(name="second", apply=second, params={"gain": jnp.float32(1)}, size=4),
    ]


def test_finds_the_weights_that_disrupt_both():
    config = Config(steps=20, threshold=0.005, step_size=0.005)
    images = 0.5 * photos(2, size=4)
    before = running.program_for("cpu", None)._cache_size()
    found = search_weights(images, rivals(), config, grid=(0.01, 1, 100), rounds=2, batch_size=2)
    assert running.program_for("cpu", None)._cache_size() == before + 1
    trials = {trial.weights: trial.value for trial in found.trials}
    assert found.value == max(trials.values()) == trials[found.weights]
    assert found.value > 0.95 * config.threshold  # both are disrupted
    assert trials[0.5, 0.5] < 0.6 * config.threshold  # only the first is disrupted
    assert found.weights[1] > 0.9
    np.testing.assert_allclose(sum(found.weights), 1)


def test_the_value_is_that_of_the_weighted_attack_without_regularization():
    config = weighted_config(Config(regularization="penalty", epsilon=0.02), (1, 3))
    assert config == Config(
        regularization="none", epsilon=0.02, across_models="weighted", model_weights=(1, 3)
    )
    assert disruption([np.array([[0.01, 0.2]]), np.array([[0.0], [0.03]])], 0.05) == 0.0225


def test_losses_of_outputs_are_those_of_every_image():
    images = photos(3, size=4)
    moved = np.clip(images + 0.02, -1, 1)
    models = [toy(0, size=4), toy(1, size=4)]
    labels = {"odd": np.array([0, 1, 1])}
    whole = output_losses(models, images, moved, labels)
    parts = output_losses(models, images, moved, labels, batch_size=2)
    for a, b in zip(whole, parts, strict=True):
        assert a.shape == (3, 3)
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_labels_and_key_reach_the_attack_and_the_value(monkeypatch):
    labels, told = {"odd": np.array([0, 1])}, []
    for name in ("protect", "output_losses"):
        known = getattr(search, name)

        def spy(*args, known=known, name=name, **options):
            told.append((name, args, options))
            return known(*args, **options)

        monkeypatch.setattr(search, name, spy)
    found = search_weights(
        photos(2, size=4),
        [toy(0, size=4), toy(1, size=4)],
        Config(steps=1, threshold=1e-4),
        7,
        labels=labels,
        grid=(1,),
        rounds=1,
        batch_size=2,
    )
    attack = next(t for t in told if t[0] == "protect")
    assert attack[1][3] == 7 and attack[2]["labels"] is labels
    assert next(t for t in told if t[0] == "output_losses")[1][3] is labels
    assert found.value <= 1e-4
