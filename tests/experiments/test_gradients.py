"""The gradients that Figure 2 is computed from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdmaa_jax.attack import apart
from cdmaa_jax.attack.config import Config
from cdmaa_jax.attack.minnorm import min_norm_weights
from cdmaa_jax.experiments import gradients
from cdmaa_jax.experiments.gradients import (
    Trace,
    between_models,
    join,
    summarize_trace,
    trace_gradients,
)
from cdmaa_jax.protection import conditions_of
from tests.attack.toys import photos, quick_run, quick_start, toy, toy_batch

CONFIG = Config(steps=3)
DOMAINS = {"toy0": ("dark", "light", "odd"), "toy1": ("dark", "light", "odd")}


@pytest.fixture(scope="module")
def models():
    return toy(0), toy(1, gain=3.0)


@pytest.fixture(scope="module")
def trace(models):
    conditions = [conditions_of(model, None, 2) for model in models]
    return trace_gradients(CONFIG, models, photos(2), conditions, seed=5)


def test_the_inner_products_are_those_of_the_domains_gradients(models, trace):
    clean = photos(2)
    batch = toy_batch(clean, models)
    start = quick_start(CONFIG, models, batch, jax.random.key(5))
    found = [
        jax.grad(lambda x, m=model, c=c: ((m(x, c) - m(clean, c)) ** 2).mean((1, 2, 3)).sum())(
            start
        )
        for model, conditions in zip(models, batch.conditions, strict=True)
        for c in (jnp.repeat(conditions[:, k], 2, axis=0) for k in range(3))
    ]
    flat = np.stack([np.asarray(g, np.float64).reshape(2, -1) for g in found], axis=1)
    expected = np.einsum("bmd,bnd->bmn", flat, flat)
    scale = np.abs(flat).max((1, 2)) ** 2
    np.testing.assert_allclose(trace.gram[0], expected / scale[:, None, None], rtol=1e-3, atol=1e-4)


def test_in_pieces_it_is_the_same(models, trace):
    conditions = [conditions_of(model, None, 2) for model in models]
    with apart():
        found = trace_gradients(CONFIG, models, photos(2), conditions, seed=5)
    np.testing.assert_allclose(found.gram, trace.gram, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.along, trace.along, rtol=1e-3)
    np.testing.assert_allclose(found.along_sign, trace.along_sign, rtol=1e-3)
    np.testing.assert_allclose(found.along_step, trace.along_step, rtol=1e-3)


def test_in_pieces_a_model_may_have_one_domain(models, trace):
    conditions = [conditions_of(model, None, 2) for model in models]
    conditions[1] = conditions[1][:, :1]
    expected = trace_gradients(CONFIG, models, photos(2), conditions, seed=5)
    assert expected.gram.shape[-1] == 4 and trace.gram.shape[-1] == 6
    with apart():
        found = trace_gradients(CONFIG, models, photos(2), conditions, seed=5)
    np.testing.assert_allclose(found.gram, expected.gram, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.along, expected.along, rtol=1e-3)


@pytest.mark.parametrize("in_pieces", [False, True])
def test_as_many_photos_at_once_as_the_plan_says_give_the_same(
    models, trace, monkeypatch, in_pieces
):
    asked = []

    def one_at_a_time(loss, ensemble, batch, device, chunk):
        asked.append((loss, ensemble, len(batch.images), chunk))
        return 1, 2

    monkeypatch.setattr(gradients, "plan_chunks", one_at_a_time)
    conditions = [conditions_of(model, None, 2) for model in models]
    with apart(in_pieces):
        found = trace_gradients(CONFIG, models, photos(2), conditions, seed=5)
    assert asked == [("mse", models, 2, None)]
    np.testing.assert_allclose(found.gram, trace.gram, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.along, trace.along, rtol=1e-3)


def test_shapes_and_the_theorem(trace):
    assert trace.gram.shape == (3, 2, 6, 6)
    assert trace.along.shape == trace.along_sign.shape == trace.along_step.shape == (3, 2, 2)
    assert (trace.along > 0).all()


def test_a_models_gradient_is_the_mean_of_its_domains():
    vectors = np.random.default_rng(0).normal(size=(5, 7))
    means = np.stack([vectors[:2].mean(0), vectors[2:].mean(0)])
    gram = between_models(vectors @ vectors.T, [2, 3])
    np.testing.assert_allclose(gram, means @ means.T)


def made_up(*vectors, along=((1.0, 1.0),)):
    """A trace of one step and image with these domains' gradients."""
    vectors = np.array(vectors)
    along = np.array(along)[:, None]
    return Trace((vectors @ vectors.T)[None, None], along, -along, np.abs(along))


