"""What a study measures, what it takes from earlier runs, and what results tell of it."""

import dataclasses
import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from cdmaa_jax.attack.config import Config
from cdmaa_jax.evaluation import metrics, report
from cdmaa_jax.experiments import figures, methods, reproduce, runner, tables
from cdmaa_jax.experiments.columns import Column, paper_tables
from cdmaa_jax.experiments.crops import make_crops
from cdmaa_jax.experiments.methods import related_table
from cdmaa_jax.experiments.reproduce import Listener, Request
from cdmaa_jax.experiments.runner import column_folder, measure_column
from cdmaa_jax.experiments.sources import Source, find_source
from cdmaa_jax.experiments.statistics import rounded
from cdmaa_jax.images import celeba
from cdmaa_jax.images.labels import LabelTable
from cdmaa_jax.search import DECADES, Trial, WeightSearch
from tests.experiments.studies import crops_in, measured_of, study_in, two_toys
from tests.tiny import SIZE, save_photo

COLUMN = Column(Config(steps=2))


@pytest.fixture
def study(tmp_path):
    return study_in(tmp_path, batch_size=2)


def test_batches_are_as_few_as_needed_and_of_equal_size(tmp_path):
    for most, size in ((1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (9, 5)):
        study = study_in(tmp_path, 5, batch_size=most)
        assert study.batch == tables.about(study)["batch_size"] == size


def test_the_order_of_attributes_decides_a_columns_figures(study):
    crops = tuple(dataclasses.replace(crop, labels=(0, 1)) for crop in study.crops)
    folders = {
        column_folder(COLUMN, dataclasses.replace(
            study, crops=crops, labels=LabelTable(Path("a.csv"), names, {}),
        ))
        for names in (("Male", "Young"), ("Young", "Male"))
    }  # fmt: skip
    assert len(folders) == 2


def test_seconds_of_earlier_runs_count(study, monkeypatch):
    """And a change of nothing has no PSNR, which is not zero."""
    monkeypatch.setattr(metrics, "edits", lambda model, x, c: np.repeat(x[:, None], 3, axis=1))
    folder = column_folder(COLUMN, study)
    folder.mkdir(parents=True)
    (folder / runner.ABOUT).write_text('{"seconds": 1000.0}')

    def no_attack(job, images, labels, size):
        return images

    unchanged = measure_column(COLUMN, study, no_attack, lambda attacked: None)
    assert 1000 < unchanged.seconds < 1600
    assert json.loads((folder / runner.ABOUT).read_text())["seconds"] == unchanged.seconds
    assert (unchanged.psnr == np.inf).all() and (unchanged.linf == 0).all()


def test_notes_of_earlier_versions_lack_fields():
    now = report.made_with()
    old = {name: value for name, value in now.items() if name != "cores"}
    assert runner._different([None, now, old]) == ({**now, "cores": None},)
    whole = {**old, "device": "another", "cores": None}
    assert runner._different([whole, {**old, "device": "another"}]) == (whole,)


def test_the_quality_of_a_column_is_of_the_copies_that_changed(study):
    changes = {"psnr": np.array([30, 40, np.inf]), "linf": np.array([0.01, 0.05, 0.02])}
    table, few = paper_tables()["table4"], dataclasses.replace(study, crops=study.crops[:3])
    measured = {name: measured_of(column, few) for name, column in table.columns.items()}
    measured["none"] = dataclasses.replace(measured["none"], **changes)
    measured["l2"] = dataclasses.replace(measured["l2"], psnr=np.full(3, np.inf))
    quality = tables.build_table(table, measured, few)["quality"]
    assert quality["none"] == {"psnr": 35.0, "linf": 0.05}
    assert quality["l2"]["psnr"] is None


def test_intervals_of_a_table_are_of_its_seed(tmp_path):
    table = paper_tables()["table4"]

    def figures(study):
        measured = {name: measured_of(column, study, 1) for name, column in table.columns.items()}
        return tables.build_table(table, measured, study)["columns"]

    first, second = (figures(study_in(tmp_path, 30, seed=seed)) for seed in (0, 1))
    assert first["none"]["mean"]["avg_l"] == second["none"]["mean"]["avg_l"]
    assert first["none"]["mean"]["avg_l_interval"] != second["none"]["mean"]["avg_l_interval"]


def test_figures_have_six_digits():
    assert rounded(np.array([0.12345678, 1234567.8])) == [0.123457, 1234570.0]


# Results that are told of together


def results_in(study):
    lab = reproduce._Lab(Request((), study.out, study.out, study.ensemble), study, [], Listener())
    return list(lab._records())


def write(study, name):
    study.out.mkdir(exist_ok=True)
    (study.out / f"{name}.json").write_text(json.dumps(tables.about(study)))


def with_weights(study):
    first, *others = study.ensemble.metadata
    metadata = (dataclasses.replace(first, arrays_sha256="f" * 64), *others)
    return dataclasses.replace(study.ensemble, metadata=metadata)


@pytest.mark.parametrize("change", [
    lambda study: {"seed": 1},
    lambda study: {"steps": 3},
    lambda study: {"crops": study.crops[1:]},
    lambda study: {"ensemble": with_weights(study)},
], ids=["seed", "steps", "photos", "weights"])  # fmt: skip
def test_results_of_another_study_are_not_told_of(study, change):
    write(study, "table4")
    assert results_in(study) == ["table4"]
    assert results_in(dataclasses.replace(study, **change(study))) == []


def test_figure_2_is_told_of_though_it_is_of_fewer_photos(study, monkeypatch):
    monkeypatch.setattr(figures, "MOST_TRACED", 2)
    write(figures.traced(study), "figure2")
    write(study, "table4")
    assert results_in(study) == ["table4", "figure2"]
    write(study, "figure2")
    write(figures.traced(study), "table4")
    assert results_in(study) == []


# What is asked for


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The study of a request for tables that need tuning, and how its crops were asked for."""
    calls = []

    def spy(*args, **options):
        given = inspect.signature(make_crops).bind(*args, **options)
        given.apply_defaults()
        calls.append(given.arguments)
        return crops_in(tmp_path / "crops", 2, first=2 * len(calls))

    monkeypatch.setattr(reproduce, "make_crops", spy)
    request = Request(
        ("related",), tmp_path, tmp_path / "out", two_toys(), 2, batch_size=7, max_pixels=99
    )
    source = Source([tmp_path / f"{i}.png" for i in range(9)], aligned=True, labels=None)
    study, _ = reproduce._study(request, source, Listener())
    return study, calls


def test_the_batch_size_is_the_one_asked_for(asked):
    study, _ = asked
    assert study.batch_size == 7


def test_photos_to_tune_on_are_taken_as_those_to_test_on(asked):
    study, calls = asked
    assert len(study.crops) == len(study.tuning) == 2 and len(calls) == 2
    for given in calls:
        assert given["aligned"] and given["max_pixels"] == 99 and given["size"] == SIZE


@pytest.mark.parametrize("name, aligned, is_aligned", [
    ("photos", False, False), ("photos", True, True), (celeba.FOLDER, False, True),
])  # fmt: skip
def test_photos_are_aligned_if_they_are_said_to_be_or_are_celebas(
    tmp_path, name, aligned, is_aligned
):
    photo = save_photo(tmp_path / name / "a.png")
    assert find_source(photo.parent, two_toys(), aligned=aligned).aligned == is_aligned


def test_photos_of_celebas_split_are_aligned_wherever_they_lie(tmp_path):
    photo = save_photo(tmp_path / "photos" / "a.png")
    (tmp_path / "split.txt").write_text("a.png 2\n")
    assert find_source(photo.parent, two_toys(), partition=tmp_path / "split.txt").aligned


# Tuning


@pytest.fixture
def searches(monkeypatch):
    """The searches for weights: how many photos, and with which options."""
    found = []

    def search_weights(images, models, config, seed, **options):
        found.append((len(images), options["rounds"], options["grid"]))
        return WeightSearch((0.25, 0.75), 1.0, (Trial((0.25, 0.75), 1.0),))

    monkeypatch.setattr(methods, "search_weights", search_weights)
    return found


def tuned(study):
    column = related_table(study.ensemble.generators, 2).columns["line-search"]
    return methods._fit(column, study, lambda count: None)


@pytest.mark.parametrize("spare, told", [(3, "other photos"), (0, "the tested photos")])
def test_it_is_told_on_what_photos_a_method_was_tuned(study, searches, spare, told):
    tested = len(study.crops) - spare
    few = dataclasses.replace(study, crops=study.crops[:tested], tuning=study.crops[tested:])
    assert tuned(few)["tuned_on"] == told


@pytest.mark.parametrize("count, photos, rounds, grid", [
    (12, 10, 2, DECADES), (10, 10, 2, DECADES), (9, 9, 1, DECADES[2:-2]),
])  # fmt: skip
def test_weights_are_searched_on_ten_photos_at_most_in_two_rounds(
    tmp_path, searches, count, photos, rounds, grid
):
    study = study_in(tmp_path, count, batch_size=20)
    tuned(study)
    assert searches == [(photos, rounds, grid)]
