"""Properties of every attack, whatever its options and batch."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdmaa_jax.attack import Config, apart, build, choices, evaluate_losses, run
from cdmaa_jax.attack.algorithm import attack_batch, box, objective, start_noise
from cdmaa_jax.attack.domains import Evaluation, iterative, single
from cdmaa_jax.attack.numbers import numbers_of, structure_of
from cdmaa_jax.attack.targets import make_target
from cdmaa_jax.attack.updates import i_fgsm
from tests.attack.toys import DOMAINS, photos, quick_run, toy, toy_batch

OPTIONS = {
    name: choices()[name] for name in choices() if name not in ("loss", "start", "perturbation")
}
OPTIONS["across_models"] = tuple(n for n in OPTIONS["across_models"] if n != "weighted")
EVERY = [dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())]
DISTINCT = dict.fromkeys(
    Config(steps=2, start=start, **options).resolve()
    for options in EVERY
    for start in choices()["start"]
)
"""The attacks that all combinations resolve to, each once."""


def assert_within(config, clean, images):
    """In exact arithmetic: float64 represents the difference of two float32 numbers exactly."""
    images, clean = np.asarray(images, np.float64), np.asarray(clean, np.float64)
    assert np.abs(images - clean).max() <= config.epsilon
    assert np.abs(images).max() <= 1


@pytest.mark.parametrize("update", dict.fromkeys(config.update for config in DISTINCT))
def test_every_combination_runs(update):
    """By ``run``, as those that differ in numbers alone share one program."""
    ensemble, images = [toy(0, size=4), toy(1, size=4)], photos(1, size=4)
    batch = toy_batch(images, ensemble)
    for config in (config for config in DISTINCT if config.update == update):
        result = run(config, ensemble, batch, jax.random.key(0))
        assert result.losses.shape == result.weights.shape == (config.steps, 1, 2), config
        assert np.isfinite(result.losses).all() and np.isfinite(result.images).all(), config
        np.testing.assert_allclose(result.weights.sum(-1), 1, rtol=1e-6)
        assert_within(config, images, result.images)
        assert not np.array_equal(result.images, images), config


def test_every_combination_traces():
    """Ten programs; all combinations of one have numbers of the same shapes and types."""
    ensemble = (toy(0, size=4), toy(1, size=4))
    batch, keys = toy_batch(photos(1, size=4), ensemble), jax.random.split(jax.random.key(0), 1)
    programs = {}
    for options in EVERY:
        config = Config(steps=2, **options)
        numbers = jax.eval_shape(lambda config=config: numbers_of(config, jnp.float32, 2))
        programs.setdefault(structure_of(config), []).append(numbers)
    assert len(programs) == 3 + 4 + 3  # many steps, APGD, and one step
    for config, (numbers, *others) in programs.items():
        assert all(other == numbers for other in others)
        trace = functools.partial(attack_batch, config)
        result = jax.eval_shape(trace, ensemble, batch, keys, numbers)
        assert result.images.shape == (1, 4, 4, 3)
        assert result.losses.shape == (config.resolve().steps, 1, 2)


@pytest.mark.parametrize("update", ["i-fgsm", "apgd"])
def test_attack_disrupts_every_model(update):
    ensemble, images = [toy(0), toy(1, 0.5)], photos()
    batch = toy_batch(images, ensemble)
    result = quick_run(Config(steps=20, update=update), ensemble, batch, jax.random.key(0))
    assert (result.losses[-1] > 100 * result.losses[0]).all()
    losses = evaluate_losses(ensemble, images, result.images, batch.conditions)
    assert [loss.shape for loss in losses] == [(3, 3), (3, 3)]
    assert all((loss > 0).all() for loss in losses)


def test_reported_losses_are_those_at_the_start_of_each_step():
    ensemble, images, key = [toy(0), toy(1)], photos(2), jax.random.key(5)
    batch = toy_batch(images, ensemble)
    one, two = (quick_run(Config(steps=n), ensemble, batch, key) for n in (1, 2))
    losses = evaluate_losses(ensemble, images, one.images, batch.conditions)
    expected = np.stack([loss.mean(1) for loss in losses], axis=1)
    np.testing.assert_allclose(two.losses[1], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("domains", "chosen"), [("single", [0, 0, 0, 0]), ("iterative", [0, 1, 2, 0])]
)
def test_domains_taken_alone(domains, chosen):
    ensemble, images, key = [toy(0)], photos(1), jax.random.key(1)
    batch = toy_batch(images, ensemble)
    result = quick_run(Config(steps=4, across_domains=domains), ensemble, batch, key)
    for t, i in enumerate(chosen[1:], start=1):
        before = quick_run(Config(steps=t, across_domains=domains), ensemble, batch, key)
        (losses,) = evaluate_losses(ensemble, images, before.images, batch.conditions)
        np.testing.assert_allclose(result.losses[t], losses[:, i : i + 1], rtol=1e-3)


@pytest.mark.parametrize(
    ("models", "weights"),
    [
        ("single", [[1, 0], [1, 0], [1, 0]]),
        ("iterative", [[1, 0], [0, 1], [1, 0]]),
        ("uniform", [[0.5, 0.5]] * 3),
    ],
)
def test_models_taken_alone(models, weights):
    ensemble = [toy(0), toy(1)]
    batch = toy_batch(photos(1), ensemble)
    result = quick_run(Config(steps=3, across_models=models), ensemble, batch, jax.random.key(0))
    np.testing.assert_array_equal(result.weights[:, 0], weights)


@pytest.mark.parametrize("in_pieces", [False, True])
def test_taking_turns_each_model_meets_each_domain(in_pieces):
    """Three models and three domains, which by t mod 3 alone would meet one another's first."""
    ensemble, key = [toy(0), toy(1), toy(2)], jax.random.key(1)
    images = photos(1)
    batch = toy_batch(images, ensemble)

    def attack(steps):
        config = Config(
            steps=steps,
            across_domains="iterative",
            across_models="iterative",
            regularization="none",
        )
        with apart(in_pieces):
            return (run if in_pieces else quick_run)(config, ensemble, batch, key)

    last = attack(9)
    met = []
    for t in range(1, 9):
        before = attack(t).images
        losses = np.stack(evaluate_losses(ensemble, images, before, batch.conditions))[:, 0]
        for model in range(3):
            domain = np.argmin(np.abs(losses[model] - last.losses[t, 0, model]))
            np.testing.assert_allclose(last.losses[t, 0, model], losses[model, domain], rtol=1e-3)
            if last.weights[t, 0, model] == 1:
                met.append((model, domain))
    assert sorted({(0, 0), *met}) == [(j, k) for j in range(3) for k in range(3)]


