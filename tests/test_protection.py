"""``protect`` on arrays: what it accepts, batches and padding, devices, views, failures."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cdmaa_jax import Config, protect, protection
from cdmaa_jax.attack import compilation, evaluate_losses, running
from cdmaa_jax.images.views import jpeg
from cdmaa_jax.protection import fit_views
from tests.attack.toys import photos, toy

QUICK = Config(steps=3)


@pytest.fixture
def ensemble():
    return [toy(0), toy(1)]


def test_results_do_not_depend_on_the_batch_size(x64):
    """Five images in one batch, in two batches (the last one padded), and one by one."""
    ensemble = [toy(0, dtype=np.float64), toy(1, dtype=np.float64)]
    images = photos(5, dtype=np.float64)
    whole = protect(images, ensemble, QUICK, 4)
    assert whole.images.dtype == np.float64
    padded = protect(images, ensemble, QUICK, 4, batch_size=3)
    shared = protect(images, ensemble, QUICK, 4, devices=jax.devices()[:2], batch_size=4)
    single = protect(images[3:4], ensemble, QUICK, 4, batch_size=3)
    for other in (padded, shared):
        np.testing.assert_allclose(other.images, whole.images, rtol=0, atol=1e-12)
        np.testing.assert_allclose(other.losses, whole.losses, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(other.weights, whole.weights, atol=1e-7)
    np.testing.assert_allclose(single.images, whole.images[3:4], rtol=0, atol=1e-12)
    assert whole.losses.shape == whole.weights.shape == (3, 5, 2)


def test_one_program_serves_all_batches(ensemble):
    protect(photos(4), ensemble, QUICK, batch_size=2)
    before = running.program_for("cpu", None)._cache_size()
    protect(photos(7), ensemble, QUICK, 5, batch_size=2)
    other = [toy(0), toy(1)]  # different arrays, same functions
    protect(photos(1), other, QUICK, batch_size=2)
    assert running.program_for("cpu", None)._cache_size() == before


def test_prepared_programs_are_those_of_protect(ensemble):
    images, labels = photos(3, size=9), {"odd": np.array([0, 1, 1])}
    options = {"labels": labels, "batch_size": 2}
    before = len(compilation._READY)
    protection.prepare(images, ensemble, QUICK, **options)
    assert len(compilation._READY) == before + 1
    protect(images, ensemble, QUICK, 7, **options)
    assert len(compilation._READY) == before + 1
    with pytest.raises(ValueError, match="batch_size"):
        protection.prepare(images, ensemble, QUICK, batch_size=0)


def test_float32_images_stay_within_epsilon(ensemble):
    images = photos(2)
    result = protect(images, ensemble, Config(steps=8, update="pgd"), batch_size=2)
    assert result.images.dtype == np.float32
    difference = result.images.astype(np.float64) - images.astype(np.float64)
    assert 0.04 < np.abs(difference).max() <= 0.05
    assert np.abs(result.images).max() <= 1


def test_keys(ensemble):
    images = np.repeat(photos(1), 2, axis=0)
    same = protect(images, ensemble, QUICK, 7, batch_size=2)
    np.testing.assert_array_equal(same.images[0], same.images[1])
    typed = protect(images, ensemble, QUICK, jax.random.key(7), batch_size=2)
    np.testing.assert_array_equal(same.images, typed.images)
    own = protect(images, ensemble, QUICK, jax.random.split(jax.random.key(7), 2), batch_size=2)
    assert not np.array_equal(own.images[0], own.images[1])


def test_labels_choose_the_conditions(ensemble):
    images = np.repeat(photos(1), 2, axis=0)
    result = protect(images, ensemble, QUICK, labels={"odd": np.array([0, 1])}, batch_size=2)
    plain = protect(images, ensemble, QUICK, batch_size=2)
    np.testing.assert_allclose(result.losses[:, 0], plain.losses[:, 0], rtol=1e-4)
    assert not np.allclose(result.losses[:, 1], plain.losses[:, 1], rtol=1e-2)
    for count in (1, 3):
        with pytest.raises(ValueError, match=f"labels .* for {count} images, not 2"):
            protect(images, ensemble, QUICK, labels={"odd": np.zeros(count)})
    unused = {"odd": torch.tensor([0, 1]), "name": "x", "box": np.zeros((2, 4)), "more": [1, 2, 3]}
    other = protect(images, ensemble, QUICK, labels=unused, batch_size=2)
    np.testing.assert_array_equal(other.losses, result.losses)


def test_a_generator_that_ignores_its_input_is_told_of(ensemble):
    constant = toy(3, name="constant", size=4, apply=lambda params, x, c: jnp.zeros_like(x))
    with pytest.warns(UserWarning, match=r"constant changed in no step; .*: leave out constant$"):
        result = protect(photos(2), [*ensemble, constant], QUICK)
    assert (result.weights[1:, :, -1] == 1).all()
    with pytest.warns(UserWarning, match=r"of constant changed in no step$"):
        protect(photos(2), [*ensemble, constant], replace(QUICK, across_models="uniform"))


def test_a_generator_without_a_gradient_is_told_of(ensemble):
    """Its outputs differ, since the jittered start crosses a rounding, but no step changes them."""
    flat = toy(3, name="flat", apply=lambda params, x, c: jnp.round(127.5 * x) / 127.5)
    with pytest.warns(UserWarning, match=r"edits of flat changed in no step; .*: leave out flat$"):
        result = protect(photos(2), [*ensemble, flat], QUICK)
    assert (result.losses[:, :, -1] > 0).all() and (result.weights[:, :, -1] == 1).all()
    with pytest.warns(UserWarning, match=r"^the edits of flat changed in no step$"):
        protect(photos(2), [flat, *ensemble], replace(QUICK, across_models="single"))


@pytest.mark.parametrize(("changes", "message"), [
    ({"params": {"mode": "x"}}, r"params\['mode'\] of toy0 must be an array, not a str"),
    ({"conditions": np.eye(3)[None]}, "toy0 must be a function of labels, no ndarray"),
])  # fmt: skip
def test_parts_of_a_generator_of_another_kind_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        protect(photos(2), toy(0, **changes), QUICK)
    if "params" in changes:
        with pytest.raises(ValueError, match=message):
            evaluate_losses(toy(0, **changes), photos(2), photos(2), [np.eye(3)[None]])


def test_an_ensemble_may_be_any_iterable(ensemble):
    expected = protect(photos(3), ensemble, QUICK, batch_size=2)
    found = protect(photos(3), iter(ensemble), QUICK, batch_size=2)
    np.testing.assert_array_equal(found.images, expected.images)


def test_a_view_that_rounds_needs_a_larger_start():
    """An 8-bit photo comes back through JPEG unchanged by less than half of a grey level."""
    photo = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.float32) / 127.5 - 1
    model = toy(0, view=jpeg(90))
    with pytest.warns(UserWarning, match=r"of toy0 changed in no step; .* choose the start unif"):
        hidden = protect(photo, model, QUICK)
    assert (hidden.losses == 0).all()
    assert (protect(photo, model, replace(QUICK, start="uniform")).losses[-1] > 0).all()


def test_a_generator_may_have_the_same_edits_whatever_the_labels(ensemble):
    free = toy(3, conditions=lambda labels: np.eye(3, dtype=np.float32)[None])
    result = protect(photos(2), [*ensemble, free], QUICK, labels={"odd": [0, 1]}, batch_size=2)
    assert (result.losses[-1] > 0).all()
    with pytest.raises(ValueError, match="the labels of odd are for 3 images, not 2"):
        protect(photos(2), free, QUICK, labels={"odd": [0, 1, 1]})
    odd = toy(4, name="strange", conditions=lambda labels: np.zeros((3, 3, 3), np.float32))
    with pytest.raises(ValueError, match="the conditions of strange are for 3 images, not 2"):
        protect(photos(2), odd, QUICK)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64])
def test_seeds_that_would_be_cut_are_refused(ensemble, seed):
    with pytest.raises(ValueError, match="seed must be a whole number from 0 to 4294967295"):
        protect(photos(1), ensemble, QUICK, seed)


@pytest.fixture
def rbg_by_default():
    with jax.default_prng_impl("rbg"):
        yield


def test_seeds_are_of_one_kind_whatever_jax_takes_by_default(ensemble, rbg_by_default):
    """With ``rbg`` keys, the second image's noise would depend on its position in the batch."""
    images = np.repeat(photos(1), 2, axis=0)
    together, alone = (protect(images[:n], ensemble, QUICK, 4) for n in (2, 1))
    for row in together.losses[0]:
        np.testing.assert_allclose(row, alone.losses[0, 0], rtol=1e-4)


