"""The compiled program itself: one loop, no callbacks, every platform, no wasted encoder."""

import dataclasses
import functools
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.extend.core import jaxprs_in_params

from benchmarks.targets import TARGETS
from cdmaa_jax.attack import Config, build, choices, compilation, evaluate_losses, run
from cdmaa_jax.attack.algorithm import Plan, attack_batch
from cdmaa_jax.attack.domains import DOMAIN_STRATEGIES
from cdmaa_jax.attack.numbers import numbers_of, structure_of
from cdmaa_jax.attack.running import program_for
from cdmaa_jax.attack.targets import Target, observe
from cdmaa_jax.generators import attgan, stargan
from cdmaa_jax.generators.registry import graph_of, init_params, make_generator
from cdmaa_jax.tracing import once
from tests.attack.toys import photos, toy, toy_batch

STEPS = 7


def arguments(models):
    ensemble = tuple(toy(seed, size=4) for seed in range(models))
    return ensemble, toy_batch(photos(1, size=4), ensemble), jax.random.split(jax.random.key(0), 1)


def program(**options):
    return jax.jit(functools.partial(attack_batch, Config(steps=STEPS, **options)))


def loops(jaxpr, inside=()):
    """Every loop primitive with its enclosing ones, except the loop that draws random bits."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name.startswith(("random_", "threefry")):
            continue
        here = (*inside, name) if name in ("scan", "while") else inside
        if here != inside:
            yield here, equation
        for sub in jaxprs_in_params(equation.params):
            yield from loops(sub, here)


@pytest.mark.parametrize("update", choices()["update"])
def test_one_scan_over_all_steps_and_models(update):
    """For more than two models, the solver's bounded loop is inside it; there is no other.

    The first iteration evaluates the clean images; APGD's last one judges the final images.
    """
    for models, expected in ((2, [("scan",)]), (4, [("scan",), ("scan", "while")])):
        found = list(loops(jax.make_jaxpr(program(update=update))(*arguments(models)).jaxpr))
        assert [path for path, _ in found] == expected
        steps = Config(steps=STEPS, update=update).resolve().steps
        assert found[0][1].params["length"] == steps + 1 + (update == "apgd")


@pytest.mark.parametrize("update", ["i-fgsm", "apgd"])
def test_lowers_to_one_loop_without_callbacks(update):
    text = program(update=update).lower(*arguments(4)).as_text()
    assert "callback" not in text and "custom_call" not in text
    functions = re.split(r"(?=func\.func )", text)
    counts = {
        re.search(r"@(\w+)", part).group(1): part.count("stablehlo.while")
        for part in functions
        if "stablehlo.while" in part and "@threefry" not in part.splitlines()[0]
    }
    assert counts["main"] >= 1
    assert sum(counts.values()) == 2  # the other is the solver's, in the loop's body


@pytest.mark.parametrize("update", ["i-fgsm", "mi-fgsm", "apgd"])
def test_exports_for_every_platform(update):
    exported = jax.export.export(program(update=update), platforms=("cpu", "cuda", "tpu"))(
        *arguments(3)
    )
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert exported.out_avals[0].shape == (1, 4, 4, 3)


def test_weights_are_arguments_not_constants():
    ensemble, batch, keys = arguments(2)
    jaxpr = jax.make_jaxpr(program())(ensemble, batch, keys)
    assert not [c for c in jaxpr.consts if np.size(c) > 16]
    other = jax.tree.map(lambda p: p + 1, ensemble)
    jitted = program()
    jitted(ensemble, batch, keys), jitted(other, batch, keys)
    assert jitted._cache_size() == 1


# AttGAN's encoder, which does not see the condition

ATTRIBUTES = tuple(f"attribute{i}" for i in range(6))
SMALL = attgan.Config(32, ATTRIBUTES, 16, 4, 3, 3)  # its encoder is the larger half


def attgan_target(domains):
    params = jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), graph_of("attgan", SMALL)[1])
    generator = make_generator("attgan", SMALL, params)
    conditions = jnp.asarray(generator.conditions(None))[:, :domains]
    return Target(generator, conditions, jnp.zeros((1, domains, 32, 32, 3)))


def flops(function, *args):
    return jax.jit(function).lower(*args).cost_analysis()["flops"]


def backward(function):
    return jax.grad(lambda x: (function(x) ** 2).sum())


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends have one form")
def test_what_is_run_once_has_a_program_of_its_own(x64):
    """It gives the same result without Winograd transforms, and the two are kept apart."""
    config = stargan.Config(image_size=16, width=16, blocks=1)
    params = jax.tree.map(lambda v: v.astype(np.float64), init_params("stargan", config))
    generator = make_generator("stargan", config, params)
    images = photos(1, size=16, dtype=np.float64)
    batch, key = toy_batch(images, (generator,)), jax.random.key(0)
    programs = program_for("cpu", None)
    before = programs._cache_size()
    often = run(Config(steps=3), generator, batch, key)
    with once():
        soon = run(Config(steps=3), generator, batch, key)
    assert programs._cache_size() == before + 2
    np.testing.assert_allclose(soon.losses, often.losses, rtol=1e-9)

    def points(computed_once):
        """Products of as many matrices as a Winograd tile has points."""
        plan = Plan(computed_once=computed_once)
        whole = functools.partial(attack_batch, Config(steps=3), plan=plan)
        keys = jax.random.split(key, 1)
        text = jax.jit(whole).lower((generator,), batch, keys).as_text()
        return len(re.findall(r"dot_general .*batching_dims = \[0\] x \[0\].*<16x", text))

    assert points(False) and not points(True)


def test_encoder_is_computed_once_for_all_domains():
    """K domains cost one encoder and K decoders, forward and backward."""
    x, key = jnp.zeros((1, 32, 32, 3)), jax.random.split(jax.random.key(0), 1)
    target = attgan_target(6)
    encoder = functools.partial(target.generator.encode, target.generator.params)

    def outputs(domains):
        conditions = target.conditions[:, :domains]
        return functools.partial(observe, "mse", target.generator, conditions=conditions, keys=key)

    for transform in (lambda f: f, backward):
        encoding = flops(transform(encoder), x)
        one, three, six = (flops(transform(outputs(n)), x) for n in (1, 3, 6))
        another = (six - three) / 3
        assert another < one - encoding
        assert six - 6 * another > encoding  # what is computed once includes the encoder


def test_uniform_domains_take_one_backward_pass():
    """Equation (9): the gradient of the mean; the shortest combination needs K gradients."""
    target = attgan_target(6)
    x, key, time = jnp.zeros((1, 32, 32, 3)), jax.random.split(jax.random.key(0), 1), jnp.int32(0)
    cost = {
        name: flops(functools.partial(DOMAIN_STRATEGIES[name], "mse", target), x, key, time)
        for name in ("uniform", "mgda", "single")
    }
    assert cost["single"] < cost["uniform"] < cost["mgda"]


def test_an_attack_can_be_part_of_another_program():
    ensemble = (toy(0, size=4), toy(1, size=4))
    batch, key, config = toy_batch(photos(2, size=4), ensemble), jax.random.key(0), Config(steps=3)
    alone = run(config, ensemble, batch, key)

    @jax.jit
    def outer(images, key):
        moved = dataclasses.replace(batch, images=images)
        return run(config, ensemble, moved, key).images

    np.testing.assert_allclose(outer(batch.images, key), alone.images, atol=1e-6)
    slope = jax.grad(lambda images: (outer(images, key) - images).sum())(batch.images)
    assert np.isfinite(slope).all()


def test_losses_can_be_differentiated():
    ensemble = (toy(0, size=4), toy(1, size=4))
    batch = toy_batch(photos(2, size=4), ensemble)
    moved = 0.9 * batch.images

    def total(moved):
        losses = evaluate_losses(ensemble, batch.images, moved, batch.conditions)
        return sum(loss.sum() for loss in losses)

    slope = jax.jit(jax.grad(total))(moved)
    ahead = [total(moved + sign * 1e-2 * slope) for sign in (1, -1)]
    np.testing.assert_allclose(ahead[0] - ahead[1], 2e-2 * (slope**2).sum(), rtol=1e-2)


def test_what_does_not_fit_is_refused():
    ensemble = (toy(0, size=4), toy(1, size=4))
    batch = toy_batch(photos(2, size=4), ensemble)
    with pytest.raises(ValueError, match=r"of one shape.* not \[2, 4, 4, 3\] and \[1, 4, 4, 3\]"):
        evaluate_losses(ensemble, batch.images, batch.images[:1], batch.conditions)
    with pytest.raises(ValueError, match="conditions for 1 of 2 generators"):
        evaluate_losses(ensemble, batch.images, batch.images, batch.conditions[:1])
    arguments = (ensemble, batch.images, batch.images, batch.conditions)
    with pytest.raises(ValueError, match=r"loss must be one of mse, .*, not 'psnr'"):
        evaluate_losses(*arguments, loss="psnr")
    with pytest.raises(ValueError, match="the loss mse takes no weights of pixels"):
        evaluate_losses(*arguments, pixel_weights=np.ones((2, 4, 4)))
    with pytest.raises(ValueError, match="conditions for 2 of 1 generators"):
        build(Config(), ensemble[0], batch)
    for key in (0, jax.random.PRNGKey(0)):
        with pytest.raises(ValueError, match=r"a typed one, such as jax\.random\.key"):
            run(Config(steps=2), ensemble, batch, key)


@pytest.mark.parametrize("devices", [jax.devices()[0], ["cpu"], jax.devices()[:1] * 2], ids=str)
def test_what_is_no_list_of_devices_is_refused(devices):
    batch = toy_batch(photos(2), [toy(0)])
    with pytest.raises(ValueError, match=r"devices must be a list of different jax\.devices"):
        run(Config(steps=1), toy(0), batch, jax.random.key(0), devices=devices)


@pytest.mark.parametrize("chunk", ["1", [1], 0, 1.5], ids=str)
@pytest.mark.parametrize("count", [None, 2])
def test_what_is_no_chunk_is_refused(count, chunk):
    batch, devices = toy_batch(photos(2), [toy(0)]), count and jax.devices()[:count]
    with pytest.raises(ValueError, match="chunk must be"):
        run(Config(steps=1), toy(0), batch, jax.random.key(0), devices=devices, chunk=chunk)


def test_devices_may_come_from_a_mesh():
    batch, devices = toy_batch(photos(2), [toy(0)]), np.asarray(jax.devices()[:2])
    expected = run(Config(steps=1), toy(0), batch, jax.random.key(0), devices=[*devices])
    for given in (devices, devices.flat):
        found = run(Config(steps=1), toy(0), batch, jax.random.key(0), devices=given)
        np.testing.assert_array_equal(found.images, expected.images)


PREPARED_FOR_SHAPES = """
import dataclasses, jax
from cdmaa_jax.attack import Config, prepare
from tests.attack.toys import photos, toy, toy_batch