@pytest.mark.parametrize("update", ["i-fgsm", "mi-fgsm"])
def test_the_first_model_alone_is_as_if_there_were_no_other(update):
    ensemble, config = [toy(0), toy(1)], Config(steps=3, update=update, across_models="single")
    images, key = photos(2), jax.random.key(0)
    several, alone = (
        quick_run(config, models, toy_batch(images, models), key).images
        for models in (ensemble, ensemble[:1])
    )
    np.testing.assert_array_equal(several, alone)


def test_penalty_leans_on_the_model_that_is_not_disrupted():
    ensemble = [toy(0, gain=1.0), toy(1, gain=1.3)]
    batch, key = toy_batch(photos(2), ensemble), jax.random.key(0)
    plain, penalized = (
        quick_run(Config(steps=10, regularization=r), ensemble, batch, key)
        for r in ("none", "penalty")
    )
    assert (penalized.weights[-1, :, 0] > plain.weights[-1, :, 0]).all()
    assert (plain.losses[-1, :, 0] < plain.losses[-1, :, 1]).all()


# Bounds and starts


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("epsilon", [1e-9, 0.05, 0.1, 0.3, 2.0])
def test_box_is_exact(epsilon, dtype, x64):
    rng = np.random.default_rng(0)
    clean = np.concatenate([rng.uniform(-1, 1, 4998), [-1, 1, 0, 0.05, -0.05, 1e-40]])
    clean = clean.astype(dtype).reshape(1, 1, -1, 3)
    lower, upper = (np.asarray(b, np.longdouble) for b in box(jnp.asarray(clean), epsilon))
    exact = clean.astype(np.longdouble)
    assert (lower <= exact).all() and (exact <= upper).all()
    assert (upper - exact <= epsilon).all() and (exact - lower <= epsilon).all()
    assert (lower >= -1).all() and (upper <= 1).all()