def test_another_native_size_is_a_view():
    small, fitting = toy(0, size=4), toy(1, size=8)
    views = [model.view for model in fit_views([small, fitting], 8, 8)]
    assert views[0] is not None and views[1] is None
    own = toy(2, size=4, view=lambda images, key: images[:, ::2, ::2])
    assert fit_views(own, 8, 8)[0] is own
    result = protect(photos(1, size=8), [small, fitting, own], QUICK)
    assert result.images.shape == (1, 8, 8, 3) and (result.losses[-1] > 0).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), r"\[N,H,W,3\], at least one, not \[8, 8, 3\]"),
        (None, r"\[N,H,W,3\], at least one, not NoneType"),
        ("photo.jpg", r"\[N,H,W,3\], at least one, not str"),
        (np.zeros((1, 8, 8, 4), np.float32), r"\[N,H,W,3\], at least one, not \[1, 8, 8, 4\]"),
        (np.zeros((0, 8, 8, 3), np.float32), r"\[N,H,W,3\], at least one, not \[0, 8, 8, 3\]"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"floats in \[-1, 1\], not uint8"),
        (np.full((1, 8, 8, 3), 1.5, np.float32), r"in \[-1, 1\]"),
        (np.full((1, 8, 8, 3), np.nan, np.float32), "finite"),
    ],
)
def test_images_are_checked(images, message, ensemble):
    with pytest.raises(ValueError, match=message):
        protect(images, ensemble, QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": 1.5}, "key must be"),
        (
            {"key": jax.random.split(jax.random.key(0), 3)},
            r"one key, or one for each of the 2 images, not keys of shape \(3,\)",
        ),
        ({"key": jax.random.key(0, impl="rbg")}, "keys must be of threefry2x32, not rbg"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 3, "devices": jax.devices()[:2]}, "multiple of the 2 devices"),
    ],
)
def test_arguments_are_checked(options, message, ensemble):
    with pytest.raises(ValueError, match=message):
        protect(photos(2), ensemble, QUICK, **options)


