"""A study of one's own: generators, options, attacks and tables that are not the paper's."""

import ast
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from cdmaa_jax import Config, Generator, ensemble_of, experiments
from cdmaa_jax.attack import losses
from cdmaa_jax.disk import FileError
from cdmaa_jax.experiments import (
    Column,
    Study,
    Table,
    build_table,
    make_study,
    measure,
    resampling,
    summarize,
    to_markdown,
)
from cdmaa_jax.experiments.columns import ALONE, ENCODERS, SEARCHED, TOGETHER, paper_tables
from cdmaa_jax.experiments.methods import FITTINGS, Fitting, related_table
from cdmaa_jax.experiments.runner import COLUMNS, column_folder
from cdmaa_jax.experiments.sources import find_source
from cdmaa_jax.generators.ensembles import EnsembleError
from cdmaa_jax.photos import draw_picture
from tests.tiny import SIZE, save_photo

FEW = Config(steps=2)


def tint(params, x, c):
    return jnp.tanh(x * params["gain"] + c[:, None, None, :])


def generator(gain=2.0, name="tint", strength=0.5, size=SIZE):
    vectors = jnp.array([[[-strength], [strength]]])
    params = {"gain": jnp.array(gain)}
    return Generator(name, tint, params, size, ("darker", "lighter"), lambda labels: vectors)


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        save_photo(tmp_path / "in" / f"{i}.png", i)
    return tmp_path / "in"


@pytest.fixture
def study(folder, tmp_path):
    return make_study(folder, ensemble_of([generator()]), tmp_path / "out", aligned=True)


def brighter(job, images, labels, batch_size):
    assert len(images) <= batch_size and labels is None
    return images + np.float32(job.config.epsilon)


# Attacks of one's own


def test_an_attack_is_measured_under_a_name_of_its_own_and_only_once(study):
    called = []

    def attack(*what):
        called.append(what)
        return brighter(*what)

    default = measure(Column(FEW), study)
    own = measure(Column(FEW, "brighter"), study, attack)
    assert called and own.folder != default.folder
    assert own.linf == pytest.approx(6 / 127.5)
    assert (own.losses["tint"] != default.losses["tint"]).any()
    called.clear()
    assert (measure(Column(FEW, "brighter"), study, attack).losses["tint"] > 0).all()
    assert not called


@pytest.mark.parametrize("method", [TOGETHER, ALONE, ENCODERS, *FITTINGS])
def test_an_attack_is_none_of_the_known_methods(study, method):
    with pytest.raises(ValueError, match=f"not {method}, .* a changed attack needs another"):
        measure(Column(FEW, method), study, brighter)
    assert not (study.out / COLUMNS).exists()


def test_a_method_without_an_attack_is_a_known_one(study):
    with pytest.raises(ValueError, match="unknown method 'brighter'; there are together, alone"):
        measure(Column(FEW, "brighter"), study)
    assert not (study.out / COLUMNS).exists()


@pytest.mark.parametrize(
    ("attack", "what"),
    [
        (lambda job, images, *_: images * np.nan, "gives images that are not finite"),
        (lambda job, images, *_: images[:, :-1], r"gives images \[3, 15, 16, 3\], not \[3, 16,"),
        (lambda job, images, *_: images[:1], r"gives images \[1, 16, 16, 3\], not \[3, 16,"),
    ],
)
def test_an_attack_that_fails_is_no_change(study, attack, what):
    attack.__name__ = "faulty"
    with pytest.raises(ValueError, match=f"the attack faulty {what}"):
        measure(Column(FEW, "faulty"), study, attack)


def test_a_loss_of_ones_own_and_two_epsilons(study, monkeypatch):
    monkeypatch.setitem(losses.LOSSES, "own", losses.LOSSES["mse"])
    columns = {f"{e:g}": Column(Config(steps=2, loss="own", epsilon=e)) for e in (0.02, 0.05)}
    measured = {name: measure(column, study) for name, column in columns.items()}
    table = Table("own", "Own", columns, {name: name for name in columns}, "0.05")
    quality = build_table(table, measured, study)["quality"]
    assert quality["0.02"]["linf"] <= 0.02 < quality["0.05"]["linf"] <= 0.05


# Generators of one's own


def test_a_changed_generator_has_figures_of_its_own(study, folder):
    ensembles = [
        ensemble_of(each)
        for each in (
            generator(),
            [generator(gain=3.0)],
            [generator(name="other")],
            [generator(strength=0.4)],
            [generator(), generator(name="other")],
        )
    ]
    studies = [dataclasses.replace(study, ensemble=one) for one in ensembles]
    assert len({column_folder(Column(FEW), one) for one in studies}) == len(studies)
    assert column_folder(Column(FEW), studies[0]) == column_folder(Column(FEW), study)
    before, after = (measure(Column(FEW), one).losses["tint"] for one in studies[:2])
    assert (before != after).any()