@pytest.mark.parametrize(("start", "radius"), [("jitter", 0.001), ("uniform", 0.05)])
def test_start_noise_depends_on_the_key_alone(start, radius):
    config = Config(start=start)
    keys = jax.random.split(jax.random.key(0), 3)
    half_width = numbers_of(config, np.float32, 1).start
    noise = start_noise(half_width, keys, jnp.zeros((3, 8, 8, 3)))
    assert radius / 2 < np.abs(noise).max() <= radius
    alone = start_noise(half_width, keys[1:2], jnp.zeros((1, 8, 8, 3)))
    np.testing.assert_array_equal(alone[0], noise[1])
    same = start_noise(half_width, jnp.broadcast_to(keys[0], (3,)), jnp.zeros((3, 8, 8, 3)))
    np.testing.assert_array_equal(same[0], same[2])


# Degenerate gradients


@pytest.mark.parametrize(
    ("update", "regularization"),
    [("i-fgsm", "penalty"), ("i-fgsm", "log"), ("mi-fgsm", "l2"), ("apgd", "l2")],
)
def test_zero_gradients_move_nothing(update, regularization):
    dead = toy(apply=lambda params, x, c: jnp.zeros_like(x), size=4)
    batch = toy_batch(photos(1, size=4), [dead, dead])
    config = Config(steps=3, update=update, regularization=regularization, across_domains="mgda")
    result = quick_run(config, [dead, dead], batch, jax.random.key(0))
    assert np.isfinite(result.images).all()
    np.testing.assert_array_equal(result.losses, np.zeros_like(result.losses))
    np.testing.assert_allclose(result.weights, 0.5 * np.ones_like(result.weights))


def test_tiny_gradients_still_move():
    faint = toy(apply=lambda params, x, c: 1e-9 * x, size=4)
    batch = toy_batch(photos(1, size=4), [faint, faint])
    result = quick_run(Config(steps=5), [faint, faint], batch, jax.random.key(0))
    assert np.abs(result.images - batch.images).max() > 0.045


# Each image is independent of its neighbours; float64, so that rounding cannot flip a sign


@pytest.mark.parametrize("update", ["i-fgsm", "mi-fgsm", "apgd"])
def test_an_image_alone_in_a_batch_and_on_two_devices(update, x64):
    ensemble = [toy(0, dtype=np.float64), toy(1, 0.5, dtype=np.float64), toy(2, dtype=np.float64)]
    images, key = photos(4, dtype=np.float64), jax.random.key(9)
    config = Config(steps=12, update=update)
    together = run(config, ensemble, toy_batch(images, ensemble), key)
    shared = run(config, ensemble, toy_batch(images, ensemble), key, devices=jax.devices()[:2])
    turned = run(config, ensemble, toy_batch(images[::-1], ensemble), key)
    alone = quick_run(config, ensemble, toy_batch(images[1:2], ensemble), key)
    for other, theirs, ours in (
        (shared, slice(None), slice(None)),
        (turned, slice(None, None, -1), slice(None)),
        (alone, slice(None), slice(1, 2)),
    ):
        assert_equal_runs(other, theirs, together, ours)


