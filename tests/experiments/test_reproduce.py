"""Tables from photos, on disk, with a tiny ensemble and two steps."""

import dataclasses
import errno
import json
import threading
from collections import Counter
from functools import partial

import numpy as np
import pytest
from PIL import Image

from cdmaa_jax import disk, photos
from cdmaa_jax.attack import apart, compilation
from cdmaa_jax.attack.config import Config
from cdmaa_jax.disk import FileError
from cdmaa_jax.evaluation import metrics, report
from cdmaa_jax.experiments import crops as cropping
from cdmaa_jax.experiments import figures, methods, paper
from cdmaa_jax.experiments.claims import Claim, caveat
from cdmaa_jax.experiments.columns import SEARCHED, Column, options, paper_tables
from cdmaa_jax.experiments.crops import crop_labels, make_crops
from cdmaa_jax.experiments.gradients import Trace
from cdmaa_jax.experiments.methods import (
    FITTINGS,
    PERTURBATION,
    attacked,
    crop_images,
    measure,
    related_table,
    works_of,
)
from cdmaa_jax.experiments.records import read_record
from cdmaa_jax.experiments.reproduce import (
    SAME_STUDY,
    WHAT,
    Listener,
    Request,
    _check,
    _Lab,
    _study,
    reproduce,
)
from cdmaa_jax.experiments.runner import (
    FEW_STEPS,
    Study,
    column_folder,
    count_done,
)
from cdmaa_jax.experiments.sources import find_source
from cdmaa_jax.experiments.tables import _tuning, about, markdown_table, stated_purposes
from cdmaa_jax.generators.ensembles import load_ensemble
from cdmaa_jax.images import celeba
from cdmaa_jax.images.files import read_photo
from cdmaa_jax.images.labels import LabelTable, read_labels
from cdmaa_jax.photos import protecting
from cdmaa_jax.photos.workers import Workers
from cdmaa_jax.search import Trial, WeightSearch
from cdmaa_jax.universal import Universal
from tests.formats import described
from tests.tiny import SIZE, save_photo


@pytest.fixture
def folder(tmp_path):
    """Five photos without a face."""
    for i in range(5):
        save_photo(tmp_path / "in" / f"{i}.png", i)
    return tmp_path / "in"


@pytest.fixture
def study(ensemble, folder, tmp_path):
    crops = make_crops(sorted(folder.iterdir()), 5, tmp_path / "crops", SIZE, aligned=True)
    return Study(ensemble, tuple(crops), tmp_path / "out", batch_size=2)


def test_few_steps_of_few_photos_are_brief(study):
    assert dataclasses.replace(study, steps=39).is_brief  # with five photos
    assert not dataclasses.replace(study, steps=40).is_brief


def test_a_program_that_many_columns_share_is_compiled_well(study):
    """Although each column is brief, what counts is how much one program computes."""
    study = dataclasses.replace(study, crops=study.crops[:1], tuning=study.crops[:1])
    by_table = {name: table.columns for name, table in paper_tables(50).items()}
    by_table["related"] = related_table(study.ensemble.generators, 50).columns
    columns = dict.fromkeys(c for table in by_table.values() for c in table.values())
    steps = Counter()
    for column in columns:
        steps[methods.program_of(column, study)] += methods.photo_steps(column, study)
    default = methods.program_of(by_table["table3"]["mgda"], study)
    for name in ("table1", "table3", "table4"):
        assert {methods.program_of(c, study) for c in by_table[name].values()} == {default}
    # Ten of the paper's columns and one with more steps, two models alone, all models joined, with
    # pixel weights, two perturbations for all, and the trials of the search with their outcome.
    trials = 1 + (len(study.ensemble.generators) - 1) * 3
    assert steps[default] == 50 * (10 + 2 + 1 + 1 + 2 + trials + 1) + 63 > FEW_STEPS
    single, iterative, mgda = (
        methods.program_of(by_table["table2"][n], study) for n in ("single", "iterative", "mgda")
    )
    assert single == iterative != default
    assert steps[mgda] == 50 < FEW_STEPS


def test_of_many_steps_whole_attacks_are_compiled(study):
    """Then columns share a program only if they differ in nothing but numbers."""
    assert not study.is_brief
    first, *others = (
        methods.program_of(c, study) for c in paper_tables()["table1"].columns.values()
    )
    assert [other == first for other in others] == [False, True, True, False]


def test_only_brief_studies_prepare_programs_beside_their_work(
    ensemble, folder, tmp_path, monkeypatch
):
    prepared, first = [], threading.Event()

    def prepare(column, study):
        prepared.append(column)
        first.set()

    def wait(name):
        assert first.wait(30)

    monkeypatch.setattr(methods, "prepare", prepare)
    run(request_of(folder, ensemble, tmp_path / "out", images=2), Listener(begin=wait))
    # In order, and possibly not all, if the work was done sooner.
    columns = list(paper_tables(2)["table3"].columns.values())
    assert prepared == columns[: len(prepared)] != []
    prepared.clear()
    monkeypatch.setattr("cdmaa_jax.experiments.runner.FEW_STEPS", 1)
    with pytest.raises(KeyboardInterrupt):  # as the work begins, after the work beside it
        run(request_of(folder, ensemble, tmp_path / "other", images=2), Listener(begin=interrupt))
    assert not prepared


def interrupt(name):
    raise KeyboardInterrupt