batch = toy_batch(photos(2), [toy(0)])
batch = dataclasses.replace(batch, images=jax.ShapeDtypeStruct(batch.images.shape, "float32"))
prepare(Config(steps=2), toy(0), batch, jax.random.key(0))
"""


def test_an_attack_is_prepared_for_shapes_alone():
    """In another process: in this one, signatures are checked, which know arrays alone."""
    code = [sys.executable, "-c", PREPARED_FOR_SHAPES]
    subprocess.run(code, check=True, timeout=300, cwd=Path(__file__).parents[2])


def test_one_generator_and_one_key_do_for_an_attack_in_steps():
    batch, key = toy_batch(photos(2, size=4), [toy(0, size=4)]), jax.random.key(0)
    config = Config(steps=1, start="uniform")  # near the photo, L is mostly rounding noise
    attack = build(config, toy(0, size=4), batch)
    (state, info), wanted = attack.step(attack.init(key)), run(config, toy(0, size=4), batch, key)
    np.testing.assert_allclose(attack.finish(state).images, wanted.images, atol=1e-6)
    np.testing.assert_allclose(info.losses, wanted.losses[0], rtol=1e-5)


def test_devices_that_share_a_batch_do_not_talk_and_change_no_bit():
    ensemble = (toy(0, size=4), toy(1, size=4), toy(2, size=4))
    batch, key = toy_batch(photos(4, size=4), ensemble), jax.random.key(0)
    devices, config = jax.devices()[:2], Config(steps=STEPS)
    shared = run(config, ensemble, batch, key, devices=devices)
    for part in (slice(0, 2), slice(2, 4)):
        alone = run(config, ensemble, toy_batch(photos(4, size=4)[part], ensemble), key)
        np.testing.assert_array_equal(shared.images[part], alone.images)
        np.testing.assert_array_equal(shared.losses[:, part], alone.losses)
    one_by_one = run(config, ensemble, batch, key, chunk=1)
    np.testing.assert_array_equal(
        run(config, ensemble, batch, key, devices=devices, chunk=1).images, one_by_one.images
    )
    text = sharded_text(config, ensemble, batch, key, devices)
    assert "while" in text and not re.search(COLLECTIVES, text)


def test_devices_of_a_cpu_are_warned_of_where_xla_may_compute_wrongly(monkeypatch):
    monkeypatch.setattr(compilation, "can_share_cpu", lambda: False)
    batch = toy_batch(photos(2), [toy(0)])
    with pytest.warns(UserWarning, match="wrongly on several devices of a CPU"):
        run(Config(steps=1), toy(0), batch, jax.random.key(0), devices=jax.devices()[:2])


OF_OFFICIAL_WIDTH = """
import os
if hasattr(os, "sched_setaffinity"):  # a thread of a third core would empty the queue of tasks
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from cdmaa_jax.attack import Config, run
from tests.attack.toys import official, photos, toy_batch

