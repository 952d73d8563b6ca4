"""The update rules in isolation, on objectives known in closed form."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdmaa_jax.attack.config import Config
from cdmaa_jax.attack.numbers import numbers_of
from cdmaa_jax.attack.updates import (
    _check,
    apgd,
    checkpoints,
    i_fgsm,
    make_update,
    mi_fgsm,
    with_momentum_if,
)

SHAPE = (2, 1, 2, 3)


def directions(*values):
    """Directions [2,1,2,3] whose two images have the given values."""
    return jnp.asarray(np.stack([np.full(SHAPE[1:], v, np.float32) for v in values]))


def climb(value_and_grad, start, lower, upper, steps, step_size):
    """Runs APGD on an objective per image; returns the states before each step and the last."""
    rule = apgd(steps, step_size, lower, upper)
    images, state = start, rule.init(start)
    states = []
    for _ in range(steps):
        value, gradient = value_and_grad(images)
        change, state = rule.update(gradient, state, images, value=value)
        images = optax.projections.projection_box(images + change, lower, upper)
        states.append((images, state))
    return states


def test_i_fgsm_is_the_sign_times_the_step():
    rule = i_fgsm(0.01)
    change, _ = rule.update(directions(1e-9, -3.0), rule.init(directions(0, 0)))
    np.testing.assert_allclose(change, directions(0.01, -0.01))


def test_momentum_is_of_w_over_its_l1_norm_per_image():
    """In both images the second gradient is smaller and opposite; each image uses its own norm."""
    rule = mi_fgsm(0.01)
    state = rule.init(directions(0, 0))
    first = directions(1e-6, 1e3)
    second = -jnp.where(jnp.arange(3) < 1, first, first / 100).astype(jnp.float32)
    _, state = rule.update(first, state)
    change, state = rule.update(second, state)
    trace = next(s for s in state if hasattr(s, "trace")).trace
    unit = lambda w: np.asarray(w) / np.abs(np.asarray(w)).sum((1, 2, 3), keepdims=True)  # noqa: E731
    np.testing.assert_allclose(trace, unit(first) + unit(second), atol=1e-6)
    np.testing.assert_array_equal(change, 0.01 * np.sign(trace).astype(np.float32))


def test_momentum_is_safe_at_zero():
    rule = mi_fgsm(0.01)
    change, state = rule.update(directions(0, 1), rule.init(directions(0, 0)))
    np.testing.assert_allclose(change, directions(0, 0.01))
    change, _ = rule.update(directions(0, 0), state)
    np.testing.assert_allclose(change, directions(0, 0.01))


@pytest.mark.parametrize("holds", [True, False])
def test_whether_there_is_momentum_may_be_a_number(holds):
    """The second direction is too small to reverse the momentum; the third is infinite."""
    rule, alone = with_momentum_if(jnp.asarray(holds), 0.01), (mi_fgsm if holds else i_fgsm)(0.01)
    start = directions(0, 0)
    state, known = rule.init(start), alone.init(start)
    last = directions(1, 1).at[:, 0, 0].set(-0.1)
    for w in (directions(1, -1), last, directions(np.inf, 1), last):
        change, state = rule.update(w, state)
        expected, known = alone.update(w, known)
        np.testing.assert_array_equal(change, expected)


def test_checkpoints_are_croce_and_heins():
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [0]
    assert checkpoints(2) == [0, 1]
    for steps in (3, 10, 80, 1000):
        times = checkpoints(steps)
        assert times == sorted(set(times)) and times[0] == 0 and times[-1] < steps


def box_around(clean, epsilon):
    return clean - epsilon, clean + epsilon


def test_apgd_starts_with_its_step_size_and_stays_in_the_box():
    start = directions(0, 0.02)
    lower, upper = box_around(directions(0, 0), 0.05)
    states = climb(lambda x: (x.sum((1, 2, 3)), jnp.ones_like(x)), start, lower, upper, 10, 0.1)
    np.testing.assert_allclose(states[0][0], directions(0.05, 0.05), atol=1e-7)
    for images, _ in states:
        assert (images >= lower).all() and (images <= upper).all()


def test_apgd_halves_per_image_and_restarts_from_the_best():
    """Image 0 climbs a slope forever; image 1 starts at its peak and can only get worse."""

    def value_and_grad(x):
        slope = x[0].sum()
        peak = -jnp.abs(x[1]).sum()
        gradient = jnp.stack([jnp.ones_like(x[0]), jnp.where(x[1] == 0, 1.0, -jnp.sign(x[1]))])
        return jnp.stack([slope, peak]), gradient

    start = directions(-0.9, 0)
    lower, upper = box_around(directions(0, 0), 1.0)
    states = climb(value_and_grad, start, lower, upper, 20, 0.05)
    sizes = np.stack([state.step_size for _, state in states])
    first = checkpoints(20)[1]
    np.testing.assert_allclose(sizes[:first], 0.05)
    np.testing.assert_allclose(sizes[first], [0.05, 0.025])
    assert (np.diff(sizes, axis=0) <= 0).all()
    np.testing.assert_allclose(states[-1][1].best[1], start[1])
    np.testing.assert_allclose(states[first][1].previous[1], start[1])  # where it restarted
    values = np.stack([state.best_value for _, state in states])
    assert (np.diff(values, axis=0) >= 0).all()


def test_apgd_finds_a_maximum_that_the_fixed_step_jumps_over():
    peak = 0.0123

    def value_and_grad(x):
        return -jnp.abs(x - peak).sum((1, 2, 3)), -jnp.sign(x - peak)

    lower, upper = box_around(directions(0, 0), 0.05)
    states = climb(value_and_grad, directions(-0.04, 0.03), lower, upper, 80, 0.1)
    assert np.abs(states[-1][1].best - peak).max() < 2e-3


@pytest.mark.parametrize("update", ["i-fgsm", "mi-fgsm", "apgd"])
def test_zero_direction_gives_no_change(update):
    lower, upper = box_around(directions(0, 0), 0.05)
    config = Config(update=update)
    rule = make_update(config, numbers_of(config, np.float32, 1), lower, upper)
    zero = directions(0, 0)
    change, _ = rule.update(zero, rule.init(zero), zero, value=jnp.zeros(2))
    np.testing.assert_array_equal(change, zero)


def apgd_of_one(value_and_gradient, x, lower, upper, steps, eta):
    """Croce and Hein 2020, Algorithm 1, for one image, in plain Python; the iterates and steps."""
    previous, best, best_gradient, best_value, last = x, x, None, -np.inf, np.inf
    wins, halved, at_check, times, told = 0, False, None, checkpoints(steps), []
    for k in range(steps):
        value, gradient = value_and_gradient(x)
        wins += value > last
        if value > best_value:
            best, best_gradient, best_value = x, gradient, value
        if k in times:
            if k:
                interval = k - times[times.index(k) - 1]
                restart = wins < 0.75 * interval or (not halved and at_check == best_value)
                if restart:
                    eta, x, gradient, value = eta / 2, best, best_gradient, best_value
                halved = restart
            wins, at_check = 0, best_value
        z = np.clip(x + eta * np.sign(gradient), lower, upper)
        alpha = 0.75 if k else 1.0
        moved = np.clip(x + alpha * (z - x) + (1 - alpha) * (x - previous), lower, upper)
        previous, x, last = x, moved, value
        told.append((x, eta, best_value))
    return told


@pytest.mark.parametrize("steps", [18, 80])
def test_apgd_is_croce_and_heins(steps, x64):
    """On bumpy objectives, which need many halvings; each image behaves as if it were alone."""
    rng = np.random.default_rng(0)
    count, shape = 24, (24, 1, 2, 3)
    waves, phases = rng.uniform(5, 60, shape), rng.uniform(0, 6, shape)
    lower, upper, start = -np.ones(shape), np.ones(shape), rng.uniform(-1, 1, shape)

    def value_and_grad(x):
        y = waves * x + phases
        values = (jnp.sin(y) + 0.3 * x).sum((1, 2, 3))
        return values, waves * jnp.cos(y) + 0.3

    found = climb(value_and_grad, *map(jnp.asarray, (start, lower, upper)), steps, 0.5)
    for i in range(count):

        def alone(x, i=i):
            y = waves[i] * x + phases[i]
            return (np.sin(y) + 0.3 * x).sum(), waves[i] * np.cos(y) + 0.3

        expected = apgd_of_one(alone, start[i], lower[i], upper[i], steps, 0.5)
        for (images, state), (x, eta, best) in zip(found, expected, strict=True):
            np.testing.assert_allclose(images[i], x, atol=1e-9)
            np.testing.assert_allclose(state.step_size[i], eta)
            np.testing.assert_allclose(state.best_value[i], best, rtol=1e-9)


def test_a_halved_step_gets_the_time_to_the_next_checkpoint():
    """Condition 2 needs both the step and the best value unchanged since the last checkpoint."""
    images = jnp.zeros((3, 1, 1, 3))
    state = apgd(20, 0.1, images - 1, images + 1).init(images)._replace(
        time=jnp.int32(9), best_value=jnp.ones(3), value_at_check=jnp.array([1.0, 1.0, 0.5]),
        halved=jnp.array([True, False, False]), successes=jnp.array([4.0, 4.0, 4.0]),
    )  # fmt: skip
    found, restart = _check(state, jnp.int32(4))
    assert restart.tolist() == found.halved.tolist() == [False, True, False]
    np.testing.assert_allclose(found.step_size, [0.1, 0.05, 0.1])