def test_what_is_prepared_is_what_measuring_runs(study, monkeypatch):
    """For every column, including single models and fitted columns, and for the gradient trace."""
    study = dataclasses.replace(study, tuning=study.crops[:2])
    columns = list(related_table(study.ensemble.generators, 3).columns.values())
    default = Column(Config(steps=3))
    before = len(compilation._READY)
    with apart():  # as for all brief studies
        for column in columns:
            methods.prepare(column, study)
        figures.prepare_figure2(default, study)
        prepared = len(compilation._READY)
        assert prepared > before
        for column in columns:
            measure(column, study)
        figures.measure_figure2(default, study, lambda count: None)
    assert len(compilation._READY) == prepared
    for module, name in (
        (methods.protection, "prepare"),
        (methods, "prepare_universal"),
        (figures, "prepare_trace"),
    ):
        monkeypatch.setattr(module, name, pytest.fail)
    for column in columns:
        methods.prepare(column, study)  # everything is ready: nothing to compile
    figures.prepare_figure2(default, study)


def request_of(folder, ensemble, out, *what, **options):
    options = {"steps": 2, "batch_size": 2} | options  # a single batch shape, compiled once
    return Request(what or ("table3",), folder, out, ensemble, **options)


def run(request, listener=None):
    return dict(reproduce(request, listener or Listener()))


def read(out, name):
    return json.loads((out / f"{name}.json").read_text())


def without_times(record):
    return {key: value for key, value in record.items() if key != "seconds"}


# What is measured


def test_the_columns_are_those_of_the_paper():
    tables = paper_tables()
    assert {name: list(table.columns) for name, table in tables.items()} == {
        name: list(columns) for name, columns in paper.TABLES.items()
    }
    for table in tables.values():
        assert table.columns[table.default] == Column(Config())
        assert set(table.headings) == set(table.columns)
    columns = {column for table in tables.values() for column in table.columns.values()}
    assert len(columns) == 5 + 3 + 3 + 3  # the default, which they all share, counts once
    assert options(tables["table1"].columns["more-steps"].config) == {"steps": 100}


def test_the_default_is_measured_once_and_shown_in_every_table(ensemble, folder, tmp_path):
    begun = []
    listener = Listener(begin=begun.append)
    run(request_of(folder, ensemble, tmp_path / "out", "table3", "table4", images=2), listener)
    assert len(begun) == len(set(begun)) == 7
    third, fourth = read(tmp_path / "out", "table3"), read(tmp_path / "out", "table4")
    assert third["columns"]["mgda"] == fourth["columns"]["penalty"]


def test_a_table_has_what_reproduces_it(ensemble, folder, tmp_path):
    out = tmp_path / "out"
    written = run(request_of(folder, ensemble, out, seed=3))
    record = read(out, "table3")
    assert list(record["columns"]) == ["single", "iterative", "uniform", "mgda"]
    for column in record["columns"].values():
        assert list(column) == ["stargan", "ugatit", "mean"]
        for rates in (*column.values(), *(one["difference"] for one in column.values())):
            low, high = rates["interval"]
            assert low <= rates["attack_rate"] <= high
            low, high = rates["avg_l_interval"]
            assert low <= rates["avg_l"] <= high
    assert record["configuration"]["uniform"]["across_models"] == "uniform"
    assert record["configuration"]["mgda"]["steps"] == 2 and record["seed"] == 3
    assert [image["file"] for image in record["images"]] == [f"{i}.png" for i in range(5)]
    assert record["images"][0]["sha256"] == read_photo(folder / "0.png").sha256
    assert [model["name"] for model in record["ensemble"]] == ["stargan", "ugatit"]
    assert {"jax", "python"} <= set(record["versions"])
    assert all(seconds > 0 for seconds in record["seconds"].values())
    text = written[out / "table3.md"]
    assert text == (out / "table3.md").read_text() and paper.SOURCE in text
    with Image.open(out / "table3.png") as chart:
        assert chart.size[0] > 500


def test_columns_of_other_versions_are_told_of(ensemble, folder, tmp_path, monkeypatch):
    request, now = request_of(folder, ensemble, tmp_path / "out", "table4", images=2), []
    versions = report.versions

    def stop(name):
        if len(now) == 1:
            raise KeyboardInterrupt
        now.append(name)

    monkeypatch.setattr(report, "versions", lambda: {"jax": "0.1"})
    with pytest.raises(KeyboardInterrupt):
        run(request, Listener(begin=stop))
    monkeypatch.setattr(report, "versions", versions)
    run(request)
    record = read(request.out, "table4")
    (column,) = record["made_with"]
    (told,) = record["made_with"][column]
    assert told == {**report.made_with(), "versions": {"jax": "0.1"}}
    heading = record["headings"][column]
    line = (
        "Measured in part with other versions, in another precision, or on another device or "
        "number of cores: "
        f"{heading}."
    )
    assert line in (request.out / "table4.md").read_text()


def test_a_trace_of_other_versions_is_told_of_and_results_that_are_of_them(
    ensemble, folder, tmp_path, monkeypatch
):
    request, versions = request_of(folder, ensemble, tmp_path, "figure2", images=2), report.versions
    monkeypatch.setattr(report, "versions", lambda: {"jax": "0.1"})
    run(request)
    then = {**report.made_with(), "versions": {"jax": "0.1"}}
    assert read(tmp_path, "figure2")["made_with"] is None
    monkeypatch.setattr(report, "versions", versions)
    run(dataclasses.replace(request, what=("table4",)))
    told = read(tmp_path, "results")["made_with"]
    assert told == {"figure2": {**then, "made_with": None}}
    line = "Results of another version, precision, device or number of cores: figure2."
    assert line in (tmp_path / "results.md").read_text()
    run(request)  # from the trace
    assert read(tmp_path, "figure2")["made_with"] == then
    assert figures.ELSEWHERE in (tmp_path / "figure2.md").read_text()
    assert read(tmp_path, "results")["made_with"]["figure2"]["made_with"] == then


def test_a_result_whose_text_is_gone_is_judged_all_the_same(ensemble, folder, tmp_path):
    run(request_of(folder, ensemble, tmp_path, "table4", images=2))
    (tmp_path / "table4.md").unlink()
    run(request_of(folder, ensemble, tmp_path, "figure4", images=2))
    assert read(tmp_path, "results")["results"] == ["table4", "figure4"]