def test_generators_are_checked():
    with pytest.raises(ValueError, match="ensemble is empty"):
        protect(photos(1), [], QUICK)
    with pytest.raises(ValueError, match="are a Config, not dict"):
        protect(photos(1), toy(0), {"steps": 3})
    with pytest.raises(ValueError, match="nothing has no domains"):
        protect(photos(1), toy(0, name="nothing", domains=()), QUICK)
    for wrong, kind in (("demo", "str"), ([toy(0), None], "NoneType"), (7, "int")):
        with pytest.raises(ValueError, match=f"an ensemble is .*; {kind} is no Generator"):
            protect(photos(1), wrong, QUICK)
    several = toy(0, name="several", apply=lambda params, x, c: (x, c))
    with pytest.raises(ValueError, match="several returns a tuple; its apply must return the imag"):
        protect(photos(1), several, QUICK)
    lost = toy(0, name="lost", conditions=lambda labels: np.zeros((1, 2, 3), np.float32))
    with pytest.raises(ValueError, match=r"conditions of lost must be \[B,3,n\].*\[1, 2, 3\]"):
        protect(photos(1), lost, QUICK)
    halver = toy(0, name="halver", apply=lambda params, x, c: x[:, ::2])
    with pytest.raises(ValueError, match=r"halver.*\[1, 8, 8, 3\].*\[1, 4, 8, 3\]"):
        protect(photos(1), halver, QUICK)


def test_a_generator_that_gives_nan_is_named():
    broken = toy(1, name="broken", apply=lambda params, x, c: jnp.log(x - 2))
    with pytest.raises(ValueError, match="step 0 the outputs of broken are not finite"):
        protect(photos(1), [toy(0), broken], QUICK)
    with pytest.raises(ValueError, match="step 0 the outputs of broken are not finite"):
        protect(photos(1), [broken, toy(0)], QUICK)


def root_of_change(params, x, c):
    """Finite, with a finite gradient except where x is 0."""
    return jnp.tanh(params["gain"]) * jnp.sqrt(jnp.abs(x)) + 0 * c[:, None, None, :1]


def test_a_gradient_that_is_not_finite_where_it_is_not_used_harms_no_other_generator():
    """At the clean images, where only the outputs are used."""
    edge = toy(1, name="edge", apply=root_of_change, params={"gain": 1.0})
    clean = photos(2)
    clean[:, 0, 0] = 0
    for ensemble in ([edge, toy(0)], [toy(0), edge]):
        result = protect(clean, ensemble, QUICK)
        assert np.isfinite(result.losses).all()


def test_a_gradient_that_is_not_finite_is_told_of():
    """In step 0 the toy's images are as they should be; in step 1 none are."""
    edge = toy(1, name="edge", apply=lambda params, x, c: jnp.sqrt(jnp.abs(x * 0)) + x)
    with pytest.raises(ValueError, match=r"in step 0 a generator's gradient is not finite, or in"):
        protect(photos(1), [edge, toy(0)], Config(steps=3))


@pytest.mark.parametrize("what", ["labels", "face_weights", "key"])
def test_what_belongs_to_an_image_goes_with_it_into_any_batch(what, x64):
    ensemble, images = [toy(0, dtype=np.float64)], photos(5, dtype=np.float64)
    config, key, options = Config(steps=2, loss="face-weighted"), 4, {}
    if what == "labels":
        options = {"labels": {"odd": np.array([1, 0, 0, 1, 1])}}
    if what == "face_weights":
        options = {"face_weights": np.random.default_rng(0).uniform(0, 1, (5, 8, 8)) ** 8}
    if what == "key":
        key = jax.random.split(jax.random.key(0), 5)
    whole, padded = (
        protect(images, ensemble, config, key, batch_size=size, **options) for size in (5, 2)
    )
    np.testing.assert_allclose(padded.losses, whole.losses, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(padded.images, whole.images, rtol=0, atol=1e-12)
