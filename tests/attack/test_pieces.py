"""Attacks in separately compiled pieces: the same attacks, which share what they can."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdmaa_jax.attack import (
    Config,
    apart,
    choices,
    compilation,
    evaluate_losses,
    pieces,
    prepare,
    run,
)
from cdmaa_jax.attack.numbers import numbers_of
from cdmaa_jax.evaluation import metrics
from tests.attack.toys import DOMAINS, photos, quick_run, toy, toy_batch

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def ensemble():
    return toy(0), toy(1, encode=lambda params, x: jnp.tanh(2 * x))


def run_apart(*arguments, **options):
    with apart():
        return run(*arguments, **options)


def assert_alike(found, expected):
    """Equal, except for the rounding of sums, which occasionally decides a sign."""
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-3)
    np.testing.assert_allclose(found.weights, expected.weights, atol=1e-3)
    assert (np.abs(found.images - expected.images) < 1e-6).mean() > 0.99
    assert found.losses.shape == expected.losses.shape
    if expected.perturbation is None:
        assert found.perturbation is None
    else:
        np.testing.assert_allclose(found.perturbation, expected.perturbation, atol=1e-6)


@pytest.mark.parametrize("update", ["i-fgsm", "apgd"])
@pytest.mark.parametrize("strategy", choices()["across_domains"])
def test_pieces_attack_as_the_whole_program_does(ensemble, strategy, update):
    config = Config(steps=3, across_domains=strategy, update=update)
    batch = toy_batch(photos(2), ensemble)
    assert_alike(run_apart(config, ensemble, batch, KEY), quick_run(config, ensemble, batch, KEY))


@pytest.mark.parametrize(
    "options",
    [
        {"update": "pgd", "loss": "face-weighted"},
        {"perturbation": "universal", "update": "mi-fgsm"},
        {"perturbation": "universal", "update": "apgd"},
    ],
    ids=str,
)
def test_whatever_the_loss_and_what_is_moved(ensemble, options):
    config, batch = Config(steps=3, **options), toy_batch(photos(2), ensemble)
    assert_alike(run_apart(config, ensemble, batch, KEY), quick_run(config, ensemble, batch, KEY))


def test_of_random_views(ensemble):
    """The clean images use their own random draw, in an iteration of the loop or before it."""

    def noisy(images, key):
        return images + 0.1 * jax.random.normal(key, images.shape, images.dtype)

    models = [dataclasses.replace(model, view=noisy) for model in ensemble]
    config, batch = Config(steps=3), toy_batch(photos(2), models)
    assert_alike(run_apart(config, models, batch, KEY), quick_run(config, models, batch, KEY))


def test_of_latents(ensemble):
    models = ensemble[1:]
    config, batch = Config(steps=3, loss="latent"), toy_batch(photos(2), models)
    assert_alike(run_apart(config, models, batch, KEY), quick_run(config, models, batch, KEY))


@pytest.mark.parametrize("strategy", ["uniform", "mgda"])
def test_a_few_images_at_a_time(ensemble, strategy):
    config, batch = Config(steps=2, across_domains=strategy), toy_batch(photos(4), ensemble)
    some = run_apart(config, ensemble, batch, KEY, chunk=2)
    assert_alike(some, run_apart(config, ensemble, batch, KEY))


def test_weights_of_pixels_are_seen(ensemble):
    config, batch = Config(steps=2, loss="face-weighted"), toy_batch(photos(2), ensemble)
    weights = jnp.zeros(batch.images.shape[:3]).at[:, 2:4].set(1)
    batch = dataclasses.replace(batch, pixel_weights=weights)
    assert_alike(run_apart(config, ensemble, batch, KEY), quick_run(config, ensemble, batch, KEY))


def new_programs(work):
    """The pieces that ``work`` compiles."""
    before = set(compilation._READY)
    work()
    return sorted(key[0].__name__ for key in compilation._READY if key not in before)


def test_attacks_share_what_they_have_in_common(ensemble, monkeypatch):
    batch = toy_batch(photos(2), ensemble)
    monkeypatch.setattr(compilation, "_READY", {})  # other tests may have compiled the same

    def compiled(models=ensemble, batch=batch, **options):
        return new_programs(lambda: run_apart(Config(**options), models, batch, KEY))

    assert compiled(steps=2) == ["evaluate", "evaluate", "observe", "observe", "start", "step"]
    assert compiled(steps=3, epsilon=0.1, update="mi-fgsm", across_models="iterative") == []
    assert compiled(steps=2, update="apgd") == ["finish", "start", "step"]
    assert compiled(steps=2, across_domains="iterative") == ["evaluate", "evaluate"]
    assert compiled(steps=2, across_domains="single", regularization="log") == []
    assert "evaluate" not in compiled(steps=2, across_domains="mgda")
    assert compiled(steps=2, loss="face-weighted") == ["weigh", "weigh"]
    assert compiled(steps=2, perturbation="universal") == ["start", "step"]
    alone = dataclasses.replace(batch, conditions=batch.conditions[1:])
    assert "evaluate" not in compiled(ensemble[1:], alone, steps=2)
    assert not new_programs(lambda: losses_apart(ensemble, batch))


@pytest.mark.parametrize("update", ["i-fgsm", "apgd"])
def test_all_strategies_for_one_domain_are_one_piece(ensemble, monkeypatch, update):
    ensemble, programs = ensemble[:1], {}
    batch = toy_batch(photos(2), ensemble)
    batch = dataclasses.replace(batch, conditions=(batch.conditions[0][:, 1:2],))
    expected = quick_run(Config(steps=3, update=update), ensemble, batch, KEY)
    monkeypatch.setattr(compilation, "_READY", programs)
    for strategy in choices()["across_domains"]:
        config = Config(steps=3, across_domains=strategy, update=update)
        assert_alike(run_apart(config, ensemble, batch, KEY), expected)
    names = [key[0].__name__ for key in programs]
    assert sorted({*names} - {"finish"}) == ["evaluate", "observe", "start", "step"]
    assert names.count("evaluate") == 1


def test_outputs_are_measured_by_the_piece_that_observes_them(ensemble, monkeypatch):
    batch = toy_batch(photos(2), ensemble)
    monkeypatch.setattr(compilation, "_READY", {})
    run_apart(Config(steps=1), ensemble, batch, KEY)
    found = []

    def measure():
        with apart():
            for model, conditions in zip(ensemble, batch.conditions, strict=True):
                found.append(metrics.edits(model, batch.images, conditions))

    assert new_programs(measure) == []
    for model, conditions, edits in zip(ensemble, batch.conditions, found, strict=True):
        np.testing.assert_allclose(
            edits, metrics.edits(model, batch.images, conditions), rtol=1e-5, atol=1e-6
        )


def losses_apart(ensemble, batch):
    with apart():
        return evaluate_losses(ensemble, batch.images, batch.images / 2, batch.conditions)


def test_losses_are_those_of_the_whole_program(ensemble):
    batch = toy_batch(photos(3), ensemble)
    expected = evaluate_losses(ensemble, batch.images, batch.images / 2, batch.conditions)
    for found, right in zip(losses_apart(ensemble, batch), expected, strict=True):
        assert found.shape == (3, len(DOMAINS))
        np.testing.assert_allclose(found, right, rtol=1e-5)


def test_domains_that_take_no_part_cost_nothing(ensemble):
    batch, costs = toy_batch(photos(2), ensemble), {}

    def call(piece, static, *arguments):
        if piece is pieces._evaluate:
            lowered = pieces._program(piece, static).lower(*arguments)
            costs[static[0], static[1]] = lowered.cost_analysis()["flops"]
        return pieces.call(piece, static, *arguments)

    for update in ("i-fgsm", "apgd"):
        config = Config(steps=2, update=update, across_domains="iterative")
        numbers = numbers_of(config, jnp.float32, 2)
        attack = pieces.build(config, ensemble, batch, numbers, (2, 2), call)
        attack.step(attack.init(jax.random.split(KEY, 2)))
    assert costs["iterative", True] < 0.7 * costs["iterative", False]


def test_what_cannot_be_attacked_is_said_as_ever(ensemble):
    batch = toy_batch(photos(2), ensemble[:1])
    with apart():
        for function in (run, prepare):
            with pytest.raises(ValueError, match="conditions for 1 of 2 generators"):
                function(Config(steps=2), ensemble, batch, KEY)
    with pytest.raises(ValueError, match="has no encoder"):
        run_apart(Config(steps=1, loss="latent"), ensemble, toy_batch(photos(2), ensemble), KEY)
