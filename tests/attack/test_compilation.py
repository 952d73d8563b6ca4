"""Programs are compiled once, by whichever thread comes first."""

import dataclasses
import logging
import math
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.backend import get_default_device

from cdmaa_jax import processor
from cdmaa_jax.attack import Config, apart, compilation, evaluate_losses, pieces, prepare, run
from cdmaa_jax.evaluation import metrics
from cdmaa_jax.tracing import once
from tests.attack.toys import official, photos, toy, toy_batch


class Lowered:
    """Stands in for a lowered jitted function: returns itself, and an empty text."""

    def lower(self, *arguments, **options):
        return self

    def compiler_ir(self, dialect):
        return jax.jit(lambda: 0).lower().compiler_ir(dialect)


class Program(Lowered):
    """Stands in for a jitted function: is slow to compile, and counts compilations."""

    def __init__(self, error=None):
        self.error, self.compiled, self.begun = error, 0, threading.Event()
        self.may_end = threading.Event()

    def compile(self):
        self.compiled += 1
        self.begun.set()
        assert self.may_end.wait(30)
        if self.error is not None:
            raise self.error

    def __call__(self, *arguments, **options):
        return arguments, options


def in_thread(results, function, *arguments, **options):
    def work():
        try:
            results.append(function(*arguments, **options))
        except ValueError as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_call_waits_for_the_thread_that_compiles():
    program, results = Program(), []
    ahead = in_thread([], compilation.prepare, program, jnp.ones(3), steps=2)
    assert program.begun.wait(30)
    again = compilation.prepare(program, jnp.zeros(3), steps=2)  # has begun, so it does not wait
    assert not again.done()
    caller = in_thread(results, compilation.call, program, jnp.zeros(3), steps=2)
    caller.join(0.2)
    assert caller.is_alive() and not results
    program.may_end.set()
    ahead.join()
    caller.join()
    assert again.done() and program.compiled == 1
    assert results[0][1] == {"steps": 2}


def test_other_shapes_and_options_are_compiled_apart():
    program = Program()
    program.may_end.set()
    for argument, steps in ((jnp.ones(3), 1), (jnp.ones(4), 1), (jnp.ones(3), 2)):
        compilation.call(program, argument, steps=steps)
        compilation.call(program, argument + 1, steps=steps)
    assert program.compiled == 3


def test_programs_for_other_devices_are_compiled_apart():
    program = Program()
    program.may_end.set()
    for device in jax.devices()[:2] * 2:
        with jax.default_device(device):
            compilation.call(program, jnp.ones(3))
    assert program.compiled == 2


def test_threads_that_come_together_get_one_value():
    begun, may_end, results = threading.Event(), threading.Event(), []

    @compilation.cached
    def make(argument):
        begun.set()
        assert may_end.wait(30)
        return object()

    threads = [in_thread(results, make, 1)]
    assert begun.wait(30)
    threads.append(in_thread(results, make, 1))
    may_end.set()
    for thread in threads:
        thread.join()
    first, second = results
    assert first is second is make(1)
    assert make(2) is not first


def test_a_failure_is_raised_to_all_and_not_kept():
    program, results = Program(ValueError("too large")), []
    threads = [in_thread(results, compilation.prepare, program, jnp.ones(3))]
    assert program.begun.wait(30)
    threads.append(in_thread(results, compilation.prepare(program, jnp.ones(3)).result))
    program.may_end.set()
    for thread in threads:
        thread.join()
    assert [str(error) for error in results] == ["too large"] * 2
    with pytest.raises(ValueError, match="too large"):
        compilation.call(program, jnp.ones(3))
    assert program.compiled == 2


def test_eigen_multiplies_matrices_where_vectors_are_narrow(monkeypatch):
    matrices, kinds = (jnp.ones((64, 64)), jnp.ones((64, 64))), []
    for narrow in (False, True):
        monkeypatch.setattr(processor, "is_x86_without_avx512", lambda narrow=narrow: narrow)
        options = compilation.compiler_options("cpu")
        program = jax.jit(lambda x, y: x @ y, compiler_options=options).lower(*matrices).compile()
        kinds.append("ynn_fusion" in program.as_text())
    assert kinds == [True, False]


@pytest.fixture
def can_share_cpu():
    compilation.can_share_cpu.cache_clear()
    yield compilation.can_share_cpu
    compilation.can_share_cpu.cache_clear()


several_cores = pytest.mark.skipif(processor.cores() == 1, reason="one core divides no loops")


@several_cores
def test_the_devices_of_a_cpu_share_batches_if_their_loops_are_not_divided(can_share_cpu):
    assert compilation._divides(compilation.compiler_options("cpu"))
    assert not compilation._divides(compilation.compiler_options("cpu", sharing=True))
    assert can_share_cpu()


