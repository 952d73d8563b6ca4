"""The data, losses and options of training; in a slow test, a few steps for every generator."""

import dataclasses
import json
import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdmaa_jax import load_generator
from cdmaa_jax.generators import attgan, layers, registry, stargan, stgan, ugatit
from cdmaa_jax.generators.checkpoint import CheckpointError, read_metadata
from checkpoints import train
from checkpoints.discriminators import Normalized
from checkpoints.portraits import Portraits

SMALL = {
    "stargan": stargan.Config(64, ("Male", "Bangs"), width=4, blocks=1),
    "attgan": attgan.Config(64, ("Male", "Bangs"), 4, 4, 2, 2, 1, 1),
    "stgan": stgan.Config(64, ("Male", "Bangs"), 4, 2, 1),
    "ugatit": ugatit.Config(64, width=4, blocks=1, domain="Comic"),
}


def made_up_portraits(count=6):
    rng = np.random.default_rng(0)
    pixels = lambda channels: rng.integers(0, 256, (count, 64, 64, channels), np.uint8)  # noqa: E731
    return Portraits(
        files=tuple(f"{i}.jpg" for i in range(count)),
        images=pixels(3),
        labels={"Male": np.array([1, 0, 1, 0, -1, 1], np.int8)},
        overlays={"Bangs": pixels(4)},
        comic=pixels(3),
        test=np.array([False] * (count - 1) + [True]),
    )


def test_portraits_without_a_label_and_for_testing_are_left_out():
    data = train.training_data(made_up_portraits(), ("Male", "Bangs"))
    assert data.images.shape[0] == 4
    assert np.asarray(data.labels)[:, 0].tolist() == [1, 0, 1, 0]
    assert np.asarray(data.drawn).tolist() == [0, 1]


def test_overlays_are_laid_over_by_their_opacity():
    x = jnp.full((2, 1, 3, 3), -0.5)
    overlay = np.zeros((1, 2, 1, 3, 4), np.uint8)
    overlay[..., :3], overlay[..., 3] = 255, [0, 51, 255]
    drawn = train.draw(x, jnp.asarray(overlay), jnp.array([[1.0], [0.0]]))
    np.testing.assert_allclose(drawn[0, 0, :, 0], [-0.5, -0.2, 1.0], atol=1e-6)
    np.testing.assert_array_equal(drawn[1], x[1])


def test_a_later_overlay_lies_over_an_earlier_one():
    overlays = np.full((2, 1, 1, 1, 4), 255, np.uint8)
    overlays[1, ..., :3] = 0
    drawn = train.draw(jnp.zeros((1, 1, 1, 3)), jnp.asarray(overlays), jnp.ones((1, 2)))
    np.testing.assert_array_equal(drawn, -np.ones((1, 1, 1, 3)))


SOURCE = np.array([[1.0, 0.0, 0.0, 1.0]])
TARGET = np.array([[1.0, 1.0, 0.0, 0.0]])


@pytest.mark.parametrize("arch, want", [
    ("stargan", [[1, 1, 0, 0]]), ("attgan", [[1, 1, -1, -1]]), ("stgan", [[0, 1, 0, -1]]),
])  # fmt: skip
def test_conditions(arch, want):
    source, target = jnp.asarray(SOURCE), jnp.asarray(TARGET)
    np.testing.assert_array_equal(train.condition(arch, source, target), want)
    drawn = np.asarray(train.condition(arch, source, target, jax.random.key(0)))
    np.testing.assert_array_equal(np.sign(drawn), want)
    assert (np.abs(drawn) <= np.abs(want)).all()
    assert (np.abs(drawn).max() < 1) == (arch != "stargan")


@pytest.mark.parametrize("patches", [True, False])
def test_the_penalty_of_a_linear_critic_is_that_of_its_norm(patches):
    slopes = np.random.default_rng(0).normal(0, 0.1, (4, 4, 3, 9)).astype(np.float32)
    real, fake = jax.random.normal(jax.random.key(0), (2, 5, 4, 4, 3))

    def realness(x):  # nine patches, each linear in the image
        return jnp.einsum("bhwc,hwcp->bp", x, slopes).reshape(-1, 3, 3, 1)

    whole = slopes.sum(-1) if patches else slopes.mean(-1)
    want = (np.linalg.norm(whole) - 1) ** 2
    found = train.gradient_penalty(realness, real, fake, jax.random.key(1), patches)
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_the_penalty_is_taken_between_real_and_fake():
    real, fake = jnp.full((64, 1, 1, 1), 2.0), jnp.full((64, 1, 1, 1), 4.0)
    realness = lambda x: x**2 / 2  # its slope is its position  # noqa: E731
    found = train.gradient_penalty(realness, real, fake, jax.random.key(1), True)
    places = 2 + 2 * np.asarray(jax.random.uniform(jax.random.key(1), (64, 1, 1, 1)))
    np.testing.assert_allclose(found, ((places - 1) ** 2).mean(), rtol=1e-5)