def assert_equal_runs(a, some, b, others):
    np.testing.assert_allclose(a.images[some], b.images[others], rtol=0, atol=1e-12)
    np.testing.assert_allclose(a.losses[:, some], b.losses[:, others], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(a.weights[:, some], b.weights[:, others], rtol=0, atol=1e-7)


@pytest.mark.parametrize("models", ["uniform", "iterative"])
def test_devices_hold_their_own_images(models):
    ensemble, key, devices = [toy(0)], jax.random.key(0), jax.devices()[:2]
    config = Config(steps=1, across_models=models)
    result = run(config, ensemble, toy_batch(photos(4), ensemble), key, devices=devices)
    assert len(result.images.sharding.device_set) == 2
    with pytest.raises(ValueError, match="batch of 3 cannot be shared by 2 devices"):
        run(config, ensemble, toy_batch(photos(3), ensemble), key, devices=devices)


# Views


def noisy_view(images, key):
    return images + 0.1 * jax.random.normal(key, images.shape, images.dtype)


def test_a_random_view_draws_anew_in_each_step_and_alike_for_each_image():
    seen = toy(0, view=noisy_view)
    images = np.repeat(photos(1), 3, axis=0)
    batch, keys = toy_batch(images, [seen]), jnp.broadcast_to(jax.random.key(0), (3,))
    result = quick_run(Config(steps=3), [seen], batch, jax.random.key(0))
    np.testing.assert_allclose(result.images[0], result.images[2])
    assert (result.losses > 1e-4).all()  # the reference used another draw
    attack = build(Config(), [seen], batch)
    _, first = jax.jit(attack.step)(attack.init(keys))
    frozen = attack.init(keys)._replace(time=jnp.ones((), jnp.int32))
    _, second = jax.jit(attack.step)(frozen)
    assert not np.allclose(first.losses, second.losses)


def test_a_generator_of_the_wrong_shape_is_named():
    small = toy(0, name="shrinker", apply=lambda params, x, c: x[:, ::2])
    with pytest.raises(ValueError, match=r"shrinker.*\[1, 8, 8, 3\].*\[1, 4, 8, 3\]"):
        run(Config(steps=1), small, toy_batch(photos(1), [small]), jax.random.key(0))


def test_the_batch_must_fit_the_ensemble():
    batch = toy_batch(photos(1), [toy(0)])
    with pytest.raises(ValueError, match="conditions for 1 of 2 generators"):
        run(Config(steps=1), [toy(0), toy(1)], batch, jax.random.key(0))
    with pytest.raises(ValueError, match="ensemble is empty"):
        run(Config(steps=1), [], batch, jax.random.key(0))


@pytest.mark.parametrize(("dtype", "message"), [
    ("float16", "must be float32 or float64, not float16, in which gradients vanish"),
    ("bfloat16", "must be float32 or float64, not bfloat16, in which gradients vanish"),
    ("uint8", r"must be .* in \[-1, 1\], not uint8; scale photos as pixels / 127\.5 - 1"),
    ("int32", r"must be .* in \[-1, 1\], not int32; scale photos as pixels / 127\.5 - 1"),
])  # fmt: skip
def test_images_of_other_types_are_refused(dtype, message):
    images, conditions = jnp.asarray(photos(1)), [toy(0).conditions(None)]
    other = images.astype(dtype)
    batch = dataclasses.replace(toy_batch(photos(1), [toy(0)]), images=other)
    with pytest.raises(ValueError, match=message):
        run(Config(steps=1), toy(0), batch, jax.random.key(0))
    for pair in ((images, other), (other, images)):
        with pytest.raises(ValueError, match=message):
            evaluate_losses(toy(0), *pair, conditions)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (8, 8, 3), (1, 8, 8, 4)], ids=str)
def test_what_is_no_batch_of_images_is_refused(shape):
    images, conditions = jnp.zeros(shape), [toy(0).conditions(None)]
    batch = dataclasses.replace(toy_batch(photos(1), [toy(0)]), images=images)
    with pytest.raises(ValueError, match=r"of shape \[B,H,W,3\], at least one, not \("):
        run(Config(steps=1), toy(0), batch, jax.random.key(0))
    with pytest.raises(ValueError, match=r"of shape \[B,H,W,3\], at least one, not \("):
        evaluate_losses(toy(0), images, images, conditions)


def test_an_attack_in_steps_checks_what_an_attack_checks():
    images, key = photos(2), jax.random.key(0)
    batch = toy_batch(images, [toy(0)])

    def refused(message, key=key, **changes):
        with pytest.raises(ValueError, match=message):
            build(Config(steps=1), toy(0), dataclasses.replace(batch, **changes)).init(key)

    refused("must be float32 or float64, not float16", images=images.astype(np.float16))
    refused("scale photos as", images=np.zeros(images.shape, np.uint8))
    refused("must be an array, not a list", images=images.tolist())
    refused("must be a typed one", key=0)
    refused("must be a typed one", key=[key, key])
    refused("at least one, not", images=images[:, :0])
    refused("mask of a batch must be an array of booleans", mask=jnp.ones(3, bool))
    refused("mask of a batch must be an array of booleans", mask=jnp.ones(2))
    refused("mask of a batch must be an array of booleans", mask=[True, True])
    refused("mse takes no weights of pixels", pixel_weights=jnp.ones((2, 8, 8)))
    refused(r"for each of the 2 images, not keys of shape \(3,\)", key=jax.random.split(key, 3))
    with pytest.raises(ValueError, match="a Config, not dict"):
        run({}, toy(0), batch, key)


