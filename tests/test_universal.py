"""Universal perturbations: a mode of the step, fitted on some photos and added to others."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cdmaa_jax import Config, apply_universal, fit_universal, protect, universal
from cdmaa_jax.attack import compilation, evaluate_losses, run
from cdmaa_jax.attack.algorithm import attack_batch
from cdmaa_jax.attack.domains import uniform
from cdmaa_jax.attack.minnorm import min_norm_weights
from cdmaa_jax.attack.numbers import inner_radius
from cdmaa_jax.attack.perturbations import universal as shared
from cdmaa_jax.attack.targets import make_target
from cdmaa_jax.universal import Universal, _deck
from tests.attack.toys import photos, quick_run, toy, toy_batch

UPDATES = ("i-fgsm", "apgd")


def config_of(**options):
    return Config(**({"steps": 6, "perturbation": "universal"} | options))


def pair(**changes):
    return [toy(0, size=4, **changes), toy(1, 0.5, size=4, **changes)]


def masked(batch, mask):
    return dataclasses.replace(batch, mask=jnp.asarray(mask))


def test_without_a_mask_no_image_is_padding():
    ensemble, images, key = pair(), photos(2, size=4), jax.random.key(0)
    batch = toy_batch(images, ensemble)
    expected = quick_run(config_of(), ensemble, batch, key)
    result = quick_run(config_of(), ensemble, dataclasses.replace(batch, mask=None), key)
    np.testing.assert_array_equal(result.images, expected.images)


@pytest.mark.parametrize("update", UPDATES)
def test_of_one_image_it_is_that_images_own(update, x64):
    """Exactly so where the image is far enough from black and white."""
    ensemble, images = pair(dtype=np.float64), 0.9 * photos(1, size=4, dtype=np.float64)
    batch, key = toy_batch(images, ensemble), jax.random.key(2)
    own = quick_run(Config(steps=6, update=update), ensemble, batch, key)
    result = quick_run(config_of(update=update), ensemble, batch, key)
    np.testing.assert_allclose(result.images, own.images, rtol=0, atol=1e-14)
    np.testing.assert_allclose(result.perturbation, own.images[0] - images[0], rtol=0, atol=1e-14)
    np.testing.assert_allclose(result.losses, own.losses, rtol=1e-10)
    np.testing.assert_allclose(result.weights, own.weights, atol=1e-7)


@pytest.mark.parametrize("update", UPDATES)
def test_all_images_share_it_within_epsilon(update):
    ensemble, images = pair(), photos(3, size=4)
    batch = toy_batch(images, ensemble)
    result = quick_run(
        config_of(update=update, start="uniform"), ensemble, batch, jax.random.key(0)
    )
    delta = np.asarray(result.perturbation)
    assert delta.shape == (4, 4, 3) and np.abs(delta).max() > 0.04
    assert np.abs(delta.astype(np.float64)).max() <= 0.05
    difference = np.asarray(result.images, np.float64) - images
    assert np.abs(difference).max() <= 0.05 and np.abs(result.images).max() <= 1
    free = np.abs(images) < 0.94
    expected = np.broadcast_to(delta, images.shape)
    np.testing.assert_allclose(difference[free], expected[free], atol=1e-6)
    np.testing.assert_array_equal(result.weights[:, 0], result.weights[:, 2])
    assert result.losses.shape == (6, 3, 2)
    moved = apply_universal(images, delta, 0.05)
    np.testing.assert_array_equal(moved, result.images)


def test_padding_does_not_count(x64):
    """With APGD, which also needs the mean of its objective."""
    ensemble, key = pair(dtype=np.float64), jax.random.key(0)
    images = photos(4, size=4, dtype=np.float64)
    config = config_of(update="apgd")
    mask = [True, True, False, False]
    padded = quick_run(config, ensemble, masked(toy_batch(images, ensemble), mask), key)
    images[2:] = images[2:, ::-1] ** 3
    other = quick_run(config, ensemble, masked(toy_batch(images, ensemble), mask), key)
    np.testing.assert_array_equal(padded.perturbation, other.perturbation)
    alone = quick_run(config, ensemble, toy_batch(images[:2], ensemble), key)
    np.testing.assert_allclose(padded.perturbation, alone.perturbation, atol=1e-12)
    whole = quick_run(config, ensemble, toy_batch(images, ensemble), key)
    assert not np.allclose(whole.perturbation, alone.perturbation)


def test_a_step_follows_the_weighed_means_of_the_gradients(x64):
    """One step, worked out from the gradients of every image and model."""
    ensemble = pair(dtype=np.float64)
    images = 0.9 * photos(3, size=4, dtype=np.float64)
    batch, keys = toy_batch(images, ensemble), jax.random.split(jax.random.key(4), 3)
    one, two = (quick_run(config_of(steps=n), ensemble, batch, keys) for n in (1, 2))
    x = jnp.asarray(images + np.asarray(one.perturbation))
    mean_gradients, mean_losses = [], []
    for model, conditions in zip(ensemble, batch.conditions, strict=True):
        conditions = jnp.broadcast_to(conditions, (3, 3, 3)).astype(np.float64)
        target = make_target("mse", model, batch.images, conditions, keys)
        found = uniform("mse", target, x, keys, jnp.int32(1))
        mean_gradients.append(np.asarray(found.gradient).mean(0))
        mean_losses.append(np.asarray(found.loss).mean())
    regularized = np.stack([g * loss for g, loss in zip(mean_gradients, mean_losses, strict=True)])
    weights = np.asarray(min_norm_weights(jnp.asarray(regularized)[None]))[0]
    w = np.tensordot(weights, regularized, 1)
    expected = np.clip(np.asarray(one.perturbation) + 0.01 * np.sign(w), -0.05, 0.05)
    np.testing.assert_allclose(two.perturbation, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(two.losses[1].mean(0), mean_losses, rtol=1e-10)
    np.testing.assert_allclose(two.weights[1, 0], weights, atol=1e-7)


def test_two_devices_agree_on_one(x64):
    """The means and the start use an all-reduce, with padding on one of the devices."""
    ensemble, images = pair(dtype=np.float64), photos(4, size=4, dtype=np.float64)
    batch = masked(toy_batch(images, ensemble), [True, True, True, False])
    config, keys = config_of(steps=4, update="apgd"), jax.random.split(jax.random.key(0), 4)
    alone = quick_run(config, ensemble, batch, keys)
    both = run(config, ensemble, batch, keys, devices=jax.devices()[:2])
    np.testing.assert_allclose(both.perturbation, alone.perturbation, rtol=0, atol=1e-12)
    np.testing.assert_allclose(both.images, alone.images, rtol=0, atol=1e-12)
    np.testing.assert_allclose(both.losses, alone.losses, rtol=1e-9)
    np.testing.assert_allclose(both.weights, alone.weights, atol=1e-7)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "face-weighted", "across_domains": "mgda", "regularization": "l2"},
        {"loss": "latent", "across_domains": "iterative", "across_models": "iterative"},
    ],
)
def test_it_goes_with_other_options(options):
    ensemble = tuple(pair(encode=lambda params, x: jnp.tanh(x)))
    batch, keys = toy_batch(photos(3, size=4), ensemble), jax.random.split(jax.random.key(0), 3)
    config = config_of(update="mi-fgsm", **options)
    result = jax.eval_shape(functools.partial(attack_batch, config), ensemble, batch, keys)
    assert result.perturbation.shape == (4, 4, 3) and result.images.shape == (3, 4, 4, 3)
    assert result.losses.shape == result.weights.shape == (6, 3, 2)


def test_an_average_of_nothing_is_zero():
    batch = masked(toy_batch(photos(2, size=4), [toy(0, size=4)]), [False, False])
    pooled = shared(batch, np.float32(0.05), None).pool(jnp.full((2, 4, 4, 3), np.nan))
    np.testing.assert_array_equal(pooled, np.zeros((1, 4, 4, 3)))


# Fitting


def test_it_disrupts_photos_that_it_never_saw():
    """Better than noise of the same size, and evenly over the models."""
    ensemble = [toy(0), toy(1)]
    images, unseen = 0.5 * photos(7), 0.5 * photos(4, seed=9)
    told = []
    fitted = fit_universal(
        images, ensemble, Config(steps=30), batch_size=3, progress=lambda *c: told.append(c)
    )
    assert fitted.losses.shape == fitted.weights.shape == (30, 2)
    assert told == [(i, 30) for i in range(1, 31)]
    signs = np.sign(np.random.default_rng(0).normal(size=(5, 8, 8, 3)))
    conditions = [g.conditions(None) for g in ensemble]

    def mean_losses(perturbation):
        moved = apply_universal(unseen, perturbation, 0.05)
        return [float(x.mean()) for x in evaluate_losses(ensemble, unseen, moved, conditions)]

    ours = mean_losses(fitted.perturbation)
    noise = np.mean([mean_losses(0.05 * sign) for sign in signs], axis=0)
    assert min(ours) > 1.8 * min(noise) and max(ours) < 1.1 * min(ours)


def test_all_images_in_one_batch_are_what_run_gives():
    ensemble, images = pair(), photos(3, size=4)
    config = Config(steps=5, across_models="weighted", model_weights=(1, 3))
    fitted = fit_universal(images, ensemble, config, 6, batch_size=4)
    whole = dataclasses.replace(config, perturbation="universal")
    result = quick_run(whole, ensemble, toy_batch(images, ensemble), jax.random.key(6))
    np.testing.assert_allclose(fitted.perturbation, result.perturbation, atol=1e-6)
    np.testing.assert_allclose(fitted.losses, result.losses.mean(1), rtol=1e-3)
    np.testing.assert_array_equal(fitted.weights, np.broadcast_to([0.25, 0.75], (5, 2)))


@pytest.mark.parametrize("batch_size", [3, 2])
def test_what_is_prepared_is_what_is_run(batch_size):
    """One batch of all images, and several."""
    images, config = photos(3, size=4), Config(steps=2)
    what, options = (images, pair(), config, 5), {"batch_size": batch_size}
    before = len(compilation._READY)
    universal.prepare_universal(*what, **options)
    assert len(compilation._READY) == before + 1
    prepared = universal.step_program("cpu")._cache_size()
    fit_universal(*what, **options)
    assert len(compilation._READY) == before + 1
    assert universal.step_program("cpu")._cache_size() <= prepared + 1
    with pytest.raises(ValueError, match="batch_size"):
        universal.prepare_universal(*what, batch_size=0)


def test_batches_continue_where_the_last_one_ended():
    """Five copies of one image, three at a time, act like one batch of the image, with momentum.

    One program serves all batches and other numeric options.
    """
    ensemble, images = pair(), np.repeat(photos(1, size=4), 5, axis=0)
    config = Config(steps=6, update="mi-fgsm", across_domains="iterative")
    before = universal.step_program("cpu")._cache_size()
    fitted = fit_universal(images, ensemble, config, batch_size=3)
    again = fit_universal(
        images[::-1], ensemble, dataclasses.replace(config, epsilon=0.03), batch_size=3
    )
    assert universal.step_program("cpu")._cache_size() == before + 1
    assert np.abs(again.perturbation).max() <= 0.03
    alone = quick_run(
        dataclasses.replace(config, perturbation="universal"),
        ensemble, toy_batch(images[:1], ensemble), jax.random.key(0),
    )  # fmt: skip
    np.testing.assert_allclose(fitted.perturbation, alone.perturbation, atol=1e-6)
    np.testing.assert_allclose(fitted.losses, alone.losses[:, 0], rtol=1e-3)


@given(st.integers(2, 20), st.integers(1, 20), st.integers(1, 30), st.integers(0, 9))
def test_the_deck_is_dealt_evenly(count, size, steps, seed):
    deck = list(universal._deck(jax.random.key(seed), count, size, steps))
    assert all(rows.shape == (size,) for rows in deck) and len(deck) == steps
    dealt = np.concatenate(deck)
    whole = len(dealt) // count * count
    for start in range(0, whole, count):
        assert sorted(dealt[start : start + count]) == list(range(count))
    assert len(set(dealt[whole:])) == len(dealt) - whole


# Applying


@given(
    hnp.arrays(np.float32, (2, 2, 2, 3), elements=st.floats(-1, 1, width=32)),
    hnp.arrays(np.float32, (2, 2, 3), elements=st.floats(-3, 3, width=32)),
    st.sampled_from([1e-3, 0.05, 0.1, 2.0]),
)
def test_applying_never_leaves_epsilon_or_the_range(images, perturbation, epsilon):
    moved = apply_universal(images, perturbation, epsilon)
    fitted = Universal(perturbation, np.zeros((1, 1)), np.ones((1, 1)))
    np.testing.assert_array_equal(apply_universal(images, fitted, epsilon), moved)
    assert moved.dtype == np.float32 and moved.shape == images.shape
    assert np.abs(moved.astype(np.float64) - images).max() <= epsilon
    assert np.abs(moved).max() <= 1


@given(st.floats(1e-6, 2), st.sampled_from([np.float32, np.float64]))
def test_a_perturbation_reaches_epsilon_and_no_further(epsilon, dtype):
    """Also beyond 1, which takes a black pixel to white; in float64 too."""
    with jax.enable_x64(True):
        images = np.array([-1, -0.999, 0, 0.3, 1], dtype).reshape(1, 1, 5, 1).repeat(3, 3)
        radius = inner_radius(epsilon, dtype)
        moves = shared(toy_batch(images, []), radius, None)
        assert moves.upper.dtype == dtype
        np.testing.assert_array_equal(moves.upper, np.full(images.shape, radius))
        np.testing.assert_array_equal(moves.lower, np.full(images.shape, -radius))
        for reach in (moves.lower, moves.upper):
            moved = np.asarray(moves.place(reach), np.longdouble)
            change = np.abs(moved - images.astype(np.longdouble))
            assert change.max() <= epsilon and np.abs(moved).max() <= 1
            free = np.abs(images + np.asarray(reach)) < 1
            np.testing.assert_allclose(change[free], epsilon, rtol=1e-6, atol=2e-7)


# Refusals


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="fit_universal"):
        protect(photos(1), toy(0), config_of())
    with pytest.raises(ValueError, match=r"apgd.*batch_size of 3"):
        fit_universal(photos(3), toy(0), Config(update="apgd"), batch_size=2)
    with pytest.raises(ValueError, match=r"there must be one key, not keys of shape \(2,\)"):
        fit_universal(photos(2), toy(0), Config(steps=1), jax.random.split(jax.random.key(0), 2))
    with pytest.raises(ValueError, match="a Config, not dict"):
        fit_universal(photos(2), toy(0), {"steps": 1})
    with pytest.raises(ValueError, match=r"\[8, 8, 3\].*\[1, 4, 4, 3\]"):
        apply_universal(photos(1, size=4), np.zeros((8, 8, 3)), 0.05)
    with pytest.raises(ValueError, match="the perturbation must be finite"):
        apply_universal(photos(1), np.full((8, 8, 3), np.nan), 0.05)
    for epsilon in (0, -0.05, float("nan"), 12.75):
        with pytest.raises(ValueError, match="epsilon must be"):
            apply_universal(photos(1), np.zeros((8, 8, 3)), epsilon)


def test_a_generator_that_ignores_its_input_is_told_of():
    constant = toy(1, name="constant", apply=lambda params, x, c: jnp.zeros_like(x))
    for batch_size in (1, 2):
        with pytest.warns(UserWarning, match=r"of constant changed in no step; .* leave out const"):
            fit_universal(photos(2), [toy(0), constant], Config(steps=2), batch_size=batch_size)


def test_a_generator_that_gives_nan_is_named():
    broken = toy(1, name="broken", size=4, apply=lambda params, x, c: jnp.log(x - 2))
    with pytest.raises(ValueError, match="step 0 the outputs of broken are not finite"):
        fit_universal(photos(2, size=4), [toy(0, size=4), broken], Config(steps=2))


@pytest.mark.parametrize("batch_size", [2, 4])
def test_a_universal_perturbation_is_of_the_images_labels(batch_size):
    images, config = photos(4, size=4), Config(steps=3)
    labels = {"odd": np.array([1, 1, 1, 1])}
    with_labels, without = (
        fit_universal(images, [toy(0, size=4)], config, labels=given, batch_size=batch_size)
        for given in (labels, None)
    )
    assert not np.allclose(with_labels.losses[1:], without.losses[1:], rtol=1e-3)


def test_a_deck_follows_the_key():
    first, second = (list(map(tuple, _deck(jax.random.key(seed), 6, 2, 6))) for seed in (0, 1))
    assert first != second


def test_losses_of_a_universal_perturbation_are_means_over_a_step():
    images, ensemble = photos(6, size=4), [toy(0, size=4)]
    config = Config(steps=4, start="uniform")
    found = fit_universal(images, ensemble, config, 0, batch_size=2)
    first = next(iter(_deck(jax.random.key(0), 6, 2, 4)))
    alone = fit_universal(images[first], ensemble, config, 0, batch_size=2)
    np.testing.assert_allclose(found.losses[0], alone.losses[0], rtol=1e-5)