@several_cores
def test_they_do_not_if_xla_renames_what_divides_loops(can_share_cpu, monkeypatch):
    renamed = {"xla_disable_hlo_passes": "a-pass-of-another-name"}
    monkeypatch.setattr(compilation, "_UNDIVIDED", renamed)
    assert not can_share_cpu()


@pytest.mark.parametrize("cores", [1, 2])
def test_they_do_not_if_xla_does_not_tell_what_it_divides(can_share_cpu, monkeypatch, cores):
    monkeypatch.setattr(compilation, "_divides", lambda options: False)
    monkeypatch.setattr(processor, "cores", lambda: cores)
    assert can_share_cpu() == (cores == 1)


@several_cores
def test_programs_with_undivided_loops_are_right_when_they_run_at_once():
    """With divided loops, 1200 tasks wait for threads, and the last convolution is wrong."""
    kernel = jax.random.normal(jax.random.key(0), (2, 2, 128, 256)) / 20
    image = jax.random.normal(jax.random.key(1), (8, 64, 64, 128))
    noise = jax.random.normal(jax.random.key(2), (2**18,))

    def iteration(carried, _):
        image, noise = carried
        noise = jax.lax.fori_loop(0, 300, lambda _, x: jnp.sin(x) + 0.1, noise)
        outputs = jax.lax.conv_general_dilated(
            image + noise[0], kernel, (1, 1), [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return (jnp.tanh(outputs[:, :64, :64, :128]), noise), outputs.sum()

    program = jax.jit(
        lambda *carried: jax.lax.scan(iteration, carried, length=4),
        compiler_options=compilation.compiler_options("cpu", sharing=True),
    )
    (alone, _), _ = jax.block_until_ready(program(image, noise))
    found, count = [], processor.cores()  # fewer would leave a thread to take tasks from the queue
    in_threads(*[lambda: found.append(program(image, noise)[0][0])] * count)
    assert len(found) == count
    for result in found:
        np.testing.assert_array_equal(result, alone)


def test_on_a_cpu_programs_are_compiled_without_names():
    def named(function):  # a new one each time, or the cache would take them for one
        return jax.jit(jax.named_scope("a_name")(lambda x: function(x)))

    plain, prepared, x = named(jnp.sin), named(jnp.cos), jnp.ones(())
    assert float(compilation.call(prepared, x)) == pytest.approx(math.cos(1))
    assert "a_name" in plain.lower(x).compile().as_text()
    kept = "a_name" in prepared.lower(x).compile().as_text()
    assert kept == (jax.default_backend() != "cpu")


def test_names_that_cannot_be_removed_are_kept(monkeypatch, caplog):
    monkeypatch.setattr(compilation, "get_default_device", lambda: jax.devices("cpu")[0])
    monkeypatch.setitem(sys.modules, "jax.extend.mlir.passmanager", None)  # its import fails
    caplog.set_level(logging.INFO, compilation.__name__)
    x = jnp.ones(())
    assert float(compilation.call(jax.jit(lambda x: jnp.tan(x)), x)) == pytest.approx(math.tan(1))
    assert "keeps its debug information" in caplog.text


@pytest.mark.parametrize("update", ["i-fgsm", "apgd"])
@pytest.mark.parametrize("brief", [False, True])
@pytest.mark.parametrize("in_pieces", [False, True])
def test_an_attack_that_was_prepared_compiles_nothing_more(
    in_pieces, brief, update, caplog, monkeypatch
):
    ensemble = [toy(0), toy(1)]
    batch, key = toy_batch(photos(2), ensemble), jax.random.key(0)
    other = toy_batch(photos(2, seed=1), ensemble)
    config = Config(steps=3, update=update)
    names = ["attack_batch"]
    if in_pieces:
        names = [f"jit({name})" for name in ("start", "observe", "evaluate", "step")]

    caplog.set_level(logging.WARNING, "jax")  # tests of the command line, if run before, hide it
    jax.clear_caches()  # other tests may have compiled the same
    monkeypatch.setattr(compilation, "_READY", {})

    def work():
        with jax.log_compiles(), once(brief), apart(in_pieces):
            prepare(config, ensemble, batch, key)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert all(name in caplog.text for name in names)
    caplog.clear()
    with jax.log_compiles(), once(brief), apart(in_pieces):
        run(dataclasses.replace(config, epsilon=0.1), ensemble, other, jax.random.key(1))
    assert not any(name in caplog.text for name in names)


class Fake(Lowered):
    """A compiled program that counts its runs, and fails if it has an error."""

    def __init__(self, error=None):
        self.compiled = self.runs = 0
        self.error = error

    def compile(self):
        self.compiled += 1

    def __call__(self, *arguments, **options):
        self.runs += 1
        if self.error is not None:
            raise self.error
        return jnp.asarray(self.runs)


def runs_of(graph, plain, calls, monkeypatch, patience=0.0):
    monkeypatch.setattr(compilation, "PATIENCE", patience)
    for _ in range(calls):
        compilation.call_as_graph(graph, plain, jnp.ones(3), steps=2)
    return graph.runs, plain.runs


def test_a_graph_runs_after_its_kernels_have_run_one_by_one(monkeypatch):
    assert runs_of(Fake(), Fake(), 4, monkeypatch) == (3, 1)


def test_no_graph_is_compiled_for_what_is_soon_over(monkeypatch):
    graph = Fake()
    assert runs_of(graph, Fake(), 4, monkeypatch, patience=1e9) == (0, 4)
    assert graph.compiled == 0


@pytest.mark.parametrize("why", ["UNKNOWN: cudnn status: 5003", "RESOURCE_EXHAUSTED: no memory"])
def test_where_a_graph_fails_kernels_run_one_by_one(why, monkeypatch, caplog):
    graph = Fake(jax.errors.JaxRuntimeError(why))
    assert runs_of(graph, Fake(), 4, monkeypatch) == (1, 4)  # tried once
    assert why in caplog.text


def test_each_precision_has_a_graph_of_its_own(monkeypatch):
    graph, plain = Fake(), Fake()
    for precision in ("highest", "tensorfloat32"):
        with jax.default_matmul_precision(precision):
            runs_of(graph, plain, 2, monkeypatch)
    assert (graph.runs, plain.runs) == (2, 2)


def test_this_jax_knows_the_options_of_graphs():
    assert "CONVOLUTION" in compilation.graph_options(False)["xla_gpu_enable_command_buffer"]
    assert len(compilation.graph_options(True)) == 2


def test_an_option_that_xla_refuses_is_left_out_and_told_of(caplog):
    unknown, known = {"xla_no_such_option": "1"}, {"xla_backend_optimization_level": "1"}
    with caplog.at_level(logging.WARNING):
        assert compilation._known(unknown | known) == known
    assert "without the option xla_no_such_option=1" in caplog.text


def test_jax_tells_of_the_default_device_that_its_user_set():
    first, second = jax.devices()[:2]
    assert get_default_device() == first
    with jax.default_device(second):
        assert get_default_device() == second
    with jax.default_device("cpu"):
        assert get_default_device() == first


def test_on_a_cpu_threads_compute_in_turn():
    inside, seen = [], []

    def compute():
        inside.append(None)
        time.sleep(0.05)  # for others to come in, if they could
        seen.append(len(inside))
        inside.pop()

    in_threads(*[lambda: compilation.in_turn(compute)] * 3)
    assert seen == [1, 1, 1]


def test_elsewhere_threads_compute_together(monkeypatch):
    device, all_inside = type("Device", (), {"platform": "gpu"}), threading.Barrier(3)
    monkeypatch.setattr(compilation, "get_default_device", lambda: device)
    done = []
    in_threads(*[lambda: done.append(compilation.in_turn(all_inside.wait, timeout=60))] * 3)
    assert sorted(done) == [0, 1, 2]


def test_attacks_and_measurements_compute_in_turn(monkeypatch):
    turns, in_turn = [], compilation.in_turn

    def noted(compute, *arguments, **options):
        turns.append(compute)
        return in_turn(compute, *arguments, **options)

    monkeypatch.setattr(compilation, "in_turn", noted)
    monkeypatch.setattr(metrics, "in_turn", noted)
    generator, images = toy(0, size=4), photos(2, size=4)
    batch, config = toy_batch(images, [generator]), Config(steps=2)
    for compute in (
        lambda: run(config, generator, batch, jax.random.key(0)),
        lambda: evaluate_losses(generator, images, images, batch.conditions),
        lambda: metrics.edits(generator, images, batch.conditions[0]),
    ):
        turns.clear()
        compute()
        assert turns
    with apart():
        turns.clear()
        run(config, generator, batch, jax.random.key(0))
    assert turns[0] is pieces.run


@pytest.mark.slow
def test_large_attacks_in_two_threads_compute_as_alone():
    """XLA's CPU backend would compute both wrongly, every time, if they ran at once."""
    generator = official("stargan")
    batch = toy_batch(photos(2, size=128), [generator])

    def losses():
        return np.asarray(run(Config(steps=3), generator, batch, jax.random.key(0)).losses)

    alone, both = losses(), []
    in_threads(*[lambda: both.extend(losses() for _ in range(2))] * 2)
    assert len(both) == 4
    for found in both:
        np.testing.assert_array_equal(found, alone)


def in_threads(*works):
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