def test_evaluations_are_of_every_model():
    ensemble = [toy(0), toy(1)]
    batch, config = toy_batch(photos(2), ensemble), Config(steps=1)
    whole = build(config, ensemble, batch)
    state = whole.init(jax.random.key(0))
    shape = state.images.shape
    found = [
        Evaluation(jnp.ones(2), jnp.full(shape, sign), jnp.ones((2, 3))) for sign in (1.0, 2.0)
    ]
    bare = dataclasses.replace(batch, conditions=())
    apart_from = build(config, (), bare, numbers_of(config, np.float32, 2))
    expected, _ = whole.step(state, found)
    stepped, _ = apart_from.step(state, found)
    np.testing.assert_array_equal(stepped.images, expected.images)
    with pytest.raises(ValueError, match="there are evaluations of 1 of 2 models"):
        whole.step(state, found[:1])
    with pytest.raises(ValueError, match="there are evaluations of 2 of 0 models"):
        build(config, (), bare).step(state, found)


@pytest.mark.parametrize("perturbation", ["image", "universal"])
def test_an_update_rule_of_ones_own(perturbation):
    ensemble, key = [toy(0), toy(1)], jax.random.key(0)
    batch = toy_batch(photos(2), ensemble)

    def images_after(steps, options, **rule):
        attack = build(Config(perturbation=perturbation, **options), ensemble, batch, **rule)
        state = attack.init(key)
        for _ in range(steps):
            state, _ = attack.step(state)
        return attack.finish(state).images

    expected = images_after(3, {"step_size": 0.02})
    np.testing.assert_allclose(images_after(3, {}, rule=i_fgsm(0.02)), expected, atol=1e-6)
    far = images_after(3, {}, rule=optax.scale_by_sign())  # a step far beyond the bounds
    assert np.abs(far - batch.images).max() <= 0.05 and np.abs(far).max() <= 1


@pytest.mark.parametrize(("conditions", "message"), [
    (None, "must be a list of arrays, not None"),
    ([], "conditions for 0 of 1 generators"),
    (np.zeros((1, 3, 3)), r"list of arrays, that of toy0 \[B,K,n\] for 2 images, .* not \[3, 3\]"),
    ([np.zeros((3, 3, 3))], r"that of toy0 .* not \[3, 3, 3\]"),
    ([np.zeros((1, 0, 3))], r"that of toy0 .* not \[1, 0, 3\]"),
])  # fmt: skip
def test_conditions_that_do_not_fit_are_refused(conditions, message):
    images = photos(2)
    batch = dataclasses.replace(toy_batch(images, [toy(0)]), conditions=conditions)
    with pytest.raises(ValueError, match=message):
        run(Config(steps=1), toy(0), batch, jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        evaluate_losses(toy(0), images, images, conditions)


def test_conditions_may_be_stacked_or_listed():
    images, ensemble = photos(2), [toy(0), toy(1)]
    rows = toy_batch(images, ensemble).conditions[0]
    expected = evaluate_losses(ensemble, images, images / 2, [rows, rows])
    for conditions in (jnp.stack([rows, rows]), {0: rows, 1: rows}.values(), [[rows[0]]] * 2):
        found = evaluate_losses(ensemble, images, images / 2, conditions)
        np.testing.assert_array_equal(np.stack(found), np.stack(expected))


def test_a_seed_may_be_traced():
    images, model = photos(1), toy(0, view=noisy_view)
    losses = functools.partial(evaluate_losses, model, images, images / 2, [model.conditions(None)])
    for seed in (3, np.int64(3), jnp.int32(3)):
        traced = jax.jit(lambda seed: losses(seed=seed))(jnp.int32(3))
        np.testing.assert_allclose(losses(seed=seed), traced, rtol=1e-5)
    assert not np.allclose(losses(seed=4), losses(seed=3), rtol=1e-3)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "a", None])
def test_seeds_of_losses_that_would_be_cut_are_refused(seed):
    images = photos(1)
    with pytest.raises(ValueError, match="seed must be a whole number from 0 to"):
        evaluate_losses(toy(0), images, images, [toy(0).conditions(None)], seed=seed)