ensemble = [official("stargan"), official("stgan")]
images, key, config = photos(4, size=128), jax.random.key(0), Config(steps=2)
parts = slice(0, 2), slice(2, 4)
each = [run(config, ensemble, toy_batch(images[part], ensemble), key) for part in parts]
for _ in range(3):
    both = run(config, ensemble, toy_batch(images, ensemble), key, devices=jax.devices())
    for part, alone in zip(parts, each, strict=True):
        np.testing.assert_array_equal(both.images[part], alone.images)
        np.testing.assert_array_equal(both.losses[:, part], alone.losses)
"""


@pytest.mark.slow
def test_devices_that_share_large_generators_change_no_bit():
    """It takes two cores to compute at once what XLA may compute wrongly (``in_turn``)."""
    code = [sys.executable, "-W", "error", "-c", OF_OFFICIAL_WIDTH]
    subprocess.run(code, check=True, timeout=900, cwd=Path(__file__).parents[2])


@pytest.mark.slow
def test_the_chips_of_a_tpu_do_not_talk(monkeypatch):
    """Needs JAX's TPU plugin, but no TPU."""
    for name, value in TARGETS["v5e"].environment.items():
        monkeypatch.setenv(name, value)
    try:
        four = topologies.get_topology_desc("v5e:2x2x1", "tpu", chips_per_host_bounds=(2, 2, 1))
    except RuntimeError as error:
        pytest.skip(str(error))
    ensemble, config = (toy(0, size=4), toy(1, size=4), toy(2, size=4)), Config(steps=STEPS)
    batch = toy_batch(photos(8, size=4), ensemble)
    text = sharded_text(config, ensemble, batch, jax.random.key(0), four.devices)
    assert "while" in text and not re.search(COLLECTIVES, text)


COLLECTIVES = r"all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broa"


def sharded_text(config, ensemble, batch, key, devices):
    mesh = jax.sharding.Mesh(np.asarray(devices), ("batch",))
    keys = jnp.broadcast_to(key, (len(batch.images),))
    conditions = tuple(jnp.repeat(c, len(batch.images), 0) for c in batch.conditions)
    whole, split = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        for axes in ((), ("batch",))
    )
    numbers = numbers_of(config, batch.images.dtype, len(ensemble))
    ensemble, numbers = placed((ensemble, numbers), whole)
    batch, keys = placed((dataclasses.replace(batch, conditions=conditions), keys), split)
    platform = devices[0].platform
    plan = Plan((2, 2, 2), platform=None if platform == "cpu" else platform)
    arguments = (structure_of(config), mesh, ensemble, batch, keys, numbers)
    return program_for(platform, len(devices)).lower(*arguments, plan=plan).compile().as_text()


def placed(tree, sharding):
    """The shapes of arrays that are on the devices of a sharding."""
    return jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding), tree
    )
