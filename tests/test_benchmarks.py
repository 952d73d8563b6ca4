"""The benchmarks: both sides do the same work, operation counts are right, failures stop."""

import contextlib
import dataclasses
import errno
import json
import os
import signal
import tempfile
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks import __main__ as command
from benchmarks import (
    ahead,
    cold,
    compare,
    flops,
    hlo,
    jax_side,
    kernels,
    machine,
    memory,
    peak,
    program,
    reference,
    report,
    runs,
    scale,
    session,
    solver,
    torch_attack,
    torch_side,
    work,
    worker,
)
from benchmarks.report import NO_GRAPH
from benchmarks.statistics import Samples, images_per_second, line
from benchmarks.torch_layers import Conv, Flavour, InstanceNorm, narrow_convolutions
from benchmarks.torch_models import make_network
from benchmarks.workers import BenchmarkError, Worker
from cdmaa_jax.attack import compilation
from cdmaa_jax.attack.memory import SHARE
from cdmaa_jax.generators import attgan
from cdmaa_jax.generators.registry import architecture, init_params, make_generator
from cdmaa_jax.types import Batch
from tests.parity.torch_models import random_model
from tests.tiny import SIZE as TINY_SIZE
from tests.tiny import save_ensemble

SIZE = 32
CHANGES = {
    "stargan": {"width": 4, "blocks": 1},
    "attgan": {"encoder_width": 4, "decoder_width": 6, "shortcut_layers": 2, "inject_layers": 1},
    "stgan": {"width": 4, "layers": 4},
    "ugatit": {"width": 4, "blocks": 1},
}
CASES = [
    *CHANGES.items(),
    ("attgan", {"encoder_width": 4, "decoder_width": 4, "shortcut_layers": 0}),
    (
        "stgan",
        {"width": 4, "layers": 3, "shortcut_layers": 2, "use_stu": False, "one_more_conv": False},
    ),
    ("stgan", {"width": 4, "layers": 3, "shortcut_layers": 0}),
    ("ugatit", {"width": 4, "blocks": 1, "light": False}),
]
FLAVOURS = (Flavour(), Flavour(split=True), Flavour(split=True, native_norm=False))


def official(arch, changes):
    """A small official module, its configuration and its conditions [1,K,n]."""
    config = work.official_config(arch, SIZE, changes)
    conditions = architecture(arch).conditions(config, None)
    return random_model(arch, config), config, torch.from_numpy(np.array(conditions))


def network_of(arch, changes, flavour):
    model, config, conditions = official(arch, changes)
    fields = dataclasses.asdict(config)
    return make_network(arch, fields, model.state_dict(), conditions, SIZE, flavour)


