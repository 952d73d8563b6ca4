"""Views: against Pillow, and their gradients against finite differences."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cdmaa_jax.images import views
from cdmaa_jax.images.faces import Box


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def pillow_resize(image, size):
    planes = [
        Image.fromarray(np.ascontiguousarray(image[..., c])).resize(
            (size, size), Image.Resampling.BILINEAR
        )
        for c in range(image.shape[-1])
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(50, 70, 16), (37, 37, 64), (128, 128, 64), (9, 33, 20), (5, 4, 1)],
)
def test_resize_is_pillows(height, width, size):
    image = noise(height, width, 3)
    ours = views.resize(size)(image[None])[0]
    np.testing.assert_allclose(ours, pillow_resize(image, size), atol=2e-6)


def test_resize_to_the_same_size_is_the_identity():
    images = jnp.asarray(noise(2, 16, 16, 3))
    assert views.resize(16)(images) is images


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(1, 300))
def test_resize_weights_are_averages(source, target):
    matrix = views.resize_matrix(source, target)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1)


@pytest.mark.parametrize(
    "view",
    [views.resize(5), views.resize(20), views.crop(Box(2, 3, 7))],
    ids=["shrink", "enlarge", "crop"],
)
def test_gradients_are_the_numerical_ones(view):
    images = noise(1, 12, 12, 3).astype(np.float32)
    weights = jnp.asarray(noise(*view(images).shape, seed=1))

    def loss(x):
        return jnp.vdot(view(x), weights, precision="highest")

    gradient = jax.grad(loss)(jnp.asarray(images))
    direction = noise(*images.shape, seed=2)
    step = 0.5  # the views are linear
    numeric = (loss(images + step * direction) - loss(images - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(gradient, jnp.asarray(direction)), numeric, rtol=1e-4)


def test_crop_is_the_square():
    images = noise(2, 10, 12, 3)
    np.testing.assert_array_equal(views.crop(Box(2, 5, 6))(images), images[:, 2:8, 5:11])


@pytest.mark.parametrize("box", [Box(-1, 0, 4), Box(0, 8, 5), Box(0, 0, 0)])
def test_crop_outside_the_image(box):
    with pytest.raises(ValueError, match="not inside"):
        views.crop(box)(noise(1, 10, 12, 3))


def smooth_photo(height=61, width=50):
    y, x = np.mgrid[:height, :width] / 20
    photo = np.stack([np.sin(x + y), np.cos(x * y), np.sin(3 * x)], axis=-1)
    return np.rint(photo * 100 + 128).astype(np.uint8)


@pytest.mark.parametrize("quality", [10, 50, 75, 95])
def test_jpeg_is_pillows(quality):
    photo = smooth_photo()
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=quality, subsampling=0)
    theirs = np.asarray(Image.open(file), np.float32)
    ours = (np.asarray(views.jpeg(quality)(photo[None] / np.float32(127.5) - 1))[0] + 1) * 127.5
    assert np.abs(ours - theirs).mean() < 0.3
    assert np.abs(ours - theirs).max() <= 6


def test_jpeg_gradient_is_nearly_the_identity_at_quality_100():
    photo = jnp.asarray(smooth_photo()[None] / np.float32(127.5) - 1)
    weights = jnp.asarray(noise(*photo.shape))
    gradient = jax.grad(lambda x: jnp.vdot(views.jpeg(100)(x), weights))(photo)
    assert jnp.abs(gradient[:, :56, :48] - weights[:, :56, :48]).max() < 0.02


def test_compose_goes_left_to_right_and_splits_the_key():
    seen = []

    def spy(images, key=None):
        seen.append(key)
        return images

    view = views.compose(views.crop(Box(0, 0, 8)), spy, views.resize(4), spy)
    assert view(noise(1, 10, 10, 3), jax.random.key(0)).shape == (1, 4, 4, 3)
    assert not jnp.array_equal(jax.random.key_data(seen[0]), jax.random.key_data(seen[1]))
    view(noise(1, 10, 10, 3))
    assert seen[2:] == [None, None]


def test_equal_views_are_one_to_jax():
    traced = []

    def run(view, x):
        traced.append(1)
        return view(x)

    compiled = jax.jit(run, static_argnums=0)
    for _ in range(2):
        view = views.compose(views.crop(Box(0, 0, 8)), views.resize(4), views.jpeg(90))
        compiled(view, noise(1, 10, 10, 3))
    assert len(traced) == 1


@pytest.mark.parametrize("view", [views.resize(4), views.jpeg(90)], ids=str)
def test_whole_numbers_are_no_images(view):
    with pytest.raises(ValueError, match=r"floats in \[-1, 1\], not uint8"):
        view(jnp.zeros((1, 8, 8, 3), jnp.uint8))


@pytest.mark.parametrize(
    "make", [lambda: views.resize(0), lambda: views.jpeg(0), lambda: views.jpeg(101)]
)
def test_impossible_views(make):
    with pytest.raises(ValueError):
        make()