@pytest.mark.parametrize("layer", [
    lambda rngs: layers.Conv(3, 5, 4, 2, 1, bias=True, rngs=rngs),
    lambda rngs: layers.Linear(6, 4, rngs=rngs),
])  # fmt: skip
def test_spectral_normalization_divides_by_the_largest_singular_value(layer):
    rngs = nnx.Rngs(0)
    plain = layer(rngs)
    kernel = np.asarray(plain.kernel[...])
    shape = (2, 8, 8, 3) if kernel.ndim == 4 else (2, 6)
    x = jax.random.normal(jax.random.key(0), shape)
    normalized = Normalized(plain, rngs)
    normalized.use_running_average = False
    with jax.numpy_rank_promotion("allow"):
        for _ in range(300):
            y = normalized(x)
    sigma = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
    bias = np.asarray(plain.bias[...]) if kernel.ndim == 4 else 0
    want = (np.asarray(plain(x)) - bias) / sigma + bias
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    u = np.asarray(normalized.u[...])
    normalized.use_running_average = True
    with jax.numpy_rank_promotion("allow"):
        normalized(2 * x)
    np.testing.assert_array_equal(normalized.u[...], u)


# A critic with one weight per output: realness w[0] and logits w[1] times the mean of the image.
LIGHT, DARK = jnp.full((2, 2, 2, 3), 0.5), jnp.full((2, 2, 2, 3), -0.5)
ONES = jnp.ones((2, 1))


def judge(weights, x):
    mean = x.mean((1, 2, 3))[:, None]
    return weights[0] * mean[:, :, None, None], weights[1] * mean


def recipe_of(**fields):
    return train.Recipe(config=None, steps=0, **fields)


def test_a_critic_learns_that_the_real_is_real_and_what_it_shows():
    recipe = recipe_of(penalty=0.0)

    def loss(weights):
        bound = lambda x: judge(weights, x)  # noqa: E731
        return train.critic_loss(bound, recipe, LIGHT, ONES, DARK, jax.random.key(0))

    grads, (gap, _) = jax.grad(loss, has_aux=True)(jnp.array([2.0, 0.0]))
    assert float(gap) == 2.0
    np.testing.assert_allclose(grads, [-1.0, -0.25], rtol=1e-5)  # of the gap, and of the logits


def test_a_critic_is_held_to_its_slope():
    def loss(penalty):
        bound = lambda x: judge(jnp.array([0.0, 0.0]), x)  # noqa: E731
        recipe = recipe_of(penalty=penalty)
        return train.critic_loss(bound, recipe, LIGHT, ONES, DARK, jax.random.key(0))[0]

    np.testing.assert_allclose(loss(10.0) - loss(0.0), 10.0, rtol=1e-4)


def test_a_generator_learns_to_look_real_to_show_the_target_and_to_give_the_image_back():
    def edit(stats, x, c):
        return x + c[:, :, None, None], stats + 1

    def loss(forth, **weights):
        recipe = recipe_of(**{"classify": 0.0, "reconstruct": 0.0, **weights})
        critic = jnp.array([1.0, 0.0]) if not weights else jnp.array([0.0, 1.0])
        bound = lambda x: judge(critic, x)  # noqa: E731
        back = jnp.zeros((2, 1))
        return train.generator_loss(edit, bound, recipe, 0, DARK, forth * ONES, back, ONES)

    slope = lambda **weights: float(jax.grad(lambda f: loss(f, **weights)[0])(0.25))  # noqa: E731
    assert slope() == pytest.approx(-1)  # a lighter image is more real
    assert slope(reconstruct=10.0) == pytest.approx(10)
    at = DARK.mean() + 0.25
    assert slope(classify=2.0) == pytest.approx(2 * float(jax.nn.sigmoid(at) - 1), rel=1e-5)
    _, (stats, (_, cycle)) = loss(0.25)
    assert stats == 2 and float(cycle) == pytest.approx(0.25)


def test_critics_of_translation_learn_one_for_real_and_zero_for_fake():
    def judged(weights, stats, x):
        return judge(weights, x), stats + 1

    def loss(weights):
        pairs = ((LIGHT, DARK), (DARK, LIGHT))
        return train.critics_loss(judged, weights, (0, 0), pairs)

    (total, stats), grads = jax.value_and_grad(loss, has_aux=True)(jnp.zeros((2, 2)))
    assert float(total) == 4 and stats == [1, 1]  # two scores of each critic miss 1 for the real
    np.testing.assert_allclose(grads, [[-1, -1], [1, 1]])