def test_wide_images_are_attacked_within_epsilon_of_the_narrow_ones():
    """Without ``jax_enable_x64``, JAX computes in float32 what NumPy has in float64."""
    images = np.random.default_rng(0).uniform(-0.9, 0.9, (4, 8, 8, 3))
    batch = dataclasses.replace(toy_batch(images, [toy(0)]), images=images)
    found = run(Config(steps=8, update="pgd"), toy(0), batch, jax.random.key(0)).images
    moved = np.asarray(found).astype(float) - images.astype(np.float32).astype(float)
    assert 0.0499 < np.abs(moved).max() <= 0.05


def test_losses_of_clean_images_are_zero():
    ensemble, images = [toy(0, view=noisy_view), toy(1)], photos(2)
    conditions = [g.conditions(None) for g in ensemble]
    for loss in evaluate_losses(ensemble, images, images, conditions):
        np.testing.assert_array_equal(loss, np.zeros((2, len(DOMAINS))))


def test_the_objective_is_the_mean_over_models_of_capped_losses():
    some = [np.array([[0.2, 0.01, 0.0]]), np.array([[0.03]])]  # models of differing domain counts
    models = [Evaluation(None, None, jnp.asarray(losses)) for losses in some]
    np.testing.assert_allclose(objective(0.05, models), [(0.06 / 3 + 0.03) / 2])


def test_iterative_domains_tell_the_losses_of_all():
    clean = jnp.asarray(photos(2))
    keys = jax.random.split(jax.random.key(0), 2)
    (conditions,) = toy_batch(clean, [toy(0)]).conditions
    target = make_target("mse", toy(0), clean, jnp.repeat(conditions, 2, 0), keys)
    found = iterative("mse", target, clean / 2, keys, jnp.int32(4))
    assert found.domain_losses.shape == (2, 3)
    np.testing.assert_allclose(found.loss, found.domain_losses[:, 1], rtol=1e-5)


def test_with_the_first_domain_alone_no_other_counts_in_the_objective():
    images = jnp.asarray(photos(2))
    keys = jax.random.split(jax.random.key(0), 2)
    (conditions,) = toy_batch(images, [toy(0)]).conditions
    conditions = jnp.broadcast_to(conditions, (2, *conditions.shape[1:]))
    target = make_target("mse", toy(0), 0.5 * images, conditions, keys)
    alone, each = (f("mse", target, images, keys, jnp.int32(1)) for f in (single, iterative))
    np.testing.assert_allclose(alone.domain_losses, each.domain_losses[:, :1], rtol=1e-5)
    threshold = float(each.domain_losses.mean())
    first = jnp.minimum(each.domain_losses[:, 0], threshold)
    np.testing.assert_allclose(objective(threshold, [alone]), first, rtol=1e-5)
    assert not np.allclose(objective(threshold, [each]), first, rtol=1e-2)


@pytest.mark.parametrize("options", [
    {"across_models": "single"},
    {"across_models": "weighted", "model_weights": (1.0, 0.0)},
])  # fmt: skip
def test_a_model_that_is_left_out_spoils_nothing(options):
    """Not even where its gradient is not finite, like that of a square root at zero."""

    def root(params, x, c):
        return jnp.sqrt(jnp.abs(0 * x))

    ensemble, images = [toy(0, size=4), toy(1, size=4, apply=root)], photos(2, size=4)
    config = Config(steps=2, **options)
    both = quick_run(config, ensemble, toy_batch(images, ensemble), jax.random.key(0))
    alone = quick_run(
        Config(steps=2, across_models="single"),
        ensemble[:1],
        toy_batch(images, ensemble[:1]),
        jax.random.key(0),
    )
    np.testing.assert_allclose(both.images, alone.images, atol=1e-6)


def test_a_zeta_below_the_least_float_divides_nothing_by_zero():
    def constant(params, x, c):
        return 0 * x

    ensemble, images = [toy(0, size=4), toy(1, size=4, apply=constant)], photos(2, size=4)
    config = Config(steps=2, zeta=1e-46, regularization="log", across_models="uniform")
    result = quick_run(config, ensemble, toy_batch(images, ensemble), jax.random.key(0))
    assert np.isfinite(result.images).all() and not np.array_equal(result.images, images)
