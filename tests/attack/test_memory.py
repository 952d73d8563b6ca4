"""Chunks: their cost, that they change nothing, and the message when nothing fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdmaa_jax.attack import Config, memory, run, running
from cdmaa_jax.attack.numbers import numbers_of, structure_of
from cdmaa_jax.generators import registry
from cdmaa_jax.images.views import resize
from tests.attack.toys import photos, toy, toy_batch

CPU = jax.devices("cpu")[0]


def problem(count=4, **changes):
    ensemble = [toy(0, **changes), toy(1, **changes)]
    return ensemble, toy_batch(photos(count), ensemble)


def test_chunks_divide_the_batch_or_nearly_so():
    assert [memory.fit_chunk(n, 12) for n in (1, 5, 6, 11, 40)] == [1, 4, 6, 6, 12]
    assert [memory.fit_chunk(n, 97) for n in (1, 2, 8, 40, 96)] == [1, 2, 8, 33, 49]
    assert [memory.fit_chunk(n, 7) for n in (1, 3, 6, 7)] == [1, 1, 1, 7]  # 4 would repeat 1 of 7


@pytest.mark.parametrize("count", [*range(1, 33), 97])
def test_a_chunk_is_kept_and_repeats_few_images(count):
    for chunk in range(1, count + 1):
        size = memory.fit_chunk(chunk, count)
        assert 1 <= size <= chunk and memory.fit_chunk(size, count) == size
        assert -count % size < count / 8
        assert size >= max(n for n in range(1, chunk + 1) if count % n == 0)


@pytest.mark.parametrize(("count", "chunk", "size"), [(9, 5, 5), (17, 3, 3), (97, 40, 33)])
def test_chunks_that_do_not_divide_the_batch_overlap(count, chunk, size):
    seen = []

    def double(batch):
        seen.append(len(batch["x"]))
        return 2 * batch["x"], jax.vmap(jax.random.bits)(batch["keys"])

    batch = {
        "x": jnp.arange(2.0 * count).reshape(count, 2),
        "keys": jax.random.split(jax.random.key(0), count),
    }
    doubled, bits = jax.jit(lambda batch: memory.in_chunks(double, chunk, batch))(batch)
    np.testing.assert_array_equal(doubled, 2 * batch["x"])
    np.testing.assert_array_equal(bits, jax.vmap(jax.random.bits)(batch["keys"]))
    assert set(seen) == {size}


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, None])
def test_a_function_in_chunks_sees_every_image_once(chunk):
    seen = []

    def double(batch):
        seen.append(batch["x"].shape[0])
        return 2 * batch["x"], batch["empty"]

    batch = {"x": jnp.arange(8.0).reshape(4, 2), "empty": jnp.zeros((4, 1, 0))}
    doubled, empty = memory.in_chunks(double, chunk, batch)
    np.testing.assert_array_equal(doubled, 2 * batch["x"])
    assert empty.shape == (4, 1, 0)
    assert set(seen) == {{1: 1, 2: 2, 3: 2}.get(chunk, 4)}


@pytest.mark.parametrize("options", [{}, {"across_domains": "mgda"}, {"update": "apgd"}])
def test_chunks_do_not_change_the_result(options):
    ensemble, batch = problem(9)
    config, key = Config(steps=3, **options), jax.random.key(0)
    whole, *parts = (run(config, ensemble, batch, key, chunk=n) for n in (9, 5, 1))
    for part in parts:
        np.testing.assert_allclose(part.losses, whole.losses, rtol=1e-4)
        assert float((jnp.sign(part.images - whole.images) != 0).mean()) < 0.02  # ties of rounding


def test_a_footprint_grows_with_the_chunk_alone():
    ensemble, batch = problem()
    needed = memory.footprint("mse", ensemble, batch)
    assert len(needed.image) == 2 and min(needed.image) > 0
    # tanh keeps its 4-channel output for every pixel: once for the encoder, once per domain (3)
    assert needed.image[0] > 4 * 8 * 8 * (4 + 3 * 4)
    assert needed.of((2, 2)) - needed.of((1, 1)) == max(needed.image)
    twice = memory.footprint("mse", ensemble, problem(8)[1])
    assert twice.image == needed.image and twice.batch > needed.batch
    assert needed.largest_chunks(needed.batch + 3.5 * max(needed.image)) >= (3, 3)
    assert needed.largest_chunks(0) == (1, 1)


def plan(free, chunk=None, count=4, monkeypatch=None):
    ensemble, batch = problem(count)
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    monkeypatch.setattr(memory, "_PLANS", {})
    return memory.plan_chunks("mse", ensemble, batch, CPU, chunk)


def test_the_plan_follows_the_free_memory(monkeypatch):
    ensemble, batch = problem()
    needed = memory.footprint("mse", ensemble, batch)
    assert plan(2**40, monkeypatch=monkeypatch) == (4, 4)
    assert plan(2**40, 2, monkeypatch=monkeypatch) == (2, 2)
    tight = needed.of((2, 2)) / memory.SHARE
    assert plan(tight, monkeypatch=monkeypatch) == (2, 2)


def test_a_cpu_takes_no_more_than_keeps_it_busy(monkeypatch):
    monkeypatch.setattr(memory, "_ENOUGH_PIXELS", 2 * 3 * 8 * 8)
    assert plan(2**40, monkeypatch=monkeypatch) == (2, 2)


def test_a_generator_without_a_view_is_planned_for_the_images_own_size(monkeypatch):
    monkeypatch.setattr(memory, "_ENOUGH_PIXELS", 2 * 3 * 8 * 8)
    monkeypatch.setattr(memory, "_PLANS", {})
    ensemble = [toy(0, size=4), toy(1, size=4, view=resize(4))]
    batch = toy_batch(photos(8), ensemble)
    assert memory.plan_chunks("mse", ensemble, batch, CPU, None) == (2, 8)


def test_what_does_not_fit_is_told_with_the_number_that_does(monkeypatch):
    ensemble, batch = problem()
    needed = memory.footprint("mse", ensemble, batch)
    with pytest.raises(
        ValueError, match=r"a batch of 4, 4 images at a time, .* a chunk of at most 2$"
    ):
        plan(needed.of((2, 2)), 4, monkeypatch=monkeypatch)
    with pytest.raises(ValueError, match=r"choose a batch_size of at most 3 for each device$"):
        plan(needed.of((1, 1)) - 1, monkeypatch=monkeypatch)
    assert plan(needed.of((1, 1)) - 1, count=3, monkeypatch=monkeypatch) == (1, 1)
    with pytest.raises(ValueError, match="not even one image fits; choose fewer or smaller gene"):
        plan(needed.params, monkeypatch=monkeypatch)
    with pytest.raises(ValueError, match=r"chunk must be a whole number, not 1\.5"):
        plan(2**40, 1.5, monkeypatch=monkeypatch)
    with pytest.raises(ValueError, match="chunk must be at least 1, not 0"):
        plan(2**40, 0, monkeypatch=monkeypatch)


def test_what_a_large_batch_of_small_images_takes_is_compared_with_the_free_memory(monkeypatch):
    monkeypatch.setattr(memory, "_ENOUGH_PIXELS", 1)
    free = 3 * memory._GENEROUS * 3 * 8 * 8  # ample for the gradient of one image of three domains
    needed = memory.footprint("mse", *problem())
    most = needed.largest_batch(free)
    told = f"a batch of {2 * most}, 1 image at a time, .* a batch_size of at most {most} for each"
    with pytest.raises(ValueError, match=told):
        plan(free, count=2 * most, monkeypatch=monkeypatch)
    assert plan(free, count=most, monkeypatch=monkeypatch) == (1, 1)


@pytest.mark.parametrize("loss", ["mse", "face-weighted", "latent"])
def test_the_generous_footprint_is_an_upper_bound(loss):
    ensemble, batch = problem(encode=lambda params, x: x.repeat(9, axis=-1))
    needed = memory.footprint(loss, ensemble, batch)
    generous = memory.generous_footprint(loss, ensemble, batch)
    assert generous.count == needed.count == 4 and generous.params == needed.params
    assert generous.held >= needed.held and min(generous.image) >= max(needed.image)


def test_the_free_memory_is_the_machines():
    assert 2**20 < memory.free_memory(CPU) < 2**50


def test_the_devices_of_a_cpu_share_its_memory(monkeypatch):
    ensemble, batch = problem()
    needed = memory.footprint("mse", ensemble, batch)
    monkeypatch.setattr(memory, "free_memory", lambda device: 2 * needed.of((2, 2)) / memory.SHARE)
    monkeypatch.setattr(memory, "_PLANS", {})
    assert memory.plan_chunks("mse", ensemble, batch, CPU, None, 2) == (2, 2)
    with pytest.raises(ValueError, match=r"choose a (chunk|batch_size) of at most"):
        memory.plan_chunks("mse", ensemble, batch, CPU, 4, 3)


def test_a_plan_is_kept_whatever_becomes_free(monkeypatch):
    ensemble, batch = problem()
    needed = memory.footprint("mse", ensemble, batch)
    before = plan(needed.of((2, 2)) / memory.SHARE, monkeypatch=monkeypatch)
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**40)
    assert memory.plan_chunks("mse", ensemble, batch, CPU, None) == before == (2, 2)


@pytest.mark.parametrize("chunk, taken", [(None, 1), (2, 2), (9, 4)])
def test_devices_share_a_batch_if_half_of_their_memory_has_room(monkeypatch, chunk, taken):
    ensemble, batch = problem(4)
    needed = memory.footprint("mse", ensemble, batch).of([taken] * 2)

    def shared(free, sharers=4):
        monkeypatch.setattr(memory, "free_memory", lambda device: free)
        return memory.has_room("mse", ensemble, batch, CPU, chunk, sharers)

    for free, fits in ((2**40, True), (8 * needed + 8, True), (8 * needed - 8, False), (0, False)):
        monkeypatch.setattr(memory, "_SHARED", {})
        assert shared(free) == fits
    assert not shared(2**40)  # the answer stays
    assert shared(8 * needed, sharers=3)


def test_a_batch_is_attacked_where_its_devices_have_no_room_for_it(monkeypatch):
    ensemble, batch = problem(2)
    config, key = Config(steps=2), jax.random.key(0)
    expected = run(config, ensemble, batch, key)
    for cache in ("_PLANS", "_SHARED"):
        monkeypatch.setattr(memory, cache, {})
    free = 1.01 * memory.footprint("mse", ensemble, batch).of((1, 1)) / memory.SHARE
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    found = run(config, ensemble, batch, key, devices=jax.devices()[:2])
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-4)
    assert found.images.sharding.device_set == {jax.devices()[0]}


@pytest.mark.slow
def test_models_take_turns_in_memory():
    """The four official generators at once need little more memory than the largest alone."""
    ensemble = [official(name) for name in ("stargan", "attgan", "stgan", "ugatit")]
    alone = [working_memory([model]) for model in ensemble]
    assert working_memory(ensemble) < 1.25 * max(alone)


def official(name):
    """A generator of the official widths; its parameters are zero."""
    config = registry.architecture(name).config()
    _, shapes = registry.graph_of(name, config)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return registry.make_generator(name, config, zeros)


def working_memory(ensemble):
    """Bytes that the compiled attack on one photo takes besides its arguments and results."""
    batch = toy_batch(photos(1, 128), ensemble)
    config, keys = Config(steps=2), jax.random.key(0)[None]
    numbers = numbers_of(config, jnp.float32, len(ensemble))
    program = running.program_for("cpu", None)
    lowered = program.lower(structure_of(config), tuple(ensemble), batch, keys, numbers)
    return lowered.compile().memory_analysis().temp_size_in_bytes


class Accelerator:
    """One with a given amount of memory, to plan for."""

    def __init__(self, limit, used=0, platform="gpu"):
        self.limit, self.used, self.platform = limit, used, platform

    def memory_stats(self):
        return {"bytes_limit": self.limit, "bytes_in_use": self.used}


def test_generators_run_side_by_side_where_all_fit_a_gpu():
    ensemble, batch = problem()
    needed = memory.footprint("mse", ensemble, batch)
    enough = 2 * (needed.batch + 2 * 4 * sum(needed.image)) + 2
    assert memory.can_overlap("mse", ensemble, batch, Accelerator(2**40))
    assert memory.can_overlap("mse", ensemble, batch, Accelerator(enough))
    assert not memory.can_overlap("mse", ensemble, batch, Accelerator(enough - 4))
    assert not memory.can_overlap("mse", ensemble, batch, Accelerator(enough, used=4))
    assert not memory.can_overlap("mse", ensemble, batch, CPU)


def test_whether_generators_run_side_by_side_is_asked_once():
    ensemble, batch = problem()
    gpu = Accelerator(2**40)
    assert memory.can_overlap("mse", ensemble, batch, gpu)
    gpu.used = gpu.limit
    assert memory.can_overlap("mse", ensemble, batch, gpu)


def test_a_tpu_pads_what_gradients_keep(monkeypatch):
    ensemble, batch = problem()
    monkeypatch.setattr(memory, "_PLANS", {})
    needed = memory.footprint("mse", ensemble, batch)
    padded = memory.footprint("mse", ensemble, batch, "tpu")
    assert padded.held == 128 // 8 * needed.held
    assert padded.image[0] == pytest.approx(1.4 * 128 / 8 * needed.image[0], rel=1e-3)
    wide = toy_batch(jnp.zeros((1, 8, 256, 3)), ensemble)
    values, rows = (memory.footprint("mse", ensemble, wide, name) for name in ("cpu", "tpu"))
    assert rows.held == values.held
    generous = memory.generous_footprint("mse", ensemble, batch, "tpu")
    assert min(generous.image) >= max(padded.image) and generous.held >= padded.held
    for platform, one in (("gpu", needed), ("tpu", padded)):
        device = Accelerator(int(one.of((2, 2)) / memory.SHARE) + 2, platform=platform)
        assert memory.plan_chunks("mse", ensemble, batch, device, None) == (2, 2)
    small = Accelerator(int(needed.of((2, 2)) / memory.SHARE) + 2, platform="tpu")
    with pytest.raises(ValueError, match="not even one image fits"):
        memory.plan_chunks("mse", ensemble, batch, small, None)