def test_a_table_of_own_generators_is_json(study):
    record = table_of(study, noise=Column(FEW, "brighter"))
    read = json.loads(json.dumps(record, allow_nan=False))
    (described,) = read["ensemble"]
    assert (described["name"], described["domains"]) == ("tint", ["darker", "lighter"])
    assert read["purposes"] == {} and list(read["columns"]["noise"]) == ["tint", "mean"]


def table_of(study, name="own", default=Column(FEW), **others):  # noqa: B008 - frozen
    columns = {"default": default, **others}
    table = Table(name, "Own", columns, {name: name for name in columns}, "default")
    measured = {
        name: measure(column, study, brighter if column.method == "brighter" else None)
        for name, column in columns.items()
    }
    return build_table(table, measured, study)


def test_the_parameters_may_be_any_arrays():
    leaves = [np.float32(1), 2, jnp.ones((2, 0)), jnp.ones(3, jnp.bfloat16), np.arange(4)[::2]]
    one, other = (
        ensemble_of([dataclasses.replace(generator(), params=each)])
        for each in (leaves, [*leaves[:3], 2 * leaves[3], leaves[4]])
    )
    assert one.metadata[0].arrays_sha256 != other.metadata[0].arrays_sha256
    assert one.name == "tint"


def test_an_ensemble_needs_generators_of_different_names():
    with pytest.raises(EnsembleError, match="two generators are named tint"):
        ensemble_of([generator(), generator(gain=3.0)])
    with pytest.raises(EnsembleError, match="at least one generator"):
        ensemble_of([])


def test_the_picture_of_a_photo_has_the_generators_own_name(study):
    for name in ("function", "stargan"):
        one = dataclasses.replace(study, ensemble=ensemble_of([generator(name=name)]))
        done = measure(Column(FEW, "brighter"), one, brighter)
        report = json.loads((done.folder / "report.json").read_text())
        copy, crop = done.folder / done.files[0], one.crops[0].path
        picture = draw_picture(crop, copy, report["photos"][0], one.ensemble, 0.05)
        assert picture.startswith(b"\x89PNG")


# Tables of one's own


def test_a_threshold_of_ones_own_judges_the_same_copies(study, monkeypatch):
    at = {t: dataclasses.replace(FEW, threshold=t) for t in (0.05, 1e-6)}
    before = table_of(study, default=Column(at[0.05]))
    monkeypatch.setattr("cdmaa_jax.photos.protecting.protect", pytest.fail)
    after = table_of(study, default=Column(at[1e-6]))
    assert before["losses"] == after["losses"]
    rates = [one["columns"]["default"]["tint"]["attack_rate"] for one in (before, after)]
    assert rates == [0, 1] and "L > 1e-06" in to_markdown(after)
    with pytest.raises(ValueError, match=r"thresholds: default 0\.05, other 1e-06"):
        table_of(study, default=Column(at[0.05]), other=Column(at[1e-6]))


@pytest.mark.parametrize("change", [{"update": "apgd"}, {"method": "own"}, {"method": SEARCHED}])
def test_a_threshold_that_an_attack_may_see_is_of_its_figures(study, change):
    method = change.pop("method", TOGETHER)
    configs = [Config(steps=2, threshold=t, **change) for t in (0.05, 0.1)]
    assert len({column_folder(Column(config, method), study) for config in configs}) == 2


def test_a_table_states_the_steps_of_its_default(study):
    record = table_of(study)
    assert study.steps == 80 and record["steps"] == 2
    assert "; T = 2; 3 photos" in to_markdown(record)
    assert table_of(study, default=Column(Config(update="fgsm")))["steps"] == 1


def test_only_the_projects_own_tables_have_the_papers_figures(study):
    assert table_of(study, "table3")["paper"] is None
    table = paper_tables(2)["table3"]
    measured = {name: measure(column, study) for name, column in table.columns.items()}
    assert build_table(table, measured, study)["paper"]["columns"].keys() == table.columns.keys()


def test_a_table_names_its_columns():
    column = Column(FEW)
    with pytest.raises(ValueError, match="own has no heading for b"):
        Table("own", "Own", {"a": column, "b": column}, {"a": "A"}, "a")
    with pytest.raises(ValueError, match="own has no column c, its default"):
        Table("own", "Own", {"a": column}, {"a": "A"}, "c")


def test_a_table_shows_what_was_measured_for_it(study):
    table = Table("own", "Own", {"a": Column(FEW)}, {"a": "A"}, "a")
    other = measure(Column(Config(steps=1)), study)
    another = measure(Column(FEW), dataclasses.replace(study, crops=study.crops[::-1]))
    for measured in ({}, {"b": other}, {"a": other}, {"a": another}):
        with pytest.raises(ValueError, match="not those of this study's columns of own"):
            build_table(table, measured, study)
    alone = build_table(table, {"a": measure(Column(FEW), study)}, study)
    assert "Less the default" not in to_markdown(alone)