def test_the_papers_figures_stand_in_columns_of_their_own(ensemble, folder, tmp_path):
    run(request_of(folder, ensemble, tmp_path / "out", images=2))
    record = read(tmp_path / "out", "table3")
    assert record["paper"]["columns"]["mgda"]["stgan"] == {"avg_l": 0.068, "attack_rate": 0.572}
    assert record["paper"]["source"] == paper.SOURCE
    text = (tmp_path / "out" / "table3.md").read_text()
    assert f"; T = {record['steps']}; 2 photos" in text and f"{paper.SOURCE}, of T = 80." in text
    assert "Tuned on" not in text and "Pairs in which the edit changes little count." in text
    table = (tmp_path / "out" / "table3.md").read_text().split("\n| ")
    assert table[1].split(" | ")[1:5] == ["single gradient", "paper", "iterative gradient", "paper"]


def test_the_purpose_that_generators_state_is_with_their_figures(ensemble, folder, tmp_path):
    """In the text of each result, but not among what decides its figures: none is made again."""
    what, works = ("table4", "figure2", "figure4", "figure7"), []
    without = run(request_of(folder, ensemble, tmp_path / "out", *what, images=2))
    stated = [dataclasses.replace(m, extra={"purpose": "a\ntest"}) for m in ensemble.metadata]
    request = request_of(
        folder, with_metadata(ensemble, *stated), tmp_path / "out", *what, images=2
    )
    found = run(request, Listener(plan=works.extend))
    assert works and all(work.done == work.total for work in works)
    for path, text in found.items():
        plain = text.replace(" Generators: a test.", "").replace("Generators: a test.\n\n", "")
        assert plain == without[path] != text
    purposes = {"stargan": "a test", "ugatit": "a test"}
    assert read(tmp_path / "out", "table4")["purposes"] == purposes


def with_metadata(ensemble, *metadata):
    return dataclasses.replace(ensemble, metadata=metadata)


def test_a_purpose_that_not_all_generators_state_is_said_of_those_that_do(study):
    first, *others = study.ensemble.metadata
    first = dataclasses.replace(first, extra={"purpose": "demonstration weights"})
    mixed = dataclasses.replace(study, ensemble=with_metadata(study.ensemble, first, *others))
    assert stated_purposes(about(mixed)) == " Generators: demonstration weights (stargan)."


def test_the_bundled_generators_state_that_they_are_for_demonstration(study):
    bundled = about(dataclasses.replace(study, ensemble=load_ensemble("demo")))
    assert stated_purposes(bundled) == " Generators: demonstration weights."


def test_the_figures_are_those_of_the_saved_files(study):
    """And no channel of a file differs from the crop by more than epsilon."""
    column = Column(Config(steps=2))
    measured = measure(column, study)
    for i, (crop, name) in enumerate(zip(study.crops, measured.files, strict=True)):
        before, after = read_photo(crop.path).pixels, read_photo(measured.folder / name).pixels
        change = np.abs(before.astype(int) - after).max()
        assert 0 < change <= 0.05 * 127.5
        assert measured.linf[i] == pytest.approx(change / 127.5)
        for generator in study.ensemble.generators:
            edits = [
                metrics.edits(generator, to_unit(pixels)[None], generator.conditions(None))
                for pixels in (before, after)
            ]
            expected = metrics.losses(*edits)[0]
            np.testing.assert_allclose(measured.losses[generator.name][i], expected, rtol=1e-4)


def to_unit(pixels):
    return (pixels / np.float32(127.5) - np.float32(1)).astype(np.float32)


# Stopping, starting again, changes


class Stop(Exception):
    """Stands in for the end of the process."""


def test_what_was_stopped_goes_on_where_it_was_and_gives_the_same_files(study, monkeypatch):
    column = Column(Config(steps=2))
    whole = measure(column, dataclasses.replace(study, out=study.out.parent / "whole"))

    def stop_in_the_second_batch(count, seen=[]):  # noqa: B006
        seen.append(count)
        if len(seen) == 3:
            raise Stop

    with pytest.raises(Stop):
        measure(column, study, progress=stop_in_the_second_batch)
    kept = json.loads((column_folder(column, study) / photos.REPORT).read_text())["photos"]
    assert 0 < len(kept) < 5

    sizes = []
    protect = protecting.protect
    monkeypatch.setattr(
        protecting,
        "protect",
        lambda images, *a, **k: sizes.append(len(images)) or protect(images, *a, **k),
    )
    resumed = measure(column, study)
    assert sum(sizes) == 5 - len(kept)
    for name in whole.losses:
        assert (whole.losses[name] == resumed.losses[name]).all()
    for name in whole.files:
        assert (whole.folder / name).read_bytes() == (resumed.folder / name).read_bytes()
    sizes.clear()
    assert measure(column, study).losses["ugatit"].tolist() == whole.losses["ugatit"].tolist()
    assert not sizes


def test_what_killed_runs_left_is_removed(ensemble, folder, tmp_path):
    places = [tmp_path / "out" / part for part in (".", "crops", "columns/of-another-study")]
    for place in places:
        place.mkdir(parents=True)
        (place / ".a-0123456789abcdef.part").write_bytes(b"")
    with pytest.raises(KeyboardInterrupt):
        run(request_of(folder, ensemble, tmp_path / "out", images=1), Listener(begin=interrupt))
    assert not [path for place in places for path in place.glob(".a-*")]


