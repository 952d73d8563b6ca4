"""The losses: what they observe, pixel weights, the latent."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmaa_jax import protect
from cdmaa_jax.attack import Config, apart, choices, evaluate_losses, losses, run
from cdmaa_jax.attack.domains import DOMAIN_STRATEGIES
from cdmaa_jax.attack.targets import make_target, see_weights
from cdmaa_jax.images.faces import Box, face_square
from cdmaa_jax.images.views import crop, resize
from tests.attack.toys import convolution, photos, quick_run, toy, toy_batch

KEYS = jax.random.split(jax.random.key(0), 2)


def toy_encode(params, x):
    return jnp.tanh(convolution(x, params["encoder"]))[:, ::2, ::2]


def encoding(seed=0, **changes):
    return toy(seed, size=4, **({"encode": toy_encode} | changes))


def with_weights(batch, weights):
    return dataclasses.replace(batch, pixel_weights=jnp.asarray(weights, jnp.float32))


# Pixel weights


@given(st.floats(0.125, 1e3), st.integers(0, 2**32 - 1))
def test_equal_weights_are_the_mean_squared_error(constant, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.uniform(-1, 1, (2, 3, 5, 7, 3)).astype(np.float32) for _ in range(2))
    weights = losses.unit_mean(jnp.full((2, 5, 7), constant, jnp.float32))
    np.testing.assert_array_equal(weights, np.ones((2, 5, 7)))
    a, b = jnp.asarray(a), jnp.asarray(b)
    plain = losses.mean_squared_error(a, b)
    np.testing.assert_array_equal(losses.weighted_squared_error(a, b, weights), plain)


def test_an_attack_with_equal_weights_is_that_of_mse():
    ensemble = [toy(0, size=4), toy(1, size=4)]
    batch, key = toy_batch(photos(2, size=4), ensemble), jax.random.key(0)
    plain = quick_run(Config(steps=5), ensemble, batch, key)
    weighted = quick_run(
        Config(steps=5, loss="face-weighted"),
        ensemble,
        with_weights(batch, np.ones((2, 4, 4))),
        key,
    )
    np.testing.assert_array_equal(weighted.images, plain.images)
    np.testing.assert_array_equal(weighted.losses, plain.losses)


def test_the_weighted_error_is_what_numpy_says():
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(-1, 1, (2, 3, 4, 5, 3)).astype(np.float32) for _ in range(2))
    weights = rng.uniform(0, 7, (2, 4, 5)).astype(np.float32)
    mean_one = losses.unit_mean(jnp.asarray(weights))
    np.testing.assert_allclose(mean_one, weights / weights.mean((1, 2), keepdims=True), rtol=1e-5)
    expected = np.empty((2, 3))
    for image in range(2):
        share = weights[image, :, :, None] / weights[image].sum()
        for domain in range(3):
            squares = (a[image, domain] - b[image, domain]) ** 2
            expected[image, domain] = (share * squares).sum() / 3
    found = losses.weighted_squared_error(jnp.asarray(a), jnp.asarray(b), mean_one)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_pixels_of_weight_zero_do_not_count():
    """The toy's outputs see three by three pixels, twice: the far corner affects nothing."""
    ensemble, images = [toy(0, size=8)], photos(1)
    weights = np.zeros((1, 8, 8))
    weights[:, :2, :2] = 5
    other = images.copy()
    other[:, 5:, 5:] *= -1
    conditions = [g.conditions(None) for g in ensemble]
    (loss,) = evaluate_losses(
        ensemble,
        images,
        other,
        conditions,
        loss="face-weighted",
        pixel_weights=weights.astype(np.float32),
    )
    np.testing.assert_array_equal(loss, np.zeros((1, 3)))
    result = protect(images, ensemble, Config(steps=2, loss="face-weighted"), face_weights=weights)
    start = protect(images, ensemble, Config(steps=1, step_size=1e-9)).images
    np.testing.assert_allclose(result.images[:, 5:, 5:], start[:, 5:, 5:], atol=1e-7)
    assert np.abs(result.images - start)[:, :2, :2].mean() > 0.01


