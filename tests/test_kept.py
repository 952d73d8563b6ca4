"""Programs that were traced before are read from disk, but only identical ones."""

import dataclasses
import functools
import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdmaa_jax import attack, kept, processor
from cdmaa_jax.attack import Config, compilation, prepare, run
from cdmaa_jax.evaluation import metrics
from cdmaa_jax.generators import registry
from cdmaa_jax.images.views import resize
from cdmaa_jax.types import Batch
from tests.attack.toys import toy
from tests.tiny import CONFIGS

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def model():
    config = CONFIGS["stargan"]
    return registry.make_generator("stargan", config, registry.init_params("stargan", config))


@pytest.fixture
def folder(tmp_path):
    with kept.programs_in(tmp_path):
        yield tmp_path


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Behaves as a new process would."""
    monkeypatch.setattr(kept, "_programs", {})
    monkeypatch.setattr(compilation, "_READY", {})


def batch_of(*models, count=2, size=16):
    images = np.random.default_rng(0).uniform(-1, 1, (count, size, size, 3)).astype(np.float32)
    conditions = tuple(jnp.asarray(model.conditions(None)) for model in models)
    return Batch(jnp.asarray(images), conditions, jnp.ones(count, bool))


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_what_a_package_that_was_changed_meanwhile_traced_is_not_kept(
    model, folder, monkeypatch, caplog
):
    """The source that is read then is not that of the modules, which were imported before."""
    monkeypatch.setattr(kept, "_read_sources", lambda: ("another source",))
    expected = metrics.edits(model, np.zeros((1, 16, 16, 3), np.float32), model.conditions(None))
    assert not list(folder.iterdir()) and "changed while it ran" in caplog.text
    monkeypatch.undo()
    found = metrics.edits(model, np.zeros((1, 16, 16, 3), np.float32), model.conditions(None))
    assert_equal(found, expected)


@pytest.mark.parametrize("sharing", [None, 2])
@pytest.mark.parametrize(
    "options", [{}, {"update": "apgd"}, {"perturbation": "universal"}], ids=str
)
def test_what_another_process_traced_is_not_traced_again(
    model, folder, monkeypatch, options, sharing
):
    run = functools.partial(attack.run, devices=sharing and jax.devices()[:sharing])
    config, batch = Config(steps=2, **options), batch_of(model)
    first = run(config, model, batch, KEY)
    monkeypatch.setattr(kept, "_trace", pytest.fail)
    for numbers in ({}, {"epsilon": 0.1}):  # numbers are arguments
        kept._programs.clear()
        again = run(dataclasses.replace(config, **numbers), model, batch, KEY)
        with kept.programs_in(None):
            assert_equal(again, run(dataclasses.replace(config, **numbers), model, batch, KEY))
        if not numbers:
            assert_equal(again, first)
    assert len([*(folder / "traced").iterdir()]) == 1


@pytest.mark.parametrize("sharing", [None, 2])
def test_what_is_prepared_is_what_is_run(model, folder, monkeypatch, sharing):
    devices = sharing and jax.devices()[:sharing]
    config, batch = Config(steps=2), batch_of(model)
    prepare(config, model, batch, KEY, devices=devices)
    assert len([*(folder / "traced").iterdir()]) == len(compilation._READY) == 1
    monkeypatch.setattr(kept, "_trace", pytest.fail)
    run(config, model, batch, KEY, devices=devices)
    assert len(compilation._READY) == 1


def test_the_devices_of_a_program_are_part_of_its_name(model, folder):
    for devices in (None, jax.devices()[:1], jax.devices()[:2], jax.devices()[1::-1]):
        run(Config(steps=2), model, batch_of(model), KEY, devices=devices)
    assert len([*(folder / "traced").iterdir()]) == 4


def test_programs_of_the_evaluation_are_kept(model, folder, monkeypatch):
    batch = batch_of(model)
    inputs = model, batch.images, batch.conditions[0]
    first = metrics.edits(*inputs)
    assert len([*(folder / "traced").iterdir()]) == 1
    monkeypatch.setattr(kept, "_trace", pytest.fail)
    kept._programs.clear()
    assert_equal(metrics.edits(*inputs), first)
    with kept.programs_in(None):
        assert_equal(metrics.edits(*inputs), first)


def test_only_what_runs_on_a_cpu_is_kept(model, folder, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    images = jnp.zeros((1, 16, 16, 3))
    assert kept.program(metrics._edits, (), (model, images, model.conditions(None)), {}) is None
    assert not [*folder.iterdir()]


def names_of(folder, model, config=Config(steps=2), batch=None, **options):  # noqa: B008
    before = set((folder / "traced").glob("*"))
    with pytest.MonkeyPatch.context() as patch:  # the name is all that matters
        patch.setattr(kept, "_trace", lambda path, *_: touch(path) or Nothing)
        patch.setattr(kept, "_read", lambda path: Nothing if path.exists() else None)
        patch.setattr(compilation, "prepare", lambda *_, **__: None)
        prepare(config, model, batch or batch_of(model), KEY, **options)
    return set((folder / "traced").glob("*")) - before


def touch(path):
    path.parent.mkdir(exist_ok=True)
    path.touch()


class Nothing:
    """Stands in for an exported program."""

    @staticmethod
    def call():
        pass


def test_whatever_a_program_depends_on_is_part_of_its_name(model, folder, monkeypatch):
    assert len(names_of(folder, model)) == 1
    assert not names_of(folder, model)
    assert not names_of(folder, model, Config(steps=2, epsilon=0.1, regularization="log"))
    weights = jax.tree.map(lambda leaf: leaf + 1, model.params)
    assert not names_of(folder, dataclasses.replace(model, params=weights))
    assert len(names_of(folder, model, Config(steps=3))) == 1
    assert len(names_of(folder, model, Config(steps=2, loss="face-weighted"))) == 1
    assert len(names_of(folder, model, batch=batch_of(model, count=3))) == 1
    assert len(names_of(folder, model, chunk=1)) == 1
    viewed = dataclasses.replace(model, view=resize(16))
    assert len(names_of(folder, viewed, batch=batch_of(model, size=20))) == 1
    wider = dataclasses.replace(CONFIGS["stargan"], width=8)
    wider = registry.make_generator("stargan", wider, registry.init_params("stargan", wider))
    assert len(names_of(folder, wider)) == 1
    with jax.default_matmul_precision("bfloat16"):
        assert len(names_of(folder, model)) == 1
    for name, value in (("JAX_SOMETHING", "1"), ("XLA_SOMETHING", "1")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert len(names_of(folder, model)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(processor, "is_x86_without_avx512", lambda: "something else")
        assert len(names_of(folder, model)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(kept, "_sources", lambda: ("other source",))
        assert len(names_of(folder, model)) == 1


def test_the_source_is_all_of_it(tmp_path, monkeypatch):
    """A changed line or a renamed file counts, and nothing else does."""
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "one.py"
    monkeypatch.setattr(kept, "_PACKAGE", tmp_path)
    found = []
    for name, text in (("one.py", "1"), ("one.py", "2"), ("two.py", "2"), ("two.py", "2")):
        file = file.rename(file.with_name(name)) if file.exists() else file
        file.write_text(text)
        (tmp_path / "notes.txt").write_text(str(len(found)))
        found.append(kept._sources.__wrapped__())
    assert len(set(found)) == 3 and found[2] == found[3]


def test_someones_own_functions_are_not_kept(folder):
    def own(params, x, c):
        return jnp.tanh(x + params["gain"])

    for changes in (
        {},
        {"apply": lambda params, x, c: x},
        {"apply": own, "params": {"gain": np.ones((1, 1, 1, 1), np.float32)}},
    ):
        model = toy(size=16, **changes)
        run(Config(steps=1), model, batch_of(model), KEY)
    assert not [*folder.iterdir()]


@pytest.mark.parametrize(
    "value",
    [
        lambda: 0, object(), test_someones_own_functions_are_not_kept, run.__call__, {1, 2},
        np.zeros(1), np.float32(0.05),
    ],
)  # fmt: skip
def test_what_has_no_name(value):
    """An array has one only as an argument, where its values do not matter."""
    with pytest.raises(kept._HasNoName):
        kept._describe(("all of", [value]))


def test_a_damaged_file_is_replaced(model, folder, caplog):
    config, batch = Config(steps=2), batch_of(model)
    first = run(config, model, batch, KEY)
    (file,) = (folder / "traced").iterdir()
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for damaged in (b"", b"no program at all", whole[:middle], flipped):
        file.write_bytes(damaged)
        kept._programs.clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING, "cdmaa_jax"):
            assert_equal(run(config, model, batch, KEY), first)
        (told,) = caplog.records
        assert str(file) in told.getMessage() and "\n" not in told.getMessage()
        assert len(file.read_bytes()) == len(whole)
    assert [*(folder / "traced").iterdir()] == [file]


def test_where_nothing_can_be_written_it_runs_all_the_same(model, tmp_path, caplog):
    (tmp_path / "traced").write_text("in the way")
    config, batch = Config(steps=2), batch_of(model)
    with caplog.at_level(logging.WARNING, "cdmaa_jax"), kept.programs_in(tmp_path):
        found = run(config, model, batch, KEY)
        run(Config(steps=3), model, batch, KEY)
    (told,) = caplog.records  # once, although there are two programs
    assert told.getMessage().startswith(f"traced programs are not kept in {tmp_path / 'traced'}: ")
    assert_equal(found, run(config, model, batch, KEY))


PROCESS = """
from cdmaa_jax import kept
from cdmaa_jax.attack import Config
from cdmaa_jax.generators import registry
from tests.tiny import CONFIGS
config = CONFIGS["stargan"]
model = registry.make_generator("stargan", config, registry.init_params("stargan", config))
print(kept._describe([Config(), model], arrays=True))
"""


def test_descriptions_are_the_same_in_another_process(model):
    process = subprocess.run(
        [sys.executable, "-c", PROCESS], check=True, capture_output=True, text=True
    )
    assert process.stdout.strip() == kept._describe([Config(), model], arrays=True)