def test_the_same_seed_gives_the_same_figures_and_another_seed_others(ensemble, folder, tmp_path):
    first, second, other = (
        read_after(request_of(folder, ensemble, tmp_path / name, seed=seed, images=2))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert without_times(first) == without_times(second)
    assert first["columns"] != other["columns"]


def read_after(request):
    run(request)
    return read(request.out, "table3")


def test_whatever_decides_the_figures_has_a_folder_of_its_own(study, folder, tmp_path):
    column = Column(Config(steps=2))
    same = dataclasses.replace(study, batch_size=1, out=study.out)
    assert column_folder(column, same) == column_folder(column, study)
    fewer = dataclasses.replace(study, crops=study.crops[:4])
    save_photo(folder / "0.png", 99)
    changed = make_crops(sorted(folder.iterdir()), 5, tmp_path / "crops", SIZE, aligned=True)
    generators = study.ensemble.metadata
    weights = (dataclasses.replace(generators[0], arrays_sha256="0" * 64), *generators[1:])
    network = dataclasses.replace(generators[0].config, blocks=generators[0].config.blocks + 1)
    option = (dataclasses.replace(generators[0], config=network), *generators[1:])
    others = {
        column_folder(column, study),
        column_folder(Column(Config(steps=3)), study),
        column_folder(Column(Config(steps=2), "alone", "ugatit"), study),
        column_folder(column, fewer),
        column_folder(column, dataclasses.replace(study, seed=1)),
        column_folder(column, dataclasses.replace(study, crops=tuple(changed))),
        column_folder(
            column,
            dataclasses.replace(
                study, ensemble=dataclasses.replace(study.ensemble, metadata=weights)
            ),
        ),
        column_folder(
            column,
            dataclasses.replace(
                study, ensemble=dataclasses.replace(study.ensemble, metadata=option)
            ),
        ),
    }
    assert len(others) == 8


@pytest.mark.parametrize("name", ["/../../evil", "..", r"a\b", "a/" * 200])
def test_a_generator_of_any_name_has_its_folder_among_the_columns(study, name):
    found = column_folder(Column(Config(steps=2), "alone", name), study)
    assert found.resolve().parent == (study.out / "columns").resolve()
    assert "\\" not in found.name and not disk.is_too_long(found.name)


def test_a_bar_in_a_name_ends_no_cell():
    assert markdown_table([["model"], ["a|b"]]) == ["| model |", "|---|", r"| a\|b |"]


def test_a_photo_that_changed_is_noticed(ensemble, folder, tmp_path):
    request = request_of(folder, ensemble, tmp_path / "out", images=2)
    before = read_after(request)
    save_photo(folder / "1.png", 99)
    after = read_after(request)
    assert before["images"][0] == after["images"][0]
    assert before["images"][1]["sha256"] != after["images"][1]["sha256"]
    assert before["columns"] != after["columns"]


# Photos


def test_bad_photos_are_said_and_others_take_their_place(ensemble, folder, tmp_path):
    (folder / "1.png").write_text("no photo")
    errors = []
    request = request_of(folder, ensemble, tmp_path / "out", images=4)
    run(request, Listener(photo=lambda error: errors.append(error)))
    record = read(tmp_path / "out", "table3")
    assert [image["file"] for image in record["images"]] == ["0.png", "2.png", "3.png", "4.png"]
    (error,) = filter(None, errors)
    assert error.path.name == "1.png" and record["skipped"] == [error.without_folder]


def test_without_a_usable_photo_there_is_one_error(ensemble, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_text("no photo")
    with pytest.raises(FileError, match="none of its photos"):
        run(request_of(tmp_path / "in", ensemble, tmp_path / "out"))


def test_a_photo_counts_once_however_many_files_it_is(folder, tmp_path):
    (folder / "00.png").write_bytes((folder / "0.png").read_bytes())
    crops = make_crops(sorted(folder.iterdir()), 3, tmp_path / "crops", SIZE, aligned=True)
    assert [crop.file for crop in crops] == ["0.png", "1.png", "2.png"]


def test_photos_with_too_many_pixels_are_refused(ensemble, folder, tmp_path):
    request = request_of(folder, ensemble, tmp_path / "out", images=1, max_pixels=40 * 48 - 1)
    errors = []
    with pytest.raises(FileError, match="none of its photos"):
        run(request, Listener(photo=errors.append))
    assert len(errors) == 5 and all("--max-pixels" in str(error) for error in errors)


def test_crops_are_made_once(folder, tmp_path, monkeypatch):
    paths = sorted(folder.iterdir())
    first = make_crops(paths[:3], 3, tmp_path / "crops", SIZE)
    monkeypatch.setattr("cdmaa_jax.experiments.crops.look", lambda *_: pytest.fail("looked again"))
    assert make_crops(paths, 3, tmp_path / "crops", SIZE) == first
    first[0].path.write_bytes(b"damaged")
    monkeypatch.undo()
    assert make_crops(paths, 3, tmp_path / "crops", SIZE) == first
    with Image.open(first[0].path) as crop:
        assert crop.size == (SIZE, SIZE)
    assert make_crops(paths, 3, tmp_path / "crops", SIZE + 1) != first


def test_crops_are_made_at_once_in_order_and_no_more_than_wanted(folder, tmp_path, monkeypatch):
    """Of five photos, one of them bad, three are wanted; two are cropped at a time."""
    (folder / "1.png").write_bytes(b"no picture")
    two, crop, told, cropped = threading.Barrier(2, timeout=60), cropping._crop, [], []

    def crop_together(photo, *rest):
        cropped.append(photo.name)
        if len(cropped) <= 2:
            two.wait()
        return crop(photo, *rest)

    monkeypatch.setattr(cropping, "_crop", crop_together)
    monkeypatch.setattr(cropping, "Workers", partial(Workers, threads=2))
    found = make_crops(sorted(folder.iterdir()), 3, tmp_path / "crops", SIZE, made=told.append)
    assert [crop.file for crop in found] == ["0.png", "2.png", "3.png"]
    assert [error and error.path.name for error in told] == [None, "1.png", None, None]
    assert sorted(cropped) == ["0.png", "1.png", "2.png", "3.png"]
    assert len(list((tmp_path / "crops").glob("*.png"))) == 3


def test_crops_have_their_labels_whatever_the_form_of_their_accents(tmp_path):
    """The photo's name is decomposed, the table's name composed."""
    photo = save_photo(tmp_path / "in" / "Jose\u0301.png")
    (tmp_path / "labels.csv").write_text("file,Male\nJos\u00e9.png,1\n", encoding="utf-8")
    table = read_labels(tmp_path / "labels.csv")
    crops = make_crops([photo], 1, tmp_path / "crops", SIZE, aligned=True, labels=table)
    assert crop_labels(crops, table).row(crops[0].path) == (1,)


# CelebA


@pytest.fixture
def celeba_folder(tmp_path):
    """Six photos in CelebA's format, the even ones in the test split, and one that is missing."""
    root = tmp_path / "celeba"
    names = [f"{i:06}.jpg" for i in range(1, 8)]
    for i, name in enumerate(names[:6]):
        save_photo(root / celeba.FOLDER / name, i, height=218, width=178)
    values = [("-1", " 1")[i % 2] for i in range(7)]
    rows = "".join(f"{name} {v} {v}\n" for name, v in zip(names, values, strict=True))
    (root / celeba.ATTRIBUTES).write_text(f"7\nMale Young\n{rows}")
    splits = "".join(f"{name} {(0, 2)[i % 2]}\n" for i, name in enumerate(names[:6]))
    (root / celeba.PARTITION).write_text(f"{splits}{names[6]} 2\n")
    return root / celeba.FOLDER


def test_celeba_as_it_is_distributed(celeba_folder, ensemble):
    source = find_source(celeba_folder, ensemble)
    assert [photo.name for photo in source.photos] == ["000002.jpg", "000004.jpg", "000006.jpg"]
    assert source.aligned and source.labels.row(source.photos[0]) == (1, 1)
    assert any("000007.jpg" in notice for notice in source.notices)
    assert any("labels are those" in notice for notice in source.notices)


def test_the_crops_of_celeba_are_the_middle_of_its_photos(celeba_folder, tmp_path):
    (crop,) = make_crops(sorted(celeba_folder.iterdir()), 1, tmp_path / "crops", 178, aligned=True)
    middle = read_photo(celeba_folder / "000001.jpg").pixels[20:198]
    assert (read_photo(crop.path).pixels == middle).all() and crop.face is None


def test_a_table_of_celeba(celeba_folder, ensemble, tmp_path):
    run(request_of(celeba_folder, ensemble, tmp_path / "out", images=2))
    record = read(tmp_path / "out", "table3")
    assert [image["file"] for image in record["images"]] == ["000002.jpg", "000004.jpg"]
    assert record["labelled"]


def test_labels_that_do_not_fit_are_left_out_unless_asked_for(celeba_folder, ensemble):
    path = celeba_folder.parent / celeba.ATTRIBUTES
    path.write_text("1\nSmiling\n000001.jpg 1\n")
    source = find_source(celeba_folder, ensemble)
    assert source.labels is None
    assert any("without labels" in notice for notice in source.notices)
    with pytest.raises(FileError, match="leave out --attributes"):
        find_source(celeba_folder, ensemble, attributes=path)


def test_a_split_of_other_photos_is_one_error(ensemble, folder, tmp_path):
    path = tmp_path / celeba.PARTITION
    path.write_text("000001.jpg 2\n")
    with pytest.raises(FileError, match="none of its photos is in the test split"):
        find_source(folder, ensemble, partition=path)


def test_lists_of_other_photos_that_lie_near_are_passed_over(ensemble, folder):
    (folder.parent / celeba.PARTITION).write_text("000001.jpg 2\n")
    (folder.parent / celeba.ATTRIBUTES).write_text("1\nMale Young\n000001.jpg 1 -1\n")
    source = find_source(folder, ensemble)
    assert len(source.photos) == 5 and source.labels is None and not source.aligned
    assert sum("has none of the photos" in notice for notice in source.notices) == 2


def test_a_photo_that_cannot_be_used_is_told_of_once(ensemble, folder, tmp_path):
    """Not again when tuning photos are looked for."""
    (folder / "0.png").write_text("no picture")
    errors = []
    source = find_source(folder, ensemble)
    listener = Listener(photo=lambda error: error and errors.append(error))
    _study(request_of(folder, ensemble, tmp_path / "out", "related", images=2), source, listener)
    assert [error.path.name for error in errors] == ["0.png"]


def test_results_are_not_written_among_the_photos(ensemble, folder, tmp_path):
    with pytest.raises(FileError, match="would be mixed; choose another --out"):
        run(request_of(folder, ensemble, folder, images=2))
    request = request_of(folder, ensemble, tmp_path / "out", "related", images=2)
    with pytest.raises(FileError, match="would be mixed"):
        run(dataclasses.replace(request, tune_photos=tmp_path / "out"))
    assert len(list(folder.iterdir())) == 5


@pytest.mark.parametrize(
    "name", ["table3.png", "results.md", "figure6-outputs.png", "results.json", "table3.json"]
)
def test_files_of_others_are_not_replaced(ensemble, folder, tmp_path, name):
    request = request_of(folder, ensemble, tmp_path / "out", "table3", "figure6", images=2)
    request.out.mkdir()
    (request.out / name).write_text('{"claims": []}')
    with pytest.raises(FileError, match=f"{name}: it exists and is no result of this program"):
        run(request)
    assert [path.name for path in request.out.iterdir()] == [name]


def test_results_of_earlier_versions_are(ensemble, folder, tmp_path):
    """Their claims had no format."""
    request = request_of(folder, ensemble, tmp_path, images=2)
    for name, record in (
        ("results", {"claims": [], "results": [], "ensemble": []}),
        ("table3", {"format": "cdmaa-jax table"}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
        (tmp_path / f"{name}.md").write_text("")
    (tmp_path / "table3.png").write_bytes(b"")
    (tmp_path / "figure6.png").write_bytes(b"of the user, and not replaced by this request")
    _check(request)


@pytest.mark.parametrize("text", ["", "[]", 200_000 * "["])
def test_a_damaged_record_is_none(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert read_record(tmp_path / "a.json") == {}


@pytest.mark.parametrize("damage", ["copy", "no report", "bad report"])
def test_what_was_damaged_in_a_columns_folder_is_made_again(study, damage):
    column = Column(Config(steps=2))
    whole = measure(column, study)
    report_path = whole.folder / photos.REPORT
    if damage == "copy":
        with open(whole.folder / whole.files[0], "ab") as file:
            file.write(b"1")
    elif damage == "no report":
        report_path.unlink()
    else:
        report_path.write_text("{")
    again = measure(column, study)
    for name, losses in whole.losses.items():
        np.testing.assert_array_equal(again.losses[name], losses)


def test_a_full_disk_is_one_error(study, monkeypatch):
    def full(*_):
        error = FileError(study.out, "the disk is full", "free some space and run again")
        error.__cause__ = OSError(errno.ENOSPC, "")
        raise error

    monkeypatch.setattr(disk, "stage", full)
    with pytest.raises(FileError, match="the disk is full; free some space"):
        measure(Column(Config(steps=2)), study)


# Figures and related methods


def test_everything_from_a_few_photos(ensemble, folder, tmp_path):
    """All results, with two tested photos and the others for tuning; a rerun does no work."""
    request = request_of(folder, ensemble, tmp_path / "out", *WHAT, images=2)
    begun, again = [], []
    written = run(request, Listener(begin=begun.append))
    assert [path.stem for path in written] == [*WHAT, "results"]
    for name in WHAT:
        assert (tmp_path / "out" / f"{name}.json").exists()
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert min(picture.size) > 100
        _, caption = (tmp_path / "out" / f"{name}.md").read_text().split(f"]({name}.png)\n\n")
        assert caption.startswith(CAPTIONS.get(name, "Above: attack_rate, the share of edits with"))
    assert len(begun) == len(set(begun))
    record = read(tmp_path / "out", "related")
    assert {"cdmaa", "alone-stargan", "alone-ugatit", "line-search", "universal", "latent"} <= set(
        record["columns"]
    )
    assert record["facts"]["line-search"]["tuned_on"] == "other photos"
    weights, options = (record[name]["line-search"] for name in ("facts", "configuration"))
    assert options["model_weights"] == list(weights["weights"].values())
    assert sum(options["model_weights"]) == pytest.approx(1)
    assert options["across_models"] == "weighted" and options["regularization"] == "none"
    results = read(tmp_path / "out", "results")
    assert results["results"] == list(WHAT) and len(results["claims"]) > 30
    found = [Claim(**claim) for claim in results["claims"]]
    assert caveat(found) in (tmp_path / "out" / "results.md").read_text()
    works = []
    rerun = dict(reproduce(request, Listener(plan=works.extend, progress=again.append)))
    assert rerun == written
    assert all(work.done == work.total for work in works)
    assert sum(again) == sum(work.total for work in works)


def test_fields_of_results_are_described(ensemble, folder, tmp_path):
    run(request_of(folder, ensemble, tmp_path / "out", "related", "figure2", "figure4", images=1))
    for name in ("related", "figure2", "figure4", "results"):
        assert read(tmp_path / "out", name).keys() <= described()
    for path in (tmp_path / "out").glob("columns/*/column.json"):
        about = json.loads(path.read_text())
        assert {*about, *about["identity"], *about.get("facts", ())} <= described()


CAPTIONS = {
    "figure2": "Means over photos at each step:",
    "figure4": "The first 2 photos, each above its protected copy (T = 2, ε = 0.05).",
}


def test_the_sheets_of_the_ablations(ensemble, folder, tmp_path):
    run(request_of(folder, ensemble, tmp_path / "out", "figure6", images=2))
    text = (tmp_path / "out" / "figure6.md").read_text()
    assert "intervals over 2 photos." in text.split("](figure6.png)")[1]
    assert "“intact”, in red: L ≤ 0.05, not spoiled." in text.split("](figure6-outputs.png)")[1]
    record = read(tmp_path / "out", "figure6")
    assert record["figure"] == "figure6" and "Figure 6" in record["title"]
    with Image.open(tmp_path / "out" / "figure6-outputs.png") as sheet:
        assert sheet.size[1] > 5 * 96  # the original and four columns


def test_results_of_other_photos_are_not_told_of(ensemble, folder, tmp_path):
    said = []
    listener = dataclasses.replace(Listener(), say=said.append)
    run(request_of(folder, ensemble, tmp_path / "out", "table3", images=2), listener)
    assert not any("leaves out" in line for line in said)
    run(request_of(folder, ensemble, tmp_path / "out", "table4", images=3), listener)
    assert read(tmp_path / "out", "results")["results"] == ["table4"]
    (notice,) = (line for line in said if "leaves out" in line)
    assert notice.endswith("of other photos or settings: table3")


def test_results_of_other_labels_are_not_told_of(study):
    def labelled(*rows):
        crops = [dataclasses.replace(c, labels=r) for c, r in zip(study.crops, rows, strict=True)]
        table = LabelTable(study.out, ("Male", "Young"), {})
        return dataclasses.replace(study, crops=tuple(crops), labels=table)

    studies = [study, labelled(*[(1, 1)] * 5), labelled((0, 1), *[(1, 1)] * 4)]
    renamed = dataclasses.replace(studies[1], labels=LabelTable(study.out, ("Young", "Male"), {}))
    told = [json.dumps([about(one)[key] for key in SAME_STUDY]) for one in (*studies, renamed)]
    assert len(set(told)) == 4


def test_photos_to_tune_with_are_none_of_the_tested_ones(ensemble, folder, tmp_path):
    """The first two in the other folder are tested photos under other names."""
    others = tmp_path / "others"
    for i in range(4):
        save_photo(others / f"{i}-again.png", i)
    request = request_of(folder, ensemble, tmp_path / "out", "related", images=2)
    request = dataclasses.replace(request, tune_photos=others)
    source, said = find_source(folder, ensemble), []
    study, _ = _study(request, source, Listener(say=said.append))
    assert [crop.file for crop in study.crops] == ["0.png", "1.png"]
    assert [crop.file for crop in study.tuning] == ["2-again.png", "3-again.png"]
    assert _tuning(study)["tuning"] == [crop.entry() for crop in study.tuning]
    assert not said
    for i in (2, 3):
        (others / f"{i}-again.png").unlink()
    with pytest.raises(FileError, match="none of its photos can be tuned with"):
        _study(request, source, Listener())


def test_a_seed_below_zero_is_refused_before_any_work(ensemble, folder, tmp_path):
    request = request_of(folder, ensemble, tmp_path / "out", images=2)
    with pytest.raises(ValueError, match="seed must be a whole number from 0"):
        run(dataclasses.replace(request, seed=-1))
    assert not (tmp_path / "out").exists()


def test_a_generator_cannot_be_named_as_the_mean_of_all(ensemble, folder, tmp_path):
    first, *others = ensemble.generators
    generators = (dataclasses.replace(first, name="mean"), *others)
    request = request_of(
        folder, dataclasses.replace(ensemble, generators=generators), tmp_path / "out", images=2
    )
    with pytest.raises(ValueError, match="a generator is named mean, as the mean of all"):
        run(request)
    assert not (tmp_path / "out").exists()


def test_how_programs_are_compiled_does_not_depend_on_what_is_asked_for(ensemble, folder, study):
    study = dataclasses.replace(study, steps=20)
    requests = [
        dataclasses.replace(request_of(folder, ensemble, study.out, steps=20), what=what)
        for what in (("figure4",), ("table1",), tuple(WHAT))
    ]
    labs = [_Lab(request, study, [], Listener()) for request in requests]
    columns = labs[-1]._columns(WHAT)
    for lab in labs:
        assert [*map(lab._is_brief, columns)] == [*map(labs[0]._is_brief, columns)]


def test_a_model_of_no_such_name_and_no_encoder(ensemble):
    with pytest.raises(ValueError, match="no generator is named nope"):
        attacked(Column(Config(), "alone", "nope"), ensemble.generators)
    blind = [dataclasses.replace(model, encode=None) for model in ensemble.generators]
    with pytest.raises(ValueError, match="no generator has an encoder, which the loss latent"):
        attacked(Column(Config(loss="latent")), blind)
    last = ensemble.generators[-1]
    for config in (Config(across_models="single"), Config(update="apgd"), Config()):
        assert attacked(Column(config, "alone", last.name), ensemble.generators) == (last,)


def test_the_related_methods_attack_what_they_should(ensemble):
    table = related_table(ensemble.generators)
    models = ensemble.generators
    assert [g.name for g in attacked(table.columns["alone-ugatit"], models)] == ["ugatit"]
    assert [g.name for g in attacked(table.columns["latent"], models)] == ["ugatit"]
    assert attacked(table.columns["cdmaa"], models) == models
    strategies = paper_tables()["table3"].columns
    assert attacked(strategies["single"], models) == models[:1]
    assert attacked(strategies["iterative"], models) == models
    apgd = dataclasses.replace(strategies["single"].config, update="apgd")
    assert attacked(Column(apgd), models) == models  # APGD looks at the losses of all models
    joint = table.columns["joint-domains"].config
    assert (joint.across_domains, joint.across_models, joint.regularization) == (
        "uniform", "uniform", "none",
    )  # fmt: skip
    for name in ("iterative", "universal"):  # models take turns, as domains do in CMUA
        one = table.columns[name].config
        assert (one.across_models, one.regularization) == ("iterative", "none")
    assert table.columns["universal-cdmaa"].config == Config(perturbation="universal")
    encoderless = [dataclasses.replace(model, encode=None) for model in models]
    assert "latent" not in related_table(encoderless).columns


def test_a_universal_perturbation_is_the_same_for_all_photos(study, folder, tmp_path):
    column = related_table(study.ensemble.generators, steps=2).columns["universal"]
    few = dataclasses.replace(study, crops=study.crops[:2], tuning=study.crops[2:])
    measured = measure(column, few)
    saved = np.load(measured.folder / PERTURBATION)
    limit = int(0.05 * 127.5)
    for crop, name in zip(few.crops, measured.files, strict=True):
        before, after = read_photo(crop.path).pixels, read_photo(measured.folder / name).pixels
        expected = np.clip(np.rint(saved * 127.5), -limit, limit)
        inside = (before > limit) & (before < 255 - limit)
        assert (after.astype(int) - before == expected)[inside].all()
    assert [measured.facts[fact] for fact in ("photos", "steps", "batch")] == [3, 2, few.batch]
    assert column_folder(column, few) != column_folder(column, study)
    one_by_one = dataclasses.replace(few, batch_size=1)  # the number of photos in a step
    assert column_folder(column, few) != column_folder(column, one_by_one)


@pytest.mark.parametrize("damage", [lambda data: data[:200], lambda data: b""])
def test_what_was_saved_is_made_again_if_it_is_damaged(study, monkeypatch, damage):
    few = dataclasses.replace(study, crops=study.crops[:2], tuning=study.crops[2:])
    universal = related_table(study.ensemble.generators, steps=2).columns["universal"]
    traced = figures.gradient_column(Column(Config(steps=2)))
    shape, fits = (2, 2), []

    def fit_universal(*_, **__):
        fits.append("universal")
        return Universal(np.ones((16, 16, 3), np.float32), np.zeros((2, 2)), np.zeros((2, 2)))

    def trace_gradients(*_):
        fits.append("trace")
        return Trace(np.zeros((*shape, 3, 3)), *[np.zeros((*shape, 2))] * 3)

    monkeypatch.setattr(methods, "fit_universal", fit_universal)
    monkeypatch.setattr(figures, "trace_gradients", trace_gradients)

    def do():
        methods._fit(universal, few, lambda count: None)
        return figures._trace(traced, few, lambda count: None)

    do()
    files = column_folder(universal, few) / PERTURBATION, figures._saved(traced, few)
    for file in files:
        file.write_bytes(damage(file.read_bytes()))
    do()
    again = do()
    assert fits == ["universal", "trace"] * 2
    assert again[0].gram.shape == (2, 2, 3, 3)


def test_what_is_fitted_sees_the_tuning_photos_alone(study, monkeypatch):
    few = dataclasses.replace(study, crops=study.crops[:2], tuning=study.crops[2:], seed=3)
    columns = related_table(study.ensemble.generators, steps=2).columns
    seen = []

    def fit_universal(images, models, config, key, **options):
        seen.append((images, key))
        return Universal(np.zeros((16, 16, 3), np.float32), np.zeros((2, 2)), np.zeros((2, 2)))

    def search_weights(images, models, config, key, **options):
        seen.append((images, key))
        return WeightSearch((0.25, 0.75), 1.0, (Trial((0.25, 0.75), 1.0),))

    monkeypatch.setattr(methods, "fit_universal", fit_universal)
    monkeypatch.setattr(methods, "search_weights", search_weights)
    for name in ("universal", "line-search"):
        methods._fit(columns[name], few, lambda count: None)
    for images, key in seen:
        assert key == 3
        np.testing.assert_array_equal(images, crop_images(few.tuning)[: len(images)])


def test_a_searched_column_attacks_with_the_weights_found(study, monkeypatch):
    column = related_table(study.ensemble.generators, steps=2).columns["line-search"]
    monkeypatch.setattr(methods.photos, "against", lambda models, config: (models, config))
    facts = {"weights": {"ugatit": 0.75, "stargan": 0.25}}
    models, config = FITTINGS[SEARCHED].attack(column, study, facts)
    assert models == study.ensemble.generators and config.model_weights == (0.25, 0.75)
    for one in (config, column.config):
        assert (one.across_models, one.regularization) == ("weighted", "none")


def test_what_is_tuned_is_what_is_fitted(ensemble):
    columns = related_table(ensemble.generators).columns.values()
    assert {column.method for column in columns if column.is_tuned} == set(FITTINGS)


def test_adding_a_perturbation_costs_less_than_attacking(study):
    columns = related_table(study.ensemble.generators, steps=2).columns
    (attack,) = works_of(columns["cdmaa"], study)
    tuning, adding = works_of(columns["universal"], study)
    measuring = 2 * sum(len(model.domains) for model in study.ensemble.generators)
    assert adding.cost == measuring < attack.cost
    assert tuning.cost * tuning.total == attack.cost * study.batch
    _, searched = works_of(columns["line-search"], study)
    assert searched.cost == attack.cost


def test_copies_of_photos_that_were_renamed_do_not_count_as_done(study):
    column = Column(Config(steps=2))
    few = dataclasses.replace(study, crops=study.crops[:2])
    measure(column, few)
    first, second = few.crops
    second = dataclasses.replace(second, path=second.path.with_name("renamed.png"))
    renamed = dataclasses.replace(few, crops=(first, second))
    assert column_folder(column, renamed) == column_folder(column, few)
    assert (count_done(column, few), count_done(column, renamed)) == (2, 1)


def test_other_photos_to_tune_with_have_a_folder_of_their_own(study):
    column = related_table(study.ensemble.generators).columns["universal"]
    a, b = (
        dataclasses.replace(study, crops=study.crops[:2], tuning=study.crops[i:]) for i in (2, 3)
    )
    assert column_folder(column, a) != column_folder(column, b)


def test_other_labels_have_a_folder_of_their_own(study):
    column = related_table(study.ensemble.generators).columns["cdmaa"]
    a, b = (
        dataclasses.replace(
            study, crops=tuple(dataclasses.replace(c, labels=(i, 0)) for c in study.crops)
        )
        for i in (0, 1)
    )
    assert column_folder(column, a) != column_folder(column, b)


def test_figure_2_is_of_every_photo_once_with_its_labels(study, monkeypatch):
    """Five photos, two at a time: the last batch is padded."""
    rows = [(i % 2, 1) for i in range(5)]
    crops = [dataclasses.replace(c, labels=r) for c, r in zip(study.crops, rows, strict=True)]
    table = LabelTable(study.out, ("Male", "Young"), {})
    labelled = dataclasses.replace(study, crops=tuple(crops), labels=table)
    asked = []

    def trace_gradients(config, models, images, conditions, seed):
        asked.append(conditions[0])
        shape = (config.steps, len(images))
        return Trace(np.zeros((*shape, 3, 3)), *[np.zeros((*shape, 2))] * 3)

    monkeypatch.setattr(figures, "trace_gradients", trace_gradients)
    column = figures.gradient_column(Column(Config(steps=2)))
    trace, *_ = figures._trace(column, labelled, lambda count: None)
    assert trace.gram.shape[1] == trace.along.shape[1] == trace.along_step.shape[1] == 5
    given = {"Male": np.array([0, 1, 0, 1, 0]), "Young": np.ones(5, int)}
    (stargan, _) = study.ensemble.generators
    np.testing.assert_array_equal(np.concatenate(asked)[:5], stargan.conditions(given))