def smooth(batch):
    return torch.from_numpy(work.photos(SIZE, batch)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("flavour", FLAVOURS, ids=("joined", "split", "group_norm"))
@pytest.mark.parametrize(("arch", "changes"), CASES)
def test_fast_networks_compute_what_the_official_ones_do(arch, changes, flavour):
    model, _, conditions = official(arch, changes)
    x = smooth(2)
    expected = [model(x, c.expand(2, -1)) for c in conditions[0]]
    with torch.no_grad():
        found = network_of(arch, changes, flavour)(x).unflatten(0, (2, -1))
    torch.testing.assert_close(found, torch.stack(expected, 1), rtol=0, atol=2e-5)


def test_a_tensor_too_many_is_refused():
    model, config, conditions = official("stargan", CHANGES["stargan"])
    state = model.state_dict() | {"main.99.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"main\.99\.weight"):
        make_network("stargan", dataclasses.asdict(config), state, conditions, SIZE, Flavour())


@pytest.mark.parametrize("split", (False, True), ids=("joined", "split"))
@pytest.mark.parametrize(("arch", "changes"), CASES)
def test_operations_are_those_that_pytorch_counts(arch, changes, split):
    from torch.utils.flop_counter import FlopCounterMode

    network = network_of(arch, changes, Flavour(split))
    _, config, conditions = official(arch, changes)
    x = smooth(1).requires_grad_() * 1  # the counter does not accept leaves
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(network(x).sum(), x)
    count = flops.step if split else flops.step_joined
    expected = count(arch, dataclasses.asdict(config), SIZE, *conditions.shape[1:])
    assert counter.get_total_flops() == expected


def test_operations_at_official_width_are_those_of_the_layers_by_hand():
    """StarGAN, with its layers written out again; only convolutions are counted."""
    config = dataclasses.asdict(work.official_config("stargan", 128, {}))
    once = 2 * 128**2 * 49 * 3 * 64  # the first convolution's share of the photo
    edit = 2 * (
        64**2 * 16 * 64 * 128
        + 32**2 * 16 * 128 * 256
        + 12 * 32**2 * 9 * 256 * 256
        + 32**2 * 16 * 256 * 128  # transposed: for every input pixel
        + 64**2 * 16 * 128 * 64
        + 128**2 * 49 * 64 * 3
    )
    assert flops.start("stargan", config, 128, 5, 5) == once + 5 * edit
    assert flops.step("stargan", config, 128, 5, 5) == 2 * (once + 5 * edit)


def test_peak_is_the_best_of_all_products():
    """The clock advances by the duration of each product."""
    took = {64: iter((9.0, 2.0, 1.0)), 128: iter((9.0, 4.0))}  # the first of each is a warm-up
    now, seen = [0.0], []

    def square(size):
        def multiply():
            now[0] += next(took[size])
            seen.append(size)

        return multiply

    rate = peak.best_rate((64, 128), square, lambda _: None, lambda: now[0])
    assert rate == max(2 * 64**3 / 2.0, 2 * 128**3 / 4.0) and seen == [64, 64, 128, 128]


@pytest.mark.parametrize("precision", ("float32", "bfloat16"))
def test_peak_of_each_side_is_of_products_in_that_precision(precision, monkeypatch):
    """Both sides multiply what they are asked for; the rate follows from the clock alone."""
    timed = []

    def best_rate(sizes, square, wait):
        product = square(sizes[0])()
        wait(product)
        timed.append((sizes[0], str(product.dtype).removeprefix("torch.")))
        return float(product.shape[0])

    monkeypatch.setattr(peak, "best_rate", best_rate)
    monkeypatch.setattr(peak, "SIZES", {"cpu": (32,)})
    assert peak.jax_rate(precision) == peak.torch_rate(precision, torch.device("cpu")) == 32
    assert timed == [(32, precision)] * 2


@pytest.mark.parametrize("count", (1, 2, 4))
def test_solver_finds_the_shortest_combination(count):
    random = torch.Generator().manual_seed(count)
    gradients = torch.randn(6, count, 3, 4, 4, generator=random)
    gradients = gradients + torch.randn(6, 1, 3, 4, 4, generator=random)
    gradients *= 10.0 ** torch.randint(-4, 1, (6, count, 1, 1, 1), generator=random)
    found = solver.min_norm_weights(gradients, solver.faces(count)).double()
    gram = reference.gram(list(gradients.double().unbind(1)))
    best = reference.min_norm_weights(gram)

    def length(weights):
        return torch.einsum("bi,bij,bj->b", weights, gram, weights)

    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(length(found), length(best), rtol=1e-4, atol=1e-12)


def test_gram_matrix_needs_no_matrix_product(monkeypatch):
    """On a GPU, products are computed in TF32."""
    gradients = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = solver.gram(gradients)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda *_: pytest.fail("a matrix product"))
    torch.testing.assert_close(solver.gram(gradients), expected)


def test_solver_gives_no_nan_for_no_gradient():
    weights = solver.min_norm_weights(torch.zeros(1, 3, 3, 2, 2), solver.faces(3))
    torch.testing.assert_close(weights.sum(1), torch.ones(1))


@pytest.mark.parametrize("name", torch_attack.EAGER)
def test_the_attack_in_pytorch_is_the_reference(name):
    variant, images = torch_attack.EAGER[name], smooth(2)
    start = np.array(work.start(images.permute(0, 2, 3, 1).numpy()))
    start = torch.from_numpy(start).permute(0, 3, 1, 2)
    networks, models = [], []
    for arch in ("stargan", "ugatit"):
        model, config, conditions = official(arch, CHANGES[arch])
        fields = dataclasses.asdict(config)
        networks.append(
            make_network(arch, fields, model.state_dict(), conditions, SIZE, variant.flavour)
        )
        models.append(reference.Model(model, conditions.expand(2, -1, -1)))
    attack = torch_attack.Attack(networks, variant, images, contextlib.nullcontext)
    attack.init()
    _, losses, weights = attack.run(start, 2)
    expected = reference.attack(images, start, models, steps=2)
    torch.testing.assert_close(losses, expected.losses, rtol=1e-4, atol=0)
    torch.testing.assert_close(weights, expected.weights, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_weights_are_frozen_into_one_graph(monkeypatch):
    """As Inductor freezes them: it leaves a graph's inputs alone."""
    inputs, torch_compile = [], torch.compile

    def backend(graph, examples):
        inputs.append(len(examples))
        return graph.forward

    def captured(function, *, mode, **options):
        return torch_compile(function, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", captured)
    (variant,) = (v for v in torch_attack.COMPILED.values() if v.compiled == "step")
    images = smooth(1)
    model, config, conditions = official("stargan", CHANGES["stargan"])
    fields = dataclasses.asdict(config)
    network = make_network("stargan", fields, model.state_dict(), conditions, SIZE, variant.flavour)
    attack = torch_attack.Attack([network], variant, images, contextlib.nullcontext)
    attack.init()
    attack.run(images + 0.01, 1)
    assert sum(p.numel() > 0 for p in network.parameters()) > 4
    assert inputs == [INPUTS_OF_A_STEP]


INPUTS_OF_A_STEP = 3
"""The images, the clean images, and the generator's outputs for the clean ones."""


@pytest.mark.parametrize("flavour", FLAVOURS, ids=("joined", "split", "group_norm"))
@pytest.mark.parametrize("name", ["stargan", "ugatit"])
def test_norms_keep_the_type_of_features(name, flavour, monkeypatch):
    """And the GPU's norms compute the same as the others."""
    x, network = smooth(1), network_of(name, CHANGES[name], flavour)
    with torch.no_grad():
        expected = network(x)
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
        for module in network.modules():
            if isinstance(module, InstanceNorm):
                features = len(module.scale) if module.scale is not None else 4
                half = torch.ones(1, features, 4, 4, dtype=torch.bfloat16)
                assert module(half).dtype == torch.bfloat16


@pytest.mark.parametrize("precision", session.PRECISIONS)
def test_precision_is_set_so_that_it_can_be_read(precision):
    """``torch.compile`` reads it; mixing both kinds of settings would make that an error."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch_side.set_precision(precision)
        narrow = precision != "float32"
        assert torch.backends.cuda.matmul.allow_tf32 == narrow
        assert torch.get_float32_matmul_precision() == ("high" if narrow else "highest")
        assert torch.backends.cudnn.allow_tf32 == narrow
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


class Here:
    """A worker that runs in this process."""

    def __init__(self, side, threads=None, environment=None):
        sides = {"jax": jax_side.Side, "torch": torch_side.Side, "prepare": lambda: work}
        self._side = sides[side]()

    def __call__(self, name, **arguments):
        arguments.pop("cache", None)
        reply = getattr(self._side, name)(**json.loads(json.dumps(arguments)))
        return json.loads(json.dumps(reply))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def close(self):
        pass


@pytest.fixture
def here(monkeypatch):
    """Both sides in this process, with a quick matmul; what they set is restored."""
    monkeypatch.setattr(session, "Worker", Here)
    monkeypatch.setattr(compilation, "PATIENCE", compilation.PATIENCE)
    monkeypatch.setattr(jax.monitoring, "register_event_duration_secs_listener", lambda _: None)
    cudnn, products = torch.backends.cudnn, torch.get_float32_matmul_precision()
    for name in ("benchmark", "allow_tf32"):
        monkeypatch.setattr(cudnn, name, getattr(cudnn, name))
    for side in (jax_side.Side, torch_side.Side):
        monkeypatch.setattr(side, "matmul", lambda self: 1e11)
    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)
    torch.set_float32_matmul_precision(products)


SMALL = ["--size", "16", "--models", "ugatit", "--set", "ugatit.width=4", "ugatit.blocks=1"]
TINY = [*SMALL, "--batch", "2", "--no-compile"]


def test_comparison_from_the_command_line(here, tmp_path, capsys):
    file = tmp_path / "found.json"
    status = command.main(["compare", *TINY, "--rounds", "2", "--json", str(file)])
    output = capsys.readouterr()
    assert status == 0, output.err
    found = json.loads(file.read_text())
    (case,) = found["cases"]
    assert found["ratio_vs_eager"] == case["ratio_vs_eager"] > 0
    assert found["ratio_vs_compile"] is None
    assert f"{case['ratio_vs_eager']:.2f} times as fast" in output.out
    assert "against torch.compile: not measured" in output.out
    seconds = case["ours"]["seconds_per_image_iteration"]["median"]
    theirs = case["torch"][case["best_eager"]]["seconds_per_image_iteration"]["median"]
    assert case["ratio_vs_eager"] == pytest.approx(theirs / seconds)
    assert case["ours"]["flops_per_second"] == pytest.approx(case["flops"]["step"] / seconds)
    for differences in case["agreement"]["relative_difference"].values():
        assert max(differences[:2]) < 1e-3
    draw(file, tmp_path)


def test_an_ensemble_together_and_each_of_its_generators_alone(here, tmp_path):
    file, ensemble = tmp_path / "found.json", str(save_ensemble(tmp_path / "ensemble"))
    brief = ["--no-compile", "--rounds", "1", "--alone", "--json", str(file)]
    assert command.main(["compare", "--ensemble", ensemble, *brief]) == 0
    found = json.loads(file.read_text())
    assert [case["models"] for case in found["cases"]] == [
        ["stargan", "ugatit"], ["stargan"], ["ugatit"],
    ]  # fmt: skip
    assert found["settings"]["size"] == TINY_SIZE
    assert found["ratio_vs_eager"] == found["cases"][0]["ratio_vs_eager"]


def test_times_are_kept_if_memory_cannot_be_measured(here, monkeypatch, tmp_path, capsys):
    def fail(*_):
        raise BenchmarkError("no memory")

    monkeypatch.setattr(compare, "measure_memory", fail)
    file = tmp_path / "found.json"
    assert command.main(["compare", *TINY, "--rounds", "1", "--json", str(file)]) == 1
    assert "error: no memory" in capsys.readouterr().err
    found = json.loads(file.read_text())
    assert found["ratio_vs_eager"] > 0 and found["cases"][0]["ours"]["memory"] is None


def draw(file, folder):
    """The picture of comparisons: those of one size share a panel."""
    found, other, picture = json.loads(file.read_text()), folder / "other.json", folder / "bars.png"
    found["settings"]["size"] *= 2
    other.write_text(json.dumps(found))
    widths = []
    for files in ([file], [file, file], [file, other]):
        assert command.main(["plot", *map(str, files), "--out", str(picture)]) == 0
        with Image.open(picture) as image:
            widths.append(image.width)
    assert widths[0] == widths[1] < widths[2]


def test_a_wrong_weight_stops_the_comparison(here, monkeypatch, capsys):
    export = work.export

    def export_wrongly(arch, config, params, file):
        export(arch, config, params, file)
        state = load_file(file)
        state["UpBlock2.11.weight"] *= 1.01
        save_file(state, file)

    monkeypatch.setattr(work, "export", export_wrongly)
    assert command.main(["compare", *TINY]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the sides do not do the same work: losses of step 0 differ")


def test_what_is_not_a_number_does_not_agree():
    assert runs.differences([[[1.0, 2.0]]], [[[1.0, 2.002]]]) == [pytest.approx(1e-3, rel=1e-2)]
    with pytest.raises(BenchmarkError):
        runs.check("eager", [0.0, float("nan")], "float32")
    runs.check("eager", [0.0, 0.0, 1.0], "float32")  # later steps may differ


def test_a_step_is_timed_by_the_difference_of_two_lengths():
    assert line((2, 7.0), (6, 15.0)) == (2.0, 3.0)
    samples = Samples()
    for noise in (0.0, 0.5, 40.0):
        samples.add_pair((2, 7.0), (6, 15.0 + noise))
    assert samples.step() == pytest.approx(2.125)
    assert samples.start() == pytest.approx(7 - 2 * 2.125)
    direct = Samples()
    direct.add_direct(start=3.0, steps=8.0, count=4)
    assert images_per_second(direct, batch=2, steps=80) == pytest.approx(2 / (3 + 160))


def test_timed_runs_can_be_longer_but_not_shorter_than_what_is_checked(capsys):
    parser = command.parser()
    found = command.compare_options(parser.parse_args(["compare", "--quick", "--steps", "24"]))
    assert (found.long, found.rounds) == (24, command.QUICK["rounds"])
    with pytest.raises(SystemExit):
        parser.parse_args(["compare", "--steps", "1"])
    assert "'1' is not a whole number of at least 2" in capsys.readouterr().err


def test_our_step_is_a_turn_of_the_loop():
    asked = []

    def ours(name, models, steps):
        asked.append((name, steps))
        return {"seconds": 2.0 + 2.0 * steps + (9.0 if len(asked) == 1 else 0.0)}

    options = session.Options(short=1, long=4)
    timed = runs.Runs(types.SimpleNamespace(options=options, ours=ours), ["a"])
    timed.samples["ours"] = Samples()
    timed._sample("ours")
    assert timed.samples["ours"].step() == 2 and timed.samples["ours"].start() == 2
    assert asked == [("run", 4), ("run", 4)]


def test_a_variant_runs_untimed_before_it_is_timed():
    asked = []

    def torch(name, models, variant, steps):
        asked.append((name, steps))
        return {"init": 3.0, "steps": 2.0 * steps + (9.0 if len(asked) == 1 else 0.0)}

    options = session.Options(short=1, long=4)
    timed = runs.Runs(types.SimpleNamespace(options=options, torch=torch), ["a"])
    timed.samples["eager"] = Samples()
    timed._sample("eager")
    assert timed.samples["eager"].step() == 2 and timed.samples["eager"].start() == 3
    assert asked == [("run", 1), ("run", 4)]


@pytest.mark.parametrize(
    ("quick", "platform", "kept"),
    [
        (True, "cpu", ["eager, b", "compile, d"]),
        (True, "cuda", ["eager, a", "eager, b", "compile, d"]),
        (False, "cpu", ["eager, a", "eager, b", "eager, c", "compile, d"]),
    ],
)
def test_a_quick_comparison_does_not_time_what_starts_slowly(quick, platform, kept):
    seconds = {"eager, a": 2.5, "eager, b": 2.0, "eager, c": 2.1, "compile, d": 9.0}
    facts = {"eager": list(seconds)[:3], "compiled": ["compile, d"], "compiler": True}
    facts |= {"quick": ["eager, a", "eager, b", "compile, d"], "platform": platform}
    losses, forgotten = [[[1.0]]] * 4, []

    def torch(name, variant, steps=0, **_):
        if name == "forget":
            return forgotten.append(variant)
        return {"init": 1.0, "steps": steps * seconds[variant], "losses": losses[:steps]}

    def ours(name, **_):
        reply = {"seconds": 9.0, "attacks": 2, "stages": {}, "graph": None, "losses": losses}
        return {"run": reply, "memory": {}}[name]

    session_ = types.SimpleNamespace(
        options=session.Options(quick=quick, short=2, long=4),
        facts={"ours": {"platform": "cpu"}, "torch": facts},
        ours=ours,
        torch=torch,
        say=lambda text: None,
    )
    tried = runs.Runs(session_, ["model"])
    tried.warm_up()
    assert list(tried.samples) == ["ours", *kept]
    steps = 2 if quick and platform == "cpu" else 4
    assert list(tried.left_out) == forgotten == (["eager, a"] if steps == 2 else [])
    assert {len(found) for found in tried.agreement.values()} == {steps}
    assert tried.samples["eager, b"].limit == 2.0
    tried.samples["ours"].add_turns(1.0, count=4)
    turn = tried.samples["ours"].step()  # first run: two attacks of 4 steps and the clean outputs
    assert compare.extra(tried, "ours", {})["compile_seconds"] == pytest.approx(9.0 - 10 * turn)
    for _ in range(2):
        tried.samples["compile, d"].add_direct(start=1.0, steps=4.0, count=4)
    compilation = 8.0 * steps  # of 9 s in a step, the excess over later runs
    assert compare.extra(tried, "compile, d", {})["compile_seconds"] == compilation


class Clock(Here):
    """A worker whose runs follow a formula: 2 s per iteration, photo and model."""

    def __init__(self):
        self.calls = 0

    def __call__(self, name, **arguments):
        if name != "run":
            told = {"jax": "0", "platform": "cpu"}
            return {"process": 2**30, "device": None} if name == "memory" else told
        self.calls += 1
        images, pixels = arguments.get("batch", 1), (arguments.get("size") or 64) ** 2 / 64**2
        cost = 2 * images * pixels * len(arguments["models"]) * arguments.get("domains", 1)
        compilation = 40 if self.calls == 1 else 0
        seconds = compilation + cost * (arguments["steps"] + 1)
        return {"seconds": seconds, "attacks": 1, "stages": {"trace": 1.5}}


@pytest.fixture
def clock(monkeypatch):
    models = tuple(work.Model(name, name, "", "", {}, k) for name, k in (("a", 5), ("b", 1)))
    for module in (scale, cold):
        monkeypatch.setattr(module, "prepare", lambda *_: work.Work(models, 64, 1))
        monkeypatch.setattr(module, "open_ours", lambda *_: Clock())


def test_growth_is_measured_explained_and_drawn(clock, tmp_path, capsys):
    file, picture = tmp_path / "growth.json", tmp_path / "growth.png"
    arguments = ["scale", "--size", "64", "--json", str(file)]
    assert command.main([*arguments, "--png", str(picture)]) == 0
    axes = json.loads(file.read_text())["axes"]
    points = {name: [(p["x"], p["seconds"]) for p in one["points"]] for name, one in axes.items()}
    assert points["steps"] == [(t, 4 + 4 * t) for t in (1, 4, 8, 16)]
    assert points["batch"] == [(b, pytest.approx(4 * b)) for b in (1, 2, 4, 8)]
    assert points["domains"] == [(k, pytest.approx(2 * k)) for k in (1, 2, 4, 5)]
    assert points["models"] == [(1, 2), (2, 4)]
    assert points["size"] == [(s, pytest.approx(4 * (s / 64) ** 2)) for s in (32, 64, 96, 128)]
    said = capsys.readouterr().out
    assert "4 s for the clean outputs and 4 s for each step" in said
    assert " s whatever the size and 9.77 s for each 10,000 pixels" in said
    assert picture.exists()


def test_axes_of_growth_can_be_measured_apart(clock, tmp_path, capsys):
    files = [tmp_path / f"{i}.json" for i in range(2)]
    for file, names in zip(files, (["size", "batch"], ["models"]), strict=True):
        arguments = ["scale", "--size", "64", "--axes", *names, "--json", str(file)]
        assert command.main(arguments) == 0
    found = [json.loads(file.read_text()) for file in files]
    assert list(found[0]["axes"]) == ["batch", "size"]
    joined = scale.join(found)
    assert list(joined["axes"]) == ["batch", "models", "size"]
    assert joined["settings"] == found[1]["settings"]
    picture = tmp_path / "growth.png"
    assert command.main(["plot", *map(str, files), "--out", str(picture)]) == 0
    assert picture.exists()
    assert command.main(["plot", str(files[1]), "--out", str(picture)]) == 0
    found[1]["settings"]["size"] = 32
    with pytest.raises(BenchmarkError, match="differ in settings"):
        scale.join(found)


@pytest.mark.parametrize(("seconds", "repeats"), [(9.0, 1), (1.0, 4), (1e-3, 16)])
def test_brief_runs_are_repeated_and_medians_count(seconds, repeats):
    times = iter([40.0, seconds, *[seconds] * repeats, *[7.0] * repeats, *[seconds] * repeats])
    point = scale.Point(2, {}, (3,))
    point.prepare(lambda *_, **arguments: {"seconds": next(times)})
    for _ in range(3):
        point.measure(lambda *_, **arguments: {"seconds": next(times)})
    turn = pytest.approx(sorted((seconds, 7.0, seconds))[1] / 4)
    assert point.found() == {"x": 2, "seconds": turn, "start_seconds": turn}
    assert next(times, None) is None


def test_on_a_gpu_the_difference_of_two_lengths_counts():
    point = scale.Point(2, {}, (16, 80))
    for call in (point.prepare, point.measure):
        call(lambda *_, steps: {"seconds": 3 + steps / 8})
    assert point.found() == {"x": 2, "seconds": 1 / 8, "start_seconds": 3}


def test_compilation_is_the_first_run_less_the_second(clock, tmp_path, capsys):
    file = tmp_path / "compile.json"
    assert command.main(["compile", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["cold"]["compile_seconds"] == found["cached"]["compile_seconds"] == 40
    assert "empty cache: 40.0 s of compilation" in capsys.readouterr().out


def test_memory_is_that_of_fresh_processes_beside_the_plan(here, tmp_path, capsys):
    file = tmp_path / "memory.json"
    arguments = ["memory", *SMALL, "--batch", "4", "--chunk", "2", "--json", str(file)]
    assert command.main(arguments) == 0
    found, said = json.loads(file.read_text()), capsys.readouterr().out
    assert found["plan"]["chunks"] == [2] and found["plan"]["bytes"] > 0
    assert min(found[key]["process"] for key in ("cached", "compiling")) > 2**20
    most = f"{found['cached']['process'] / 2**30:.2f} GiB"
    assert "ugatit (domains: 1, photos at a time: 2)" in said and most in said


def test_worker_answers_and_says_what_went_wrong():
    with Worker("prepare") as worker:
        with pytest.raises(BenchmarkError, match="AttributeError"):
            worker("no_such_command")
        worker._process.kill()
        with pytest.raises(BenchmarkError, match="the prepare process ended"):
            worker("no_such_command")
        worker.close()  # and again at the end


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (["compare", "--set", "stargan=3"], "is not like stargan.width=32"),
        (["compare", "--size", "0"], "is not a whole number of at least 1"),
    ),
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_wrong_files_and_cores_end_with_one_line(tmp_path, capsys):
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert command.main(["plot", str(broken), "--out", str(tmp_path / "x.png")]) == 1
    assert command.main(["compare", "--threads", "4096"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith(f"error: {broken}: not a file that a benchmark wrote")
    assert errors[1].startswith("error: --threads is 4096, but this process may use")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--json", "none/x.json"], "none/x.json: there is no folder none"),
        (["compare", "--json", "pipe"], "pipe: it is a pipe or a device, not a file; choose anot"),
        (["scale", "--png", "."], ".: it is a folder; choose another --png"),
        (["scale", "--batch", "8"], "scale takes no --batch: it varies the batch itself"),
        (["compare", "--set", "stargan.none=3"], "--set stargan.none: stargan has width, blocks"),
        (
            ["compare", "--set", "stargan.image_size=64"],
            "--set stargan.image_size: stargan has wid",
        ),
        (
            ["compare", "--set", "stargan.attributes=5"],
            "--set stargan.attributes: stargan has widt",
        ),
        (["compare", "--set", "stargan.width=0"], "--set stargan.width: it is 0; give at least 1"),
        (["memory", "--models", "stargan", "stargan"], "--models: stargan is given twice; give it"),
        (
            ["compare", "--models", "ugatit", "--set", "stargan.width=3"],
            "--set stargan.width: stargan is not among the generators",
        ),
        (["scale", "--png", "x.txt"], "x.txt: txt is no format of pictures; choose one of "),
        (["plot", "part.json", "--out", "x.txt"], "x.txt: txt is no format of pictures; choose"),
        (["plot", "list.json", "--out", "x.png"], "list.json: not a file that a benchmark wrote"),
        (["plot", "bare.json", "--out", "x.png"], "bare.json: not a file that a benchmark wrote"),
        (["plot", "odd.json", "--out", "x.png"], "odd.json: not a file that a benchmark wrote"),
        (["plot", "part.json", "--out", "x.png"], "part.json: not a file that a benchmark wrote ("),
        (["plot", "empty.json", "--out", "x.png"], "empty.json: not a file that a benchmark wrot"),
    ],
)
def test_mistakes_are_told_of_before_anything_is_measured(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "bare.json").write_text('{"benchmark": "compare"}')
    (tmp_path / "odd.json").write_text('{"benchmark": []}')
    (tmp_path / "part.json").write_text('{"benchmark": "compare", "cases": [{}]}')
    empty = {"benchmark": "scale", "axes": {"steps": {"points": []}}}
    (tmp_path / "empty.json").write_text(json.dumps(empty))
    os.mkfifo("pipe")
    assert command.main(arguments) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"error: {message}") and line.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("name", ["scale", "compile"])
def test_there_is_no_tf32_on_a_cpu(clock, name, capsys):
    assert command.main([name, "--precision", "tf32"]) == 1
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith("error: --precision tf32 needs a GPU")
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device here")
@pytest.mark.parametrize("name", ["scale", "compile"])
def test_figures_are_kept_if_they_cannot_be_printed(clock, name, monkeypatch, tmp_path, capsys):
    file = tmp_path / "found.json"
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert command.main([name, "--json", str(file)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "error: the output cannot be written: No space left on device"
    assert json.loads(file.read_text())["benchmark"] == name


def test_axes_are_kept_if_a_later_one_fails(clock, monkeypatch, tmp_path, capsys):
    along = scale.along

    def fail(axis, *rest):
        if axis.name == "models":
            raise BenchmarkError("the jax process ended")
        return along(axis, *rest)

    monkeypatch.setattr(scale, "along", fail)
    file = tmp_path / "found.json"
    assert command.main(["scale", "--axes", "steps", "models", "--json", str(file)]) == 1
    assert list(json.loads(file.read_text())["axes"]) == ["steps"]


def test_a_picture_is_kept_if_the_disk_is_full(clock, monkeypatch, tmp_path, capsys):
    file, picture = tmp_path / "growth.json", tmp_path / "growth.png"
    assert command.main(["scale", "--json", str(file), "--png", str(picture)]) == 0
    before = picture.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert command.main(["plot", str(file), "--out", str(picture)]) == 1
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith(f"error: {picture}: the disk is full")
    )
    assert picture.read_bytes() == before and len(os.listdir(tmp_path)) == 2


def test_a_batch_that_fits_no_memory_is_one_line():
    side = types.SimpleNamespace(photos=lambda: np.empty(2**50))
    reply = worker.answer(side, '{"command": "photos", "arguments": {}}')
    assert reply["trace"] is None and "Unable to allocate" in reply["error"]


def test_an_interrupted_benchmark_ends_with_one_line(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.compare, "compare", interrupt)
    assert command.main(["compare"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_terminated_benchmark_removes_its_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def terminate(*_):
        with tempfile.TemporaryDirectory():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    monkeypatch.setattr(command.compare, "compare", terminate)
    with pytest.raises(SystemExit) as stop:
        command.main(["compare"])
    assert stop.value.code == 143 and not list(tmp_path.iterdir())


def test_memory_of_this_process_is_measured_in_bytes():
    block = np.ones(2**20)
    assert block.nbytes < memory.peak_bytes() < machine.memory_bytes()


@pytest.mark.slow
def test_whole_comparison_with_compiled_variants(tmp_path):
    file = tmp_path / "found.json"
    status = command.main(["compare", *SMALL, "--rounds", "1", "--quick", "--json", str(file)])
    assert status == 0
    found = json.loads(file.read_text())
    assert found["ratio_vs_eager"] > 0
    if torch_side.cpp_compiler():
        assert found["ratio_vs_compile"] > 0
        (case,) = found["cases"]
        assert {why for why in case["left_out"].values() if "steps took" not in why} <= {
            "out of time"
        }


KERNELS = [
    ("sm90_xmma_fprop_implicit_gemm_tf32f32_nhwckrsc_nhwc_tilesize64x64x32__5x_cudnn", 160, 0.08),
    ("void nhwcAddPaddingKernel<float, float, float, true>(int, int)", 80, 0.02),
    ("sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize64x64x32", 80, 0.01),
    ("gemm_fusion_dot_57", 80, 0.01),
    ("input_reduce_fusion_280", 400, 0.04),
    ("MemcpyD2D", 80, 0.002),
]


def test_kernels_are_counted_and_added_up():
    """In every stream of every GPU; the host's events and those without a stream do not count."""

    def line(name, *events):
        made = [types.SimpleNamespace(name=n, duration_ns=t) for n, t in events]
        return types.SimpleNamespace(name=name, events=made)

    def plane(name, *lines):
        return types.SimpleNamespace(name=name, lines=lines)

    data = types.SimpleNamespace(
        planes=[
            plane("/device:GPU:0", line("Stream #1", ("a", 5), ("b", 7)), line("Steps", ("a", 99))),
            plane("/device:GPU:1", line("Stream #2", ("a", 3))),
            plane("/host:CPU", line("Stream #3", ("a", 99))),
        ]
    )
    assert jax_side.kernels_of(data) == [("a", 2, pytest.approx(8e-9)), ("b", 1, 7e-9)]


@pytest.mark.parametrize("profiled", [KERNELS, []], ids=["profiled", "not profiled"])
def test_whole_attacks_are_timed_and_one_is_profiled(profiled):
    asked = []

    def worker(name, models, steps):
        asked.append(name)
        assert (models, steps) == (["a"], kernels.STEPS)
        run = {"seconds": float(len(asked)), "attacks": 2, "graph": True}
        return profiled if name == "profile" else run

    if not profiled:
        with pytest.raises(BenchmarkError, match="the profile holds no GPU kernels"):
            kernels.measure_one(worker, ["a"])
        return
    found = kernels.measure_one(worker, ["a"])
    assert asked == ["run"] * (1 + kernels.REPEATS) + ["profile"]
    assert found["first"] == 1 and found["runs"] == [2 + i for i in range(kernels.REPEATS)]
    assert found["kernels"] == KERNELS and found["graph"]


def test_kernels_are_told_apart_by_their_names():
    kinds = [kernels.kind_of(name) for name, _, _ in KERNELS]
    assert kinds == ["convolutions"] * 2 + ["products"] * 2 + ["other"] * 2


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
@pytest.mark.parametrize("isolates", [True, False], ids=["PyTorch isolates", "it cannot"])
def test_more_losses_are_compiled_than_pytorch_takes_of_one_function(isolates, monkeypatch):
    """Each compiled variant has one loss per model; all are instances of one class."""
    torch_compile = torch.compile

    def isolating(function, *, mode, isolate_recompiles, **options):
        assert isolate_recompiles
        return torch_compile(function, backend="eager", isolate_recompiles=True, **options)

    def older(function, *, mode, fullgraph, dynamic):
        return torch_compile(function, backend="eager", fullgraph=fullgraph, dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", isolating if isolates else older)
    with torch._dynamo.config.patch(recompile_limit=8):
        compiler, x = torch_attack._compiler("default"), torch.zeros(1, 3, 4, 4)
        for shift in range(12):
            attack = types.SimpleNamespace(_loss=lambda i, x, shift=shift: x.sum() + shift + i)
            loss = compiler(torch_attack._Loss(attack, 1))
            assert loss(x) == shift + 1


@pytest.mark.parametrize("name", CHANGES)
def test_narrow_convolutions_compute_what_autocast_does(name):
    """Their weights are rounded once, in advance."""
    x = smooth(2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for flavour in FLAVOURS:
            network = network_of(name, CHANGES[name], flavour)
            before = network(x)
            narrow_convolutions(network)
            torch.testing.assert_close(network(x), before, rtol=0, atol=2e-2)
            kinds = {m.weight.dtype for m in network.modules() if isinstance(m, Conv)}
            assert kinds == {torch.bfloat16}


def test_kernels_of_a_loop_are_read_from_its_program():
    images, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 4))

    def turn(images, _):
        numbers = ("NHWC", "HWIO", "NHWC")
        images = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=numbers
        )
        return images, images.sum()

    program = jax.jit(lambda x: jax.lax.scan(turn, x, length=3)).lower(images).compile()
    found = hlo.loop_kernels(program.as_text())
    (convolution,) = (kernel for kernel in found if kernel.kind == "convolution")
    assert convolution.size == 4 * (2 * images.size + kernel.size)
    with pytest.raises(ValueError, match="no loop"):
        hlo.loop_kernels(jax.jit(jnp.sin).lower(images).compile().as_text())


COMPILED = """
%region (p: (f32[2,8], bf16[4])) -> (f32[2,8], bf16[4]) {
  %p = (f32[2,8]{1,0}, bf16[4]{0}) parameter(0)
  %x = f32[2,8]{1,0} get-tuple-element(%p), index=0
  %c = (f32[2,8]{1,0}, u8[0]{0}) custom-call(%x), custom_call_target="__cudnn$convForward"
  %y = f32[2,8]{1,0} get-tuple-element(%c), index=0
  %z = f32[2,8]{1,0} fusion(%y, %x), kind=kLoop, calls=%fused
  ROOT %t = (f32[2,8]{1,0}, bf16[4]{0}) tuple(%z, %w)
}

ENTRY %main (a: f32[2,8]) -> f32[2,8] {
  ROOT %loop = (f32[2,8]{1,0}, bf16[4]{0}) while(%a), condition=%cond, body=%region
}
"""


COMPILED_FOR_TPU = """
%fused (a: f32[8,128], b: bf16[72,8]) -> f32[8,128] {
  ROOT %r = f32[8,128]{1,0:T(8,128)S(1)} convolution(%a, %b), dim_labels=0b1f_01io->0b1f
}

%region (p: (f32[8,128], bf16[72,8])) -> (f32[8,128], bf16[72,8]) {
  %p = (f32[8,128]{1,0:T(8,128)}, bf16[72,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p), index=0
  %k = bf16[72,8]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %s = (bf16[72,8]{1,0:T(8,128)(2,1)S(1)}, bf16[72,8]{1,0}, u32[]{:S(2)}) copy-start(%k)
  %d = bf16[72,8]{1,0:T(8,128)(2,1)S(1)} copy-done(%s)
  %s.1 = ((bf16[72,8]{1,0}), bf16[8,8]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%k)
  %d.1 = bf16[8,8]{1,0:T(8,128)S(1)} slice-done(%s.1)
  %y = f32[8,128]{1,0:T(8,128)S(1)} fusion(%x, %d), kind=kOutput, calls=%fused
  %z = f32[8,128]{1,0:T(8,128)} negate(%y)
  ROOT %t = (f32[8,128]{1,0:T(8,128)}, bf16[72,8]{1,0:T(8,128)(2,1)}) tuple(%z, %k)
}

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  ROOT %loop = (f32[8,128]{1,0}, bf16[72,8]{1,0}) while(%a), condition=%c, body=%region
}
"""


def test_arrays_that_a_tpu_keeps_on_chip_move_no_bytes():
    image = 4 * 8 * 128
    assert hlo.loop_kernels(COMPILED_FOR_TPU) == [
        hlo.Kernel("copy", 2 * 72 * 8),  # read, and written to the chip
        hlo.Kernel("copy", 2 * 8 * 8),
        hlo.Kernel("convolution", image),
        hlo.Kernel("other", image),
    ]


def test_figures_of_a_program(monkeypatch, capsys, tmp_path):
    class Compiler(Here):
        def __init__(self):
            pass

        def __call__(self, name, **_):
            if name == "open":
                return {"jax": "0", "platform": "cpu"}
            return {"text": COMPILED, "bytes": 2**30, "planned": 2**31, "seconds": 9.5}

    models = (work.Model("a", "stargan", "", "", {"width": 64, "blocks": 6, "attributes": []}, 5),)
    monkeypatch.setattr(program, "prepare", lambda *_: work.Work(models, 64, 1))
    monkeypatch.setattr(compare, "count", lambda *_: {"step": 7})
    monkeypatch.setattr(program, "open_ours", lambda *_: Compiler())
    file = tmp_path / "program.json"
    assert command.main(["program", "--precision", "tf32", "--json", str(file)]) == 0
    found = json.loads(file.read_text())["precisions"]["tf32"]
    assert found["kernels_by_kind"] == {"convolution": 1, "other": 1}
    assert found["bytes_by_kind"] == {"convolution": 128, "product": 0, "copy": 0, "other": 192}
    assert found["seconds_at_least"] == 320 / 3.35e12
    assert found["compile_seconds"] == 9.5
    shown = capsys.readouterr().out
    assert "tf32" in shown and "for an H100" in shown
    assert command.main(["program", "--target", "v5e", "--json", str(file)]) == 0
    found = json.loads(file.read_text())["precisions"]
    assert list(found) == ["default", "bfloat16"]
    assert found["default"]["seconds_at_least"] == 320 / 819e9
    assert "for a TPU v5e" in capsys.readouterr().out


@pytest.mark.slow
def test_weights_are_not_cut_in_the_loop_of_a_gpu():
    """Needs JAX's CUDA plugin, but no GPU."""
    config = attgan.Config(128)
    generator = make_generator("attgan", config, init_params("attgan", config))
    conditions = jnp.asarray(generator.conditions(None))
    batch = Batch(jnp.zeros((1, 128, 128, 3)), (conditions,), jnp.ones(1, bool))
    try:
        found = ahead.compile_attack("h100", [generator], batch)
    except ahead.PluginError as error:
        pytest.skip(str(error))
    largest = max(leaf.size for leaf in jax.tree.leaves(generator.params))
    others = [one for one in hlo.loop_kernels(found["text"]) if one.kind == "other"]
    assert max(one.size for one in others) < 7 * largest  # 8: to read and write it
    assert SHARE * found["bytes"] < found["planned"]


def test_figures_of_kernels():
    times = {"first": 30.0, "attacks": 2, "runs": [0.2, 0.16, 0.18], "matmul": 4e14}
    found = times | {"graph": True}
    one = kernels.figures(found | {"kernels": KERNELS}, flops=10**11, batch=2)
    assert one["compile_seconds"] == pytest.approx(30 - 2 * 0.18)
    assert one["images_per_second_at_80_steps"] == pytest.approx(2 / 0.18)
    assert one["kernels_per_step"] == pytest.approx(880 / 81)
    assert one["convolution_flops_per_second"] == pytest.approx(2 * 81 * 1e11 / 0.1)
    assert one["convolution_share_of_matmul_peak"] == pytest.approx(0.4 * 81 / 80)
    slow = kernels.figures(found | {"kernels": KERNELS, "runs": [0.36]}, flops=10**11, batch=2)
    assert kernels.ratios({"tf32": slow, "bfloat16": one}) == [
        "bfloat16 is 2.00 times as fast as TF32"
    ]
    report = {
        "settings": {"generators": [{"name": "stargan"}], "size": 128, "batch": 2},
        "machine": {"processor": "a CPU", "python": "3.12"},
        "versions": {"ours": {"device": "a GPU", "jax": "0.11"}},
        "precisions": {"tf32": slow, "bfloat16": one},
    }
    text = kernels.text(report)
    assert "a GPU, a CPU" in text and "bfloat16 is 2.00 times" in text
    assert NO_GRAPH not in text
    lost = found | {"kernels": KERNELS[2:], "graph": False}
    report["precisions"] = {"tf32": kernels.figures(lost, flops=10**11, batch=2)}
    assert report["precisions"]["tf32"]["convolution_share_of_matmul_peak"] is None
    assert f"tf32: {NO_GRAPH}" in kernels.text(report)


def runs_of(**steps):
    """Runs whose variants took the given seconds per step in the first round."""
    forgotten = []
    fake = types.SimpleNamespace(
        options=session.Options(),
        say=lambda text: None,
        torch=lambda name, variant: forgotten.append(variant),
    )
    tried = runs.Runs(fake, ["model"])
    tried.samples = {name.replace("_", ", "): Samples(steps=[s]) for name, s in steps.items()}
    return tried, forgotten


def test_the_best_variant_is_the_fastest_that_was_not_dropped():
    tried, forgotten = runs_of(ours=9.0, eager_a=2.0, eager_b=1.0, eager_c=1.1, compile_d=3.0)
    assert tried.best("eager") == "eager, b" and tried.best("compile") == "compile, d"
    kept = tried._keep_best(list(tried.samples))
    assert kept == ["ours", "eager, b", "eager, c", "compile, d"] and forgotten == ["eager, a"]
    tried.samples["eager, a"].steps = [0.5]  # from one round only: not used for comparison
    assert tried.best("eager") == "eager, b"
    assert runs_of(ours=1.0)[0].best("eager") is None


def test_times_that_differ_are_told_of():
    row = {"seconds_per_image_iteration": {"median": 1.0, "min": 1.0, "max": 2.0}, "dropped": False}
    assert "factor of 2.0" in report.busy({"ours": row, "torch": {}})[0]
    calm = {
        "seconds_per_image_iteration": {"median": 1.2, "min": 1.0, "max": 1.2},
        "dropped": False,
    }
    assert report.busy({"ours": calm, "torch": {}}) == []