def test_translators_learn_to_fool_to_come_back_to_keep_and_to_attend():
    def judged(weights, stats, x):
        return judge(weights, x), stats

    def loss(shift, reconstruct=0.0, critic=0.0, cam=0.0):
        to_b = lambda x: (x + shift, jnp.full((2, 2), cam) * x.mean())  # noqa: E731
        to_a = lambda x: (x, jnp.full((2, 2), cam) * -x.mean())  # noqa: E731
        critics = (jnp.full((2, 2), critic), (0, 0))
        recipe = recipe_of(reconstruct=reconstruct)
        return train.translators_loss((to_b, to_a), judged, recipe, critics, LIGHT, DARK)

    total, ((fake_a, fake_b), figures) = loss(0.25, reconstruct=10.0)
    np.testing.assert_array_equal(fake_b, LIGHT + 0.25)
    np.testing.assert_array_equal(fake_a, DARK)
    assert float(figures["cycle"]) == pytest.approx(0.5)
    assert float(figures["same"]) == pytest.approx(0.25)
    parts = figures["fooled"] + 10 * (figures["cycle"] + figures["same"]) + 1000 * figures["cam"]
    assert float(total) == pytest.approx(float(parts))
    slope = jax.grad(lambda shift: loss(shift, critic=1.0)[0])(0.0)
    assert float(slope) == pytest.approx(-2)  # two scores of b, each (0.5 + shift - 1)^2
    # a pays attention in what it translates (a is light, and b dark: positive logits) ...
    assert float(loss(0.0, cam=2.0)[1][1]["cam"]) < float(loss(0.0)[1][1]["cam"])
    assert float(loss(0.0, cam=-2.0)[1][1]["cam"]) > float(loss(0.0)[1][1]["cam"])


class Forbidden(Exception):
    """Raised when training begins."""


@pytest.fixture
def forbid_training(monkeypatch):
    def refuse(*_):
        raise Forbidden

    monkeypatch.setattr(train, "training_data", refuse)


