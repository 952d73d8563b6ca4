"""The numeric options of an attack: their types, and that programs do not depend on them."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmaa_jax.attack import Config, algorithm, run, running
from cdmaa_jax.attack.models import MODEL_STRATEGIES
from cdmaa_jax.attack.numbers import inner_radius, numbers_of, structure_of
from cdmaa_jax.attack.regularization import REGULARIZATIONS
from tests.attack.toys import photos, quick_run, toy, toy_batch

OTHERS = (
    {"epsilon": 0.06, "step_size": 0.02, "zeta": 1e-3, "threshold": 0.1},
    {"start": "uniform"},
    {"update": "pgd"},
    {"regularization": "l2"},
    {"across_models": "iterative"},
    {"across_models": "weighted", "model_weights": (1, 2)},
    {"update": "mi-fgsm"},
)


@given(st.floats(1e-30, 2), st.sampled_from([np.float32, np.float64]))
def test_the_radius_is_rounded_inwards(epsilon, dtype):
    radius = inner_radius(epsilon, dtype)
    assert radius.dtype == dtype
    assert float(radius) <= epsilon < float(np.nextafter(radius, np.asarray(3, dtype)))


def test_numbers_are_those_of_the_resolved_configuration():
    numbers = numbers_of(Config(update="fgsm", epsilon=0.25, start="uniform"), np.float32, 2)
    assert numbers.step_size == 0.25 and numbers.start == 0.25
    assert numbers_of(Config(update="apgd", epsilon=0.25), np.float64, 2).step_size == 0.5
    assert {v.dtype for v in numbers[:-4]} == {np.dtype(np.float32)}


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=5).filter(lambda w: sum(w) > 1e-3))
def test_weights_are_shares(weights):
    config = Config(across_models="weighted", model_weights=weights)
    shares = numbers_of(config, np.float64, len(weights)).model_weights
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(shares * sum(weights), weights, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("options", OTHERS)
def test_structure_leaves_numbers_out(options):
    assert structure_of(Config(**options)) == structure_of(Config())
    assert structure_of(Config(steps=3)) != structure_of(Config())


def test_one_domain_alone_is_one_structure_unless_an_objective_is_of_all():
    first, each = Config(across_domains="single"), Config(across_domains="iterative")
    assert structure_of(first) == structure_of(each) != structure_of(Config())
    first, each = (dataclasses.replace(c, update="apgd") for c in (first, each))
    assert structure_of(first) != structure_of(each)


def test_numbers_are_arguments_of_one_program():
    """Each run gives the same result as with its numbers as constants."""
    ensemble, key = [toy(0, size=4), toy(1, size=4)], jax.random.key(0)
    batch = toy_batch(photos(1, size=4), ensemble)
    config = Config(steps=4, update="apgd")
    other = dataclasses.replace(config, **OTHERS[0], start="uniform")
    run(config, ensemble, batch, key)
    before = running.program_for("cpu", None)._cache_size()
    result = run(other, ensemble, batch, key)
    assert running.program_for("cpu", None)._cache_size() == before
    expected = quick_run(other, ensemble, batch, key)
    np.testing.assert_allclose(result.images, expected.images, atol=1e-6)
    np.testing.assert_allclose(result.losses, expected.losses, rtol=1e-4)


@pytest.mark.parametrize("regularization", ["penalty", "none", "l2", "log"])
def test_the_choice_of_a_regularization_is_one(regularization):
    gradient, loss = jnp.asarray(photos(2, size=4)), jnp.array([0.02, 3.0])
    numbers = numbers_of(Config(regularization=regularization), np.float32, 2)
    expected = REGULARIZATIONS[regularization](gradient, loss, np.float32(1e-8))
    np.testing.assert_array_equal(algorithm.regularized(numbers, gradient, loss), expected)


@pytest.mark.parametrize("strategy", ["mgda", "single", "iterative", "uniform", "weighted"])
def test_the_choice_of_weights_is_one(strategy):
    given = (1, 3) if strategy == "weighted" else None
    config = Config(across_models=strategy, model_weights=given)
    numbers = numbers_of(config, np.float32, 2)
    gradients, time = jnp.asarray(photos(6, size=4)).reshape(3, 2, 4, 4, 3), jnp.asarray(5)
    chosen = algorithm.weights_of(numbers, gradients, time)
    expected = MODEL_STRATEGIES[strategy](gradients, time, np.float32([0.25, 0.75]))
    np.testing.assert_array_equal(chosen, expected)


def test_choices_are_arguments_of_one_program():
    """Each run gives the same result as with its choice compiled in."""
    ensemble, key = [toy(0, size=4), toy(1, size=4)], jax.random.key(0)
    batch = toy_batch(photos(1, size=4), ensemble)
    known = [Config(steps=4), Config(steps=4, across_domains="iterative")]
    others = [
        {"across_models": "iterative"},
        {"regularization": "log"},
        {"update": "mi-fgsm"},
        {"across_domains": "single"},
    ]
    found = [run(config, ensemble, batch, key).images for config in known]
    before = running.program_for("cpu", None)._cache_size()
    for options in others:
        config = Config(steps=4, **options)
        found.append(run(config, ensemble, batch, key).images)
        expected = quick_run(config, ensemble, batch, key)
        np.testing.assert_allclose(found[-1], expected.images, atol=1e-6)
    assert running.program_for("cpu", None)._cache_size() == before
    for a, b in itertools.combinations(found, 2):
        assert not np.array_equal(a, b)


def test_model_weights_are_arguments_of_one_program():
    ensemble, key = [toy(0, size=4), toy(1, size=4)], jax.random.key(0)
    batch = toy_batch(photos(1, size=4), ensemble)
    config = Config(steps=4, across_models="weighted", model_weights=(1, 1), regularization="none")
    run(Config(steps=4), ensemble, batch, key)
    before = running.program_for("cpu", None)._cache_size()
    equal, first, mixed = (
        run(dataclasses.replace(config, model_weights=w), ensemble, batch, key)
        for w in ((1, 1), (2, 0), (1, 3))
    )
    assert running.program_for("cpu", None)._cache_size() == before
    np.testing.assert_array_equal(mixed.weights, np.broadcast_to([0.25, 0.75], (4, 1, 2)))
    for result, models in ((equal, "uniform"), (first, "single")):
        alike = Config(steps=4, regularization="none", across_models=models)
        expected = quick_run(alike, ensemble, batch, key)
        np.testing.assert_allclose(result.images, expected.images, atol=1e-6)


def test_weights_are_one_for_each_generator():
    config = Config(across_models="weighted", model_weights=(1, 1, 1))
    with pytest.raises(
        ValueError, match="model_weights must have one number for each generator: 2, not 3"
    ):
        run(config, [toy(0), toy(1)], toy_batch(photos(1), [toy(0)] * 2), jax.random.key(0))