def test_weights_are_seen_where_their_pixels_are():
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.uniform(0, 3, (2, 8, 8)), jnp.float32)
    pictures = jnp.repeat(weights[..., None], 3, axis=-1)
    for view in (None, crop(Box(2, 1, 4)), resize(4)):
        seen = see_weights(toy(0, view=view), weights, KEYS)
        expected = pictures if view is None else view(pictures)
        expected = np.asarray(expected)[..., 0]
        expected = expected / expected.mean((1, 2), keepdims=True)
        np.testing.assert_allclose(seen, expected, rtol=1e-5)


def test_an_image_that_has_no_weight_where_a_generator_looks_counts_evenly():
    weights = jnp.zeros((1, 8, 8)).at[:, 0, 0].set(1)
    seen = see_weights(toy(0, view=crop(Box(4, 4, 4))), weights, KEYS[:1])
    np.testing.assert_array_equal(seen, np.ones((1, 4, 4)))


def test_the_face_of_a_crop_counts_more():
    """The map fits the square around a detected face, at any size."""
    for size in (64, 100):
        weights = np.asarray(losses.face_map(size, size))
        face = Box(top=200, left=300, size=100)
        square = face_square(face, 1000, 1000)
        scale = size / square.size
        middle = (face.top + face.size / 2 - square.top) * scale
        across = (face.left + face.size / 2 - square.left) * scale
        assert weights[int(middle), int(across)] == 1
        eyes = int((face.top + 0.4 * face.size - square.top) * scale)
        mouth = int((face.top + 0.78 * face.size - square.top) * scale)
        assert weights[eyes, int(across - 0.15 * size)] > 0.99
        assert weights[mouth, int(across)] > 0.99
        corners = weights[[0, 0, -1, -1], [0, -1, 0, -1]]
        np.testing.assert_allclose(corners, losses.BACKGROUND)
        np.testing.assert_allclose(weights, weights[:, ::-1], atol=1e-6)
        assert np.abs(np.diff(weights, axis=0)).max() < 12 / size  # smooth
    coarse = np.asarray(losses.face_map(32, 32))
    fine = np.asarray(losses.face_map(64, 64)).reshape(32, 2, 32, 2).mean((1, 3))
    np.testing.assert_allclose(coarse, fine, atol=0.02)


def test_without_weights_the_face_of_an_aligned_crop_counts():
    ensemble, images = [toy(0)], photos(1)
    config = Config(steps=4, loss="face-weighted")
    own = np.asarray(losses.face_map(8, 8))[None]
    default = protect(images, ensemble, config)
    given_ = protect(images, ensemble, config, face_weights=7 * own)
    np.testing.assert_allclose(default.losses, given_.losses, rtol=1e-4)
    assert not np.allclose(default.losses, protect(images, ensemble, Config(steps=4)).losses)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones((1, 8, 8)), r"\[N,H,W\], \[2, 8, 8\], not \[1, 8, 8\]"),
        (np.full((2, 8, 8), -1.0), "at least 0"),
        (np.full((2, 8, 8), np.nan), "finite"),
        (np.stack([np.zeros((8, 8)), np.ones((8, 8))]), "not all 0"),
    ],
)
def test_face_weights_are_checked(weights, message):
    with pytest.raises(ValueError, match=message):
        protect(photos(2), toy(0), Config(steps=1, loss="face-weighted"), face_weights=weights)


def test_weights_need_a_loss_that_takes_them():
    with pytest.raises(ValueError, match="loss mse takes no weights"):
        protect(photos(1), toy(0), Config(steps=1), face_weights=np.ones((1, 8, 8)))
    batch = with_weights(toy_batch(photos(1), [toy(0)]), np.ones((1, 4, 4)))
    with pytest.raises(ValueError, match=r"\[1, 8, 8\], not \[1, 4, 4\]"):
        run(Config(steps=1, loss="face-weighted"), toy(0), batch, jax.random.key(0))


# The latent