def save_small(path, steps=20, end=20):
    config = SMALL["stargan"]
    params = registry.init_params("stargan", config, seed=steps)
    recipe = dataclasses.replace(train.RECIPES["stargan"], config=config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(train.RECIPES, "stargan", recipe)
        train.save(path, "stargan", params, [{"step": steps}], 3, 4, end)
    return path


def test_a_generator_is_saved_with_its_history(tmp_path):
    for name in ("v1.5", "v1.6"):
        save_small(tmp_path / name, steps=int(name[-1]))
    record = read_metadata(tmp_path / "v1.5")
    assert record.dtype == "float16"
    assert (record.extra["seed"], record.extra["steps"], record.extra["portraits"]) == (3, 5, 4)
    for name in ("v1.5", "v1.6"):
        history = json.loads((tmp_path / f"{name}.history.json").read_text())
        assert history == [{"step": int(name[-1])}]


def test_a_generator_that_is_there_is_replaced_only_if_asked(tmp_path, forbid_training):
    out = save_small(tmp_path / "g")
    with pytest.raises(train.FileError) as caught:
        train.train("stargan", made_up_portraits(), out, seed=0)
    assert str(caught.value) == (
        f"{out}: a generator is there already; choose another --out, or replace it with --overwrite"
    )
    with pytest.raises(
        train.FileError, match="g2: a generator is there already, stopped after 20 of"
    ):
        train.train("stargan", made_up_portraits(), save_small(tmp_path / "g2", end=40), seed=0)
    with pytest.raises(Forbidden):
        train.train("stargan", made_up_portraits(), out, seed=0, overwrite=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match="photos: exists and is not a generator"):
            train.train("stargan", made_up_portraits(), tmp_path / "photos", 0, overwrite=overwrite)
    with pytest.raises(Forbidden):
        train.train("stargan", made_up_portraits(), tmp_path / "new" / "g", seed=0)


@pytest.mark.parametrize("overwrite, saved", [(False, [40, 80, 100]), (True, [100])])
def test_a_finished_generator_is_there_until_the_new_one_is(
    tmp_path, monkeypatch, overwrite, saved
):
    out, steps = tmp_path / "g", []
    if overwrite:
        save_small(out)
    advance = lambda state, data, first: (state, {"gap": 0.0})  # noqa: E731
    state = train.State(None, None, None, None)
    monkeypatch.setattr(train, "compiled", lambda *_: (state, advance))
    monkeypatch.setattr(train, "averaged_params", lambda *_: {})
    monkeypatch.setattr(train, "save", lambda *given: steps.append(given[3][-1]["step"]))
    portraits = dataclasses.replace(
        made_up_portraits(),
        labels={name: np.arange(6) % 2 for name in ("Male", "Senior", "Dark_Hair")},
    )
    train.train("stargan", portraits, out, 0, steps=81, save_every=40, overwrite=overwrite)
    assert steps == saved


def arguments(folder, out, *more):
    return ["stargan", "--portraits", str(folder), "--out", str(out), *map(str, more)]


@pytest.mark.parametrize("options, message", [
    (["--steps", "0"], "--steps: '0' is not a whole number above zero"),
    (["--steps", "-20"], "--steps: '-20' is not a whole number above zero"),
    (["--seed", "-1"], "--seed: '-1' is not a whole number from 0 to 4294967295"),
    (["--seed", "x"], "--seed: 'x' is not a whole number from 0 to 4294967295"),
    (["--minutes", "nan"], "--minutes: 'nan' is not a number above zero"),
])  # fmt: skip
def test_numbers_that_no_training_can_have(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        train.main(arguments(tmp_path, tmp_path / "g", *options))
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_is_one_line(tmp_path, monkeypatch, capsys, number, status):
    def interrupt(*_):
        os.kill(os.getpid(), number)
        time.sleep(10)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler), signal.getsignal(15)
    monkeypatch.setattr(train, "check_out", interrupt)
    try:
        assert train.main(arguments(tmp_path, tmp_path / "g")) == status
    finally:
        signal.signal(signal.SIGINT, previous[0])
    assert capsys.readouterr().err == "python -m checkpoints.train: error: interrupted\n"
    assert signal.getsignal(signal.SIGTERM) == previous[1]


@pytest.mark.parametrize("lines, message", [
    ([], "portraits.csv: it lists no portrait; add a line"),
    (["A000055.jpg,M,1940"], "it lists no portrait to train on; add lines with other names"),
    (["a,,"], "no portrait to train on is known to be Male; fill in its column gender"),
    (["a,M,"], "no portrait to train on is known not to be Male; fill in its column gender"),
    (["a,M,", "b,F,"], "is known to be Senior; fill in its column birth_year"),
    (["a,M,1940", "b,F,", "c,,1990"], "is known not to be Male; fill in its column gender"),
    (["a,M,1940", "b,F,1990"], "photos/a: there is no such photo, but portraits.csv lists it"),
])  # fmt: skip
def test_a_mistake_in_the_table_is_told_of_before_any_photo_is_read(
    tmp_path, capsys, lines, message
):
    table = "\n".join(["file,gender,birth_year", *lines]) + "\n"
    (tmp_path / "portraits.csv").write_text(table)
    assert train.main(arguments(tmp_path, tmp_path / "g")) == 1
    line = capsys.readouterr().err
    assert line.startswith("python -m checkpoints.train: error: ")
    assert message in line and line.count("\n") == 1


def test_a_taken_out_is_told_of_first(tmp_path, capsys):
    (tmp_path / "file").touch()
    cases = {
        save_small(tmp_path / "g"): "a generator is there already; choose another --out, or",
        tmp_path / "file": "exists and is not a generator; choose another folder",
        tmp_path / "file" / "g": "it is a file, not a folder; choose another --out",
    }
    for out, message in cases.items():
        assert train.main(arguments(tmp_path / "none", out)) == 1
        line = capsys.readouterr().err
        assert message in line and line.count("\n") == 1


def statistics_apart(arch, config, params):
    """The weights of a generator, without the statistics of its norms."""
    module = registry.architecture(arch).module(config, nnx.Rngs(0))
    weights = nnx.to_pure_dict(nnx.split(module, nnx.Param, ...)[1])
    paths = {path for path, _ in jax.tree_util.tree_leaves_with_path(weights)}
    return {p: leaf for p, leaf in jax.tree_util.tree_leaves_with_path(params) if p in paths}


@pytest.mark.slow
@pytest.mark.parametrize("arch", train.RECIPES)
def test_training_changes_and_saves_a_generator(arch, tmp_path, monkeypatch):
    recipe = dataclasses.replace(
        train.RECIPES[arch], config=SMALL[arch], batch=2, critic_steps=1, critic_width=4
    )
    monkeypatch.setitem(train.RECIPES, arch, recipe)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        train.train(arch, made_up_portraits(), tmp_path / arch, seed=0, steps=20)
        train.train(arch, made_up_portraits(), tmp_path / "more", seed=0, steps=40)
    first, second = load_generator(tmp_path / arch), load_generator(tmp_path / "more")
    assert first.domains == second.domains
    before = statistics_apart(arch, SMALL[arch], first.params)
    after = statistics_apart(arch, SMALL[arch], second.params)
    assert len(before) > 0 and before.keys() == after.keys()
    changed = [bool((before[path] != after[path]).any()) for path in before]
    assert np.mean(changed) > 0.9, changed