def test_what_is_fitted_by_an_own_entry_knows_its_tuning_photos(study, monkeypatch):
    plain = Column(FEW, "own")
    monkeypatch.setitem(FITTINGS, "own", Fitting(*[lambda *_: 1] * 5))
    assert plain.is_tuned
    other = dataclasses.replace(study, tuning=study.crops[1:])
    assert column_folder(plain, study) != column_folder(plain, other)
    assert "tuning" in build_table(*tuned_table(study), study)


def tuned_table(study):
    table = related_table(study.ensemble.generators, 2)
    table = dataclasses.replace(
        table, name="own", columns={"a": table.columns["universal"]}, headings={"a": "A"},
        default="a",
    )  # fmt: skip
    return table, {"a": measure(table.columns["a"], study)}


# Studies


def test_a_study_cannot_have_fewer_than_no_photos_to_tune_on(folder, tmp_path):
    with pytest.raises(ValueError, match="tuning must be at least 0, not -1"):
        make_study(folder, ensemble_of([generator()]), tmp_path / "out", 2, tuning=-1)


def test_a_study_is_made_of_a_folder(folder, tmp_path):
    (folder / "1.png").write_text("no photo")
    said, ensemble = [], ensemble_of(generator())
    study = make_study(
        str(folder), ensemble, str(tmp_path / "out"), 1, tuning=1, seed=4, say=said.append
    )
    assert [crop.file for crop in (*study.crops, *study.tuning)] == ["0.png", "2.png"]
    assert (len(study.tuning), study.seed, study.out) == (1, 4, tmp_path / "out")
    assert len(said) == 1 and "1.png" in said[0]
    for path in folder.iterdir():
        path.write_text("no photo")
    with pytest.raises(FileError, match="none of its photos can be used"):
        make_study(folder, ensemble, tmp_path / "out")
    assert len(find_source(str(folder), ensemble).photos) == 3


def test_a_study_without_crops_and_of_wrong_numbers(study):
    with pytest.raises(ValueError, match="a study needs at least one crop"):
        dataclasses.replace(study, crops=())
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        dataclasses.replace(study, batch_size=0)
    with pytest.raises(ValueError, match="a generator is named mean"):
        dataclasses.replace(study, ensemble=ensemble_of(generator(name="mean")))
    assert dataclasses.replace(study, out=str(study.out)) == study
    assert isinstance(study, Study)


def test_crops_of_another_size_are_refused(study):
    larger = dataclasses.replace(study, ensemble=ensemble_of(generator(size=2 * SIZE)))
    for one in (larger, dataclasses.replace(study, tuning=larger.crops, ensemble=larger.ensemble)):
        with pytest.raises(FileError, match="it is no crop of 32 x 32 pixels"):
            measure(Column(FEW), one)


# Intervals


def test_lists_are_summarized_like_arrays():
    values, draws = {"a": [[0.1, 0.0], [0.2, 0.0]]}, resampling(2)
    arrays = {"a": np.array(values["a"])}
    assert summarize(values, values, draws, 0.05) == summarize(arrays, arrays, draws, 0.05)


def test_figures_that_do_not_fit_are_refused():
    values = {"a": np.zeros((2, 3))}
    with pytest.raises(ValueError, match=r"L of a is \[2, 3\], not \[N,K\] of the 4 images drawn"):
        summarize(values, values, resampling(4), 0.05)
    with pytest.raises(ValueError, match=r"L of a is \[2\]"):
        summarize({"a": [0.1, 0.2]}, values, resampling(2), 0.05)
    for default in ({}, {"a": np.zeros((2, 1))}):
        with pytest.raises(ValueError, match="the default has no L of a of the same shape"):
            summarize(values, default, resampling(2), 0.05)
    with pytest.raises(ValueError, match="count must be at least 1"):
        resampling(0)


# The package


def test_importing_the_package_is_cheap_and_nothing_but_charts_needs_matplotlib():
    code = (
        "import sys; import cdmaa_jax.experiments as e; assert 'jax' not in sys.modules; "
        "sys.modules |= dict.fromkeys(['matplotlib', 'cv2', 'orbax']); "
        "[getattr(e, name) for name in e.__all__]; assert set(e.__all__) <= set(dir(e)); "
        "assert not hasattr(e, 'missing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_type_checkers_see_the_same_homes():
    tree = ast.parse(Path(experiments.__file__).read_text(encoding="utf-8"))
    block, *_ = (node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name: line.module for line in block.body for alias in line.names}
    homes = {name: f"{experiments.__name__}.{home}" for name, home in experiments._HOMES.items()}
    assert imported == homes and experiments.__all__ == sorted(homes)
