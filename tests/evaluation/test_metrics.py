"""The metrics."""

import math
import tracemalloc

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cdmaa_jax.evaluation import metrics
from cdmaa_jax.generators import registry
from tests.tiny import CONFIGS


def photos(height=30, width=20):
    random = np.random.default_rng(0)
    original = random.integers(0, 256, (height, width, 3), np.uint8)
    change = random.integers(-6, 7, original.shape)
    return original, np.clip(original + change, 0, 255).astype(np.uint8)


def test_losses_are_mean_squares_per_image_and_domain():
    random = np.random.default_rng(0)
    clean, protected = random.uniform(-1, 1, (2, 3, 4, 5, 5, 3)).astype(np.float32)
    values = metrics.losses(clean, protected)
    assert values.shape == (3, 4)
    np.testing.assert_allclose(
        values[1, 2], ((clean[1, 2] - protected[1, 2]) ** 2).mean(), rtol=1e-6
    )


def test_summaries():
    values = np.array([[0.05, 0.06], [0.0, 0.5]])
    assert metrics.attack_rate(values, 0.05) == 0.5  # the threshold is strict
    assert metrics.avg_l(values) == pytest.approx(0.1525)
    assert math.isnan(metrics.avg_l(np.zeros((0, 2)))) and math.isnan(metrics.attack_rate([]))


def test_edits_share_or_have_their_own_conditions():
    generator = registry.make_generator(
        "stargan", CONFIGS["stargan"], registry.init_params("stargan", CONFIGS["stargan"])
    )
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    shared = generator.conditions(None)
    edits = np.asarray(metrics.edits(generator, images, shared))
    assert edits.shape == (2, 2, 16, 16, 3)
    own = np.broadcast_to(shared, (2, *shared.shape[1:]))
    np.testing.assert_array_equal(metrics.edits(generator, images, own), edits)
    alone = generator(images[1:], shared[:, 1])
    np.testing.assert_allclose(edits[1, 1], np.asarray(alone)[0], atol=1e-5)


def test_linf_is_in_units_of_the_range():
    original, protected = photos()
    assert metrics.linf(original, protected) == pytest.approx(6 / 127.5)
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert metrics.linf(black, white) == 2


def test_psnr_is_scikit_images():
    original, protected = photos()
    expected = peak_signal_noise_ratio(original, protected, data_range=255)
    assert metrics.psnr(original, protected) == pytest.approx(expected)
    assert metrics.psnr(original, original) == math.inf


@pytest.mark.parametrize("strip", [1, 5, 24, 1000])
def test_ssim_is_scikit_images_however_it_is_cut(monkeypatch, strip):
    monkeypatch.setattr(metrics, "_STRIP", strip)
    original, protected = photos()
    expected = structural_similarity(original, protected, channel_axis=2, data_range=255)
    assert metrics.ssim(original, protected) == pytest.approx(expected, abs=1e-9)


def test_ssim_takes_little_memory_for_small_photos_too():
    photo = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    tracemalloc.start()
    metrics.ssim(photo, photo[::-1])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / photo.size < 10  # 3 bytes of each pixel are the photo's, 30 those of its copy


@pytest.mark.parametrize("metric", [metrics.linf, metrics.psnr, metrics.ssim])
def test_what_are_no_photos_of_one_size_is_refused(metric):
    photo = photos()[0]
    for other in (photo / 127.5 - 1, photo[None], photo[..., :1], photo[..., 0]):
        with pytest.raises(ValueError, match=r"must be uint8 \[H,W,3\], not .*to_levels makes"):
            metric(photo, other)
    with pytest.raises(ValueError, match=r"of one size, not uint8 \[30, 20, 3\] and uint8 \["):
        metric(photo, photo[:-1])


def test_ssim_needs_a_window():
    with pytest.raises(ValueError, match="at least 7"):
        metrics.ssim(*photos(6, 30))