def test_cosines_and_ratios_of_norms():
    trace = made_up([1.0, 0], [0, 2.0], [3.0, 0], [3.0, 0])
    summary = summarize_trace(trace, {"a": ("x", "y"), "b": ("z", "w")}, seed=0)
    assert summary["between_domains"]["a"]["cosine"]["mean"] == 0
    assert summary["between_domains"]["a"]["norm_ratio"]["mean"] == 0.5
    assert summary["between_domains"]["b"]["cosine"]["pairs"]["z, w"]["mean"] == 1
    between = summary["between_models"]  # (0.5, 1) and (3, 0)
    assert between["cosine"]["pairs"]["a, b"]["mean"] == pytest.approx(1.5 / 3 / 1.25**0.5)
    assert between["norm_ratio"]["mean"] == pytest.approx(1.25**0.5 / 3)
    found = {way: share["mean"] for way, share in summary["theorem1"].items()}
    assert found == {"w": 1, "sign(w)": 0, "step": 1}


def test_the_theorem_needs_every_model():
    first, second = (made_up([1.0], [1.0], along=[pair]) for pair in ((1.0, -1.0), (1.0, 1.0)))
    both = join([first, second])
    summary = summarize_trace(both, {"a": ("x",), "b": ("y",)}, seed=0)
    assert summary["theorem1"]["w"]["mean"] == 0.5
    assert summary["theorem1"]["w"]["by_image"] == [0, 1]
    assert summary["between_domains"] == {}


def test_gradients_of_zero_have_no_direction():
    summary = summarize_trace(made_up([0.0, 0], [1.0, 0]), {"a": ("x", "y")}, seed=0)
    assert summary["between_domains"]["a"]["cosine"]["mean"] == 0


def test_w_is_the_steps_own():
    """The combination of the regularized gradients, which the attack follows."""
    clean, models, config = (
        photos(2),
        (toy(0), toy(1, gain=1.3)),
        Config(steps=1, regularization="log", start="uniform"),
    )
    batch = toy_batch(clean, models)
    start = quick_start(config, models, batch, jax.random.key(5))
    conditions = [conditions_of(model, None, 2) for model in models]
    trace = trace_gradients(config, models, clean, conditions, seed=5)

    def loss_of(model, x, c):
        out = [((model(x, c[:, k]) - model(clean, c[:, k])) ** 2).mean((1, 2, 3)) for k in range(3)]
        return jnp.stack(out).mean(0)

    losses = [loss_of(m, start, c) for m, c in zip(models, conditions, strict=True)]
    gradients = [
        jax.grad(lambda x, m=m, c=c: loss_of(m, x, c).sum())(start)
        for m, c in zip(models, conditions, strict=True)
    ]
    regular = jnp.stack(
        [g / v[:, None, None, None] for g, v in zip(gradients, losses, strict=True)], 1
    )
    weights = min_norm_weights(regular)
    assert ((weights > 0.2) & (weights < 0.8)).all()
    w = np.einsum("bj,bjhwc->bhwc", weights, regular)
    g = np.stack(gradients, 1)
    w /= np.abs(w).max((1, 2, 3), keepdims=True)
    g /= np.abs(g).max((1, 2, 3, 4), keepdims=True)
    for found, way in ((trace.along, w), (trace.along_sign, np.sign(w))):
        np.testing.assert_allclose(found[0], np.einsum("bhwc,bjhwc->bj", way, g), rtol=1e-3)


def test_the_step_is_the_clipped_one(models):
    """With the whole of epsilon as the step, a second one can only stay or turn back."""
    clean, config = photos(2), Config(steps=2, step_size=0.05, start="uniform")
    batch = toy_batch(clean, models)
    start = quick_start(config, models, batch, jax.random.key(5))
    after = quick_run(dataclasses.replace(config, steps=1), models, batch, jax.random.key(5)).images
    conditions = [conditions_of(model, None, 2) for model in models]
    trace = trace_gradients(config, models, clean, conditions, seed=5)

    def gradient(model, given):
        def loss(x):
            each = [(model(x, given[:, k]) - model(clean, given[:, k])) ** 2 for k in range(3)]
            return jnp.stack(each).mean((0, 2, 3, 4)).sum()

        return jax.grad(loss)(start)

    g = np.stack([gradient(m, c) for m, c in zip(models, conditions, strict=True)], 1)
    g /= np.abs(g).max((1, 2, 3, 4), keepdims=True)
    step = np.asarray(after) - np.asarray(start)
    assert (np.abs(step) < 0.0499).any()  # some was clipped
    step /= np.abs(step).max((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(trace.along_step[0], np.einsum("bhwc,bjhwc->bj", step, g), rtol=1e-3)


def test_figures_by_step_are_means_over_photos():
    def at(*pairs):  # two steps of one photo
        one = made_up([1.0], [1.0])
        return Trace(np.repeat(one.gram, 2, 0), *[np.array(pairs)[:, None]] * 3)

    trace = join([at((1.0, 1.0), (1.0, -1.0)), at((1.0, 1.0), (1.0, 1.0))])
    found = summarize_trace(trace, {"a": ("x",), "b": ("y",)}, seed=0)["theorem1"]["w"]
    assert found["by_step"] == [1, 0.5] and found["by_image"] == [0.5, 1]