def test_the_latent_is_compared_once_per_model():
    ensemble, images = [encoding(0), encoding(1)], photos(2, size=4)
    moved = np.clip(images + 0.03, -1, 1)
    conditions = [g.conditions(None) for g in ensemble]
    found = evaluate_losses(ensemble, images, moved, conditions, loss="latent")
    for model, loss in zip(ensemble, found, strict=True):
        difference = toy_encode(model.params, moved) - toy_encode(model.params, images)
        expected = np.square(np.asarray(difference)).mean((1, 2, 3))[:, None]
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("domains", choices()["across_domains"])
def test_the_latent_gradient_is_the_same_however_domains_are_joined(domains):
    model, images = encoding(0), jnp.asarray(photos(2, size=4))
    target = make_target("latent", model, images, jnp.zeros((2, 3, 3)), KEYS)
    evaluate = DOMAIN_STRATEGIES[domains]
    found = evaluate("latent", target, images + 0.02, KEYS, jnp.int32(5))
    distance = lambda x: (toy_encode(model.params, x) - target.references[:, 0]) ** 2  # noqa: E731
    expected = jax.grad(lambda x: distance(x).mean((1, 2, 3)).sum())(images + 0.02)
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-5, atol=1e-9)
    assert found.domain_losses.shape == (2, 1)


@pytest.mark.parametrize("update", ["i-fgsm", "apgd"])
def test_an_encoder_that_is_constant_moves_nothing(update):
    blind = encoding(encode=lambda params, x: jnp.ones((len(x), 5)))
    config = Config(steps=3, loss="latent", update=update)
    batch = toy_batch(photos(1, size=4), [blind])
    result = quick_run(config, [blind], batch, jax.random.key(0))
    np.testing.assert_array_equal(result.losses, np.zeros((3, 1, 1)))
    still = quick_run(Config(steps=1, step_size=1e-9), [blind], batch, jax.random.key(0))
    np.testing.assert_allclose(result.images, still.images, atol=1e-8)


def test_the_latent_of_every_model_is_disrupted():
    ensemble = [encoding(0), encoding(1, encode=lambda p, x: toy_encode(p, x).reshape(len(x), -1))]
    batch = toy_batch(photos(2, size=4), ensemble)
    result = quick_run(Config(steps=10, loss="latent"), ensemble, batch, jax.random.key(0))
    assert (result.losses[-1] > 30 * result.losses[0]).all()


def test_a_generator_without_an_encoder_is_named():
    ensemble = [encoding(0), toy(1, name="blunt", size=4)]
    with pytest.raises(ValueError, match=r"blunt has no encoder.*loss latent") as error:
        protect(photos(1, size=4), ensemble, Config(steps=1, loss="latent"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encode", [lambda params, x: (x, x), lambda params, x: x.mean(0)])
def test_an_encoder_returns_an_array_of_each_image(encode):
    with pytest.raises(ValueError, match=r"the encode of toy0 must return an array \[B,...\]"):
        protect(photos(2), toy(0, encode=encode), Config(steps=1, loss="latent"))


@pytest.mark.parametrize("pieces", [False, True])
def test_losses_are_of_the_weights_and_the_draws_given(pieces):
    def noisy(images, key):
        return images + 0.3 * jax.random.normal(key, images.shape, images.dtype)

    clean = jnp.asarray(photos(2))
    conditions = toy_batch(clean, [toy(0)]).conditions
    weights = np.zeros((2, 8, 8), np.float32)
    weights[:, :2] = 1
    with apart(pieces):
        (own,) = evaluate_losses(
            toy(0), clean, clean / 2, conditions, loss="face-weighted", pixel_weights=weights
        )
        (face,) = evaluate_losses(toy(0), clean, clean / 2, conditions, loss="face-weighted")
        assert not np.allclose(own, face, rtol=1e-2)
        drawn = [
            evaluate_losses(toy(0, view=noisy), clean, clean / 2, conditions, seed=seed)[0]
            for seed in (0, 1)
        ]
        assert not np.allclose(*drawn, rtol=1e-3)
