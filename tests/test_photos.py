"""Photos to files, on disk."""

import dataclasses
import errno
import json
import os
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from cdmaa_jax import disk, photos, protection
from cdmaa_jax.attack.config import Config
from cdmaa_jax.disk import FileError
from cdmaa_jax.evaluation import metrics, report
from cdmaa_jax.evaluation.measure import see_pair
from cdmaa_jax.images.faces import Box
from cdmaa_jax.images.files import read_photo
from cdmaa_jax.images.labels import read_labels
from cdmaa_jax.images.squares import Look, look, see, write_back
from cdmaa_jax.photos import protecting
from tests.formats import described
from tests.tiny import astronaut, instant_protect, save_photo

CONFIG = Config(steps=2)


@pytest.fixture
def job(ensemble, tmp_path):
    return photos.Job(ensemble, tmp_path / "out", CONFIG, canonical_size=32, batch_size=2)


def run(paths, job):
    return list(photos.protect_photos(paths, job))


def statuses(outcomes):
    return sorted(outcome.status for outcome in outcomes)


def read_report(job):
    return json.loads((job.out / "report.json").read_text())


def test_protects_photos_of_all_sizes_and_reports_them(job, tmp_path):
    sources = [save_photo(tmp_path / f"{i}.png", i, 40 + 9 * i, 48) for i in range(3)]
    outcomes = run(sources, job)
    assert statuses(outcomes) == ["done"] * 3
    assert sorted(os.listdir(job.out)) == ["0.png", "1.png", "2.png", "report.json"]
    report = read_report(job)
    for source, entry in zip(sources, report["photos"], strict=True):
        before, after = read_photo(source), read_photo(job.out / entry["protected"])
        assert before.size == after.size and entry["protected_sha256"] == after.sha256
        change = np.abs(before.pixels.astype(int) - after.pixels).max()
        assert 0 < change <= 6 and entry["linf"] == pytest.approx(change / 127.5)
        assert set(entry["models"]) == {"stargan", "ugatit"}
    assert report["config"] == dataclasses.asdict(CONFIG) and report["failed"] == []


def test_the_figures_are_those_of_the_saved_files(job, tmp_path, ensemble):
    source = save_photo(tmp_path / "a.png")
    (done,) = run([source], job)
    (measured,) = photos.evaluate_photos([(source, job.out / "a.png")], ensemble)
    for name, values in done.entry["models"].items():
        assert measured.entry["models"][name] == pytest.approx(values, rel=1e-4)


def test_the_picture_shows_what_the_report_tells(job, tmp_path, ensemble, monkeypatch):
    source = save_photo(tmp_path / "a.png")
    (done,) = run([source], job)
    monkeypatch.setattr(protecting, "look", None)  # the square comes from the report

    def draw(entry):
        return photos.draw_picture(source, job.out / "a.png", entry, ensemble, 0.05)

    drawn, entry = draw(done.entry), json.loads(json.dumps(done.entry))
    assert drawn.startswith(b"\x89PNG") and draw(entry) == drawn
    entry["models"]["stargan"] = dict.fromkeys(entry["models"]["stargan"], 1.0)
    assert draw(entry) != drawn
    assert draw(done.entry | {"square": {"top": 2, "left": 0, "size": 30}}) != drawn
    assert draw(done.entry | {"labels": {"Male": 1, "Young": 0}}) != drawn


def test_a_photo_is_protected_alone_as_among_others(job, tmp_path):
    sources = [save_photo(tmp_path / f"{i}.png", i) for i in range(3)]
    run(sources, job)
    alone = dataclasses.replace(job, out=tmp_path / "alone", batch_size=1)
    run(sources[2:], alone)
    a, b = (read_photo(folder / "2.png").pixels.astype(int) for folder in (job.out, alone.out))
    assert (np.abs(a - b) > 1).mean() < 0.01


def test_running_again_skips_what_is_done(job, tmp_path):
    sources = [save_photo(tmp_path / f"{i}.png", i) for i in range(2)]
    run(sources[:1], job)
    times = os.stat(job.out / "0.png").st_mtime_ns
    starts = []
    outcomes = list(photos.protect_photos(sources, job, starts.append))
    assert [o.status for o in outcomes] == ["skipped", "done"] and starts == [1]
    assert os.stat(job.out / "0.png").st_mtime_ns == times
    assert [p["file"] for p in read_report(job)["photos"]] == ["0.png", "1.png"]
    assert statuses(list(photos.protect_photos(sources, job, starts.append))) == ["skipped"] * 2
    assert starts == [1]


def test_what_is_missing_is_made_again(job, tmp_path):
    source = save_photo(tmp_path / "a.png")
    run([source], job)
    (job.out / "a.png").unlink()
    assert statuses(run([source], job)) == ["done"]


def test_an_ensemble_by_another_name_is_the_same(job, tmp_path):
    """It is called like its folder."""
    source = save_photo(tmp_path / "a.png")
    assert statuses(run([source], job)) == ["done"]
    renamed = dataclasses.replace(job, ensemble=dataclasses.replace(job.ensemble, name="another"))
    assert statuses(run([source], renamed)) == ["skipped"]


def test_what_was_changed_is_not_overwritten_without_force(job, tmp_path):
    source = save_photo(tmp_path / "a.png")
    run([source], job)
    save_photo(job.out / "a.png", 9)
    (outcome,) = run([source], job)
    assert outcome.status == "failed" and "--force" in str(outcome.error)
    assert statuses(run([source], dataclasses.replace(job, force=True))) == ["done"]


def test_a_changed_photo_is_not_taken_for_the_old_one(job, tmp_path):
    run([save_photo(tmp_path / "a.png", 1)], job)
    (outcome,) = run([save_photo(tmp_path / "a.png", 2)], job)
    assert outcome.status == "failed" and "is not known as the copy of a.png" in str(outcome.error)


def test_other_settings_need_another_folder(job, tmp_path, monkeypatch):
    monkeypatch.setattr(protecting, "protect", instant_protect)
    source = save_photo(tmp_path / "a.png")
    run([source], job)
    other = dataclasses.replace(job, config=Config(steps=3))
    with pytest.raises(FileError, match="steps 2, not 3"):
        run([source], other)
    for change in ({"seed": 5}, {"canonical_size": 24}):
        with pytest.raises(FileError, match=r"another (seed|canonical size)"):
            run([source], dataclasses.replace(job, **change))
    assert statuses(run([source], dataclasses.replace(other, force=True))) == ["done"]
    assert read_report(job)["config"]["steps"] == 3


def test_another_threshold_is_another_report_of_the_same_copies(job, tmp_path):
    source = save_photo(tmp_path / "a.png")
    (done,) = run([source], job)
    copy = (job.out / "a.png").read_bytes()
    most = max(done.entry["models"]["stargan"].values())
    for threshold, rate in ((most, 0), (most / 1e6, 1)):
        config = dataclasses.replace(job.config, threshold=threshold)
        assert statuses(run([source], dataclasses.replace(job, config=config))) == ["skipped"]
        found = read_report(job)
        assert found["threshold"] == found["config"]["threshold"] == threshold
        assert found["models"]["stargan"]["attack_rate"] == rate
    assert (job.out / "a.png").read_bytes() == copy


def test_apgd_depends_on_the_threshold(job, tmp_path, monkeypatch):
    monkeypatch.setattr(protecting, "protect", instant_protect)
    source = save_photo(tmp_path / "a.png")
    config = dataclasses.replace(job.config, update="apgd")
    run([source], dataclasses.replace(job, config=config))
    other = dataclasses.replace(config, threshold=0.1)
    with pytest.raises(FileError, match=r"threshold 0.05, not 0.1"):
        run([source], dataclasses.replace(job, config=other))


def test_reports_from_before_an_option_are_those_of_its_default(job, tmp_path, monkeypatch):
    monkeypatch.setattr(protecting, "protect", instant_protect)
    source = save_photo(tmp_path / "a.png")
    run([source], job)
    found = read_report(job)
    assert found["config"].pop("start") == CONFIG.start
    (job.out / "report.json").write_text(json.dumps(found))
    assert statuses(run([source], job)) == ["skipped"]


def test_the_report_has_what_reproduces_the_copies(job):
    made_with = photos.make_report(job, [])
    assert made_with["config"]["steps"] == 2 and made_with["canonical_size"] == 32
    assert all(len(g["arrays_sha256"]) == 64 for g in made_with["ensemble"]["generators"])
    assert json.loads(json.dumps(made_with)) == made_with


def test_copies_of_other_settings_are_not_forgotten(job, tmp_path, monkeypatch):
    """They are remembered, so that photos and copies in one folder can always be told apart."""
    monkeypatch.setattr(protecting, "protect", instant_protect)
    for i in range(2):
        save_photo(tmp_path / f"{i}.jpg", i)
    here = dataclasses.replace(job, out=tmp_path)
    other = dataclasses.replace(here, seed=1)
    run(photos.find_photos([tmp_path], tmp_path), here)
    run([tmp_path / "0.jpg"], dataclasses.replace(other, force=True))
    assert [entry["file"] for entry in read_report(here)["photos"]] == ["0.jpg"]
    assert [entry["protected"] for entry in read_report(here)["earlier"]] == ["1.png"]
    found = photos.find_photos([tmp_path], tmp_path)
    assert [path.name for path in found] == ["0.jpg", "1.jpg"]
    assert dict(photos.match_photos(tmp_path, tmp_path))[tmp_path / "1.jpg"] == tmp_path / "1.png"
    assert [o.status for o in run(found, other)] == ["skipped", "failed"]
    assert statuses(run(found, dataclasses.replace(other, force=True))) == ["done", "skipped"]
    assert read_report(here)["earlier"] == [] and len(read_report(here)["photos"]) == 2


def test_all_faces_of_a_photo_are_protected(job, tmp_path, ensemble):
    source, portrait = tmp_path / "a.png", astronaut()[:300, 60:360]
    Image.fromarray(np.concatenate([portrait, portrait[:, ::-1]], axis=1)).save(source)
    (outcome,) = run([source], job)
    entry, (other,) = outcome.entry, outcome.entry["others"]
    assert read_report(job)["photos"] == [entry]
    before, after = read_photo(source).pixels, read_photo(job.out / "a.png").pixels
    assert 0 < np.abs(before.astype(int) - after).max() <= 6
    for one in (entry, other):
        square = Box(**one["square"])
        assert one["face"]["size"] < square.size and one["psnr"] < 60
        assert one["psnr"] == metrics.psnr(square.crop(before), square.crop(after))
        assert all(loss > 0 for model in one["models"].values() for loss in model.values())
        after = after.copy()
        square.crop(after)[...] = square.crop(before)
    assert (after == before).all()
    (measured,) = photos.evaluate_photos([(source, job.out / "a.png")], ensemble)
    for one, same in zip((entry, other), report.squares_of(measured.entry), strict=True):
        for name, values in one["models"].items():
            assert same["models"][name] == pytest.approx(values, rel=1e-4)
    every = [list(one["models"]["stargan"].values()) for one in (entry, other)]
    assert read_report(job)["models"]["stargan"]["avg_l"] == pytest.approx(np.mean(every))
    assert statuses(run([source], job)) == ["skipped"]


def test_labels_of_a_photo_count_for_all_its_faces(job, tmp_path, monkeypatch):
    several_faces(monkeypatch, {"a.png": 2, "b.png": 1})
    sources = [save_photo(tmp_path / name) for name in ("a.png", "b.png")]
    table = tmp_path / "labels.csv"
    table.write_text("file,Male,Young\na.png,1,0\nb.png,0,1\n")
    seen = []

    def attack(job, images, labels, size):
        seen.append({name: list(values) for name, values in labels.items()})
        return images

    run(sources, dataclasses.replace(job, labels=read_labels(table), attack=attack, batch_size=3))
    assert seen == [{"Male": [1, 1], "Young": [0, 0]}, {"Male": [0], "Young": [1]}]


def test_a_photo_that_takes_several_batches_tells_of_its_faces(job, tmp_path, monkeypatch):
    several_faces(monkeypatch, {"a.png": 1, "b.png": 4, "c.png": 1})
    sources = [save_photo(tmp_path / name, seed) for seed, name in enumerate(("a.png", "b.png"))]
    job, told = dataclasses.replace(job, batch_size=2, attack=lambda _, images, *__: images), []
    outcomes = photos.protect_photos(sources, job, partly=lambda *what: told.append(what))
    assert statuses(outcomes) == ["done", "done"]
    assert told == [(sources[1], 1, 4), (sources[1], 3, 4)]
    told.clear()
    last = save_photo(tmp_path / "c.png", 2)
    list(photos.protect_photos([last], job, partly=lambda *what: told.append(what)))
    assert not told


def several_faces(monkeypatch, counts):
    """Photos of these names then have so many faces."""
    boxes = [Box(0, 4 * number, 20) for number in range(max(counts.values()))]
    by_pixels = {}

    def read(path, *limits):
        photo = read_photo(path, *limits)
        by_pixels[photo.pixels.tobytes()] = path.name
        return photo

    def looks(photo, aligned=False):
        return [Look(box, box) for box in boxes[: counts[by_pixels[photo.tobytes()]]]]

    monkeypatch.setattr(protecting, "read_photo", read)
    monkeypatch.setattr(protecting, "look", looks)


def test_same_batches_have_the_size_that_the_photos_give(job, tmp_path, monkeypatch):
    monkeypatch.setattr(protecting, "_host_is_device", lambda: False)
    several_faces(monkeypatch, {"a.png": 3})
    source, sizes = save_photo(tmp_path / "a.png"), []

    def attack(job, images, labels, size):
        sizes.append((len(images), size))
        return images

    for same, expected in ((True, [(1, 1)] * 3), (False, [(3, 3)])):
        other = dataclasses.replace(job, attack=attack, batch_size=3, same_batches=same, force=True)
        sizes.clear()
        run([source], dataclasses.replace(other, out=tmp_path / str(same)))
        assert sizes == expected


@pytest.mark.parametrize("cores, can_share, best", [
    (1, True, [1, 2, 3, 4, 5, 6, 7, 8, 5, 5, 6, 6, 7, 7, 8, 8, 6]),
    (2, True, [1, 2, 3, 4, 5, 6, 8, 8, 5, 5, 6, 6, 8, 8, 8, 8, 6]),
    (2, False, [1, 2, 3, 4, 5, 6, 7, 8, 5, 5, 6, 6, 7, 7, 8, 8, 6]),
    (6, True, [1, 2, 3, 4, 5, 6, 7, 8, 5, 5, 6, 6, 7, 7, 6, 6, 6]),
    (8, True, [1, 2, 3, 4, 5, 6, 8, 8, 5, 5, 6, 6, 8, 8, 8, 8, 6]),
    (9, True, [1, 2, 3, 4, 5, 6, 7, 8, 5, 5, 6, 6, 7, 7, 8, 8, 6]),
])  # fmt: skip
def test_a_cpu_attacks_little_besides_the_photos(job, cores, can_share, best, monkeypatch):
    devices = [SimpleNamespace(platform="cpu")] * cores
    monkeypatch.setattr(protection, "can_share_cpu", lambda: can_share)
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    monkeypatch.setattr(jax, "local_device_count", lambda: cores)
    job = dataclasses.replace(job, batch_size=8)
    assert [protecting._size_of_batches(count, job) for count in range(1, 18)] == best
    job = dataclasses.replace(job, batch_size=10**15)
    assert protecting._size_of_batches(3, job) == 3


@pytest.mark.parametrize("is_cpu, expected", [(True, [(3, 3), (2, 3)]), (False, [(4, 4), (1, 4)])])
def test_batches_of_a_cpu_are_of_equal_sizes(is_cpu, expected, job, tmp_path, monkeypatch):
    monkeypatch.setattr(protecting, "_host_is_device", lambda: is_cpu)
    sizes = []

    def attack(job, images, labels, size):
        sizes.append((len(images), size))
        return images

    sources = [save_photo(tmp_path / f"{number}.png", number) for number in range(5)]
    run(sources, dataclasses.replace(job, attack=attack, batch_size=4))
    assert sizes == expected


@pytest.mark.parametrize("meanwhile", [False, True])
@pytest.mark.parametrize(("counts", "batches"), [
    ([1, 1, 1, 1, 1], [3, 2]),
    ([2, 1, 2, 2, 1, 1], [3, 3, 3]),
    ([3, 3, 1], [3, 3, 1]),
    ([1, 5, 1, 1], {False: [2, 2, 2, 2], True: [3, 3, 2]}),
    ([1, 0, 7, 0, 1], [3, 3, 2, 1]),  # two of them cannot be read
    ([4], {False: [1, 1, 1, 1], True: [3, 1]}),
    ([2, 3], {False: [2, 2, 1], True: [3, 2]}),
])  # fmt: skip
def test_a_batch_has_so_many_faces(job, tmp_path, monkeypatch, counts, batches, meanwhile):
    monkeypatch.setattr(protecting, "_host_is_device", lambda: not meanwhile)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    names = [f"{i}.png" for i in range(len(counts))]
    several_faces(monkeypatch, dict(zip(names, counts, strict=True)))
    sources = [save_photo(tmp_path / name, seed) for seed, name in enumerate(names)]
    for source, count in zip(sources, counts, strict=True):
        if not count:
            source.write_text("no picture")
    sizes, attacked = [], []

    def attack(job, images, labels, size):
        assert len(images) <= size
        sizes.append(len(images))
        attacked.extend(images)
        levels = 1 + np.arange(len(attacked) - len(images), len(attacked)) % 6
        return images + levels[:, None, None, None].astype(np.float32) / np.float32(127.5)

    outcomes = run(sources, dataclasses.replace(job, attack=attack, batch_size=3))
    assert sizes == (batches[meanwhile] if isinstance(batches, dict) else batches)
    entries = [outcome.entry for outcome in outcomes if outcome.status == "done"]
    assert len(outcomes) == len(counts) and len(entries) == np.count_nonzero(counts)
    assert [entry["file"] for entry in entries] == [
        n for n, c in zip(names, counts, strict=True) if c
    ]
    found = iter(zip(attacked, range(sum(counts)), strict=True))
    for entry in entries:
        before, after = (
            read_photo(folder / entry["file"]).pixels.astype(int) for folder in (tmp_path, job.out)
        )
        squares = report.squares_of(entry)
        assert len(squares) == counts[names.index(entry["file"])]
        for one in squares:
            square, (image, number) = Box(**one["square"]), next(found)
            seen = see(before.astype(np.uint8), square, job.canonical_size)
            np.testing.assert_array_equal(seen, image)
            middle = square.top + 10, square.left + 10
            expected = np.minimum(before[middle] + 1 + number % 6, 255)
            assert (np.abs(after[middle] - expected) <= (expected > 249)).all()


def test_files_of_others_are_not_overwritten(job, tmp_path):
    source = save_photo(tmp_path / "a.png")
    job.out.mkdir()
    (job.out / "a.png").write_bytes(b"mine")
    (outcome,) = run([source], job)
    assert outcome.status == "failed" and (job.out / "a.png").read_bytes() == b"mine"
    (job.out / "report.json").write_text("mine")
    with pytest.raises(FileError, match="no report of this program"):
        run([source], job)
    assert statuses(run([source], dataclasses.replace(job, force=True))) == ["done"]


def test_a_folder_in_a_copys_place_is_told_of_before_any_attack(job, tmp_path, monkeypatch):
    monkeypatch.setattr(protecting, "protect", pytest.fail)
    (job.out / "a.png").mkdir(parents=True)
    (outcome,) = run([save_photo(tmp_path / "a.png")], dataclasses.replace(job, force=True))
    assert outcome.error.path == job.out / "a.png" and "it is a folder" in str(outcome.error)


def test_an_input_is_never_overwritten(job, tmp_path):
    source = save_photo(tmp_path / "a.png")
    before = source.read_bytes()
    here = dataclasses.replace(job, out=tmp_path, force=True)
    (outcome,) = run([source], here)
    assert outcome.status == "failed" and source.read_bytes() == before


def test_equal_names_get_numbers_and_keep_them(job, tmp_path):
    sources = [
        save_photo(tmp_path / "x" / "a.png", 1),
        save_photo(tmp_path / "y" / "a.png", 2),
        save_photo(tmp_path / "y" / "A.bmp", 3),
    ]
    run(sources, job)
    assert {"a.png", "a-2.png", "A-3.png"} < set(os.listdir(job.out))
    (job.out / "a.png").unlink()
    outcomes = run(sources[::-1], job)
    assert [o.status for o in outcomes] == ["skipped", "skipped", "done"]
    assert sorted(os.listdir(job.out)) == ["A-3.png", "a-2.png", "a.png", "report.json"]


def test_a_bad_photo_does_not_stop_the_others(job, tmp_path):
    sources = [save_photo(tmp_path / f"{i}.png", i) for i in range(3)]
    sources[1].write_text("no photo")
    outcomes = run([*sources, tmp_path / "missing.jpg"], job)
    assert statuses(outcomes) == ["done", "done", "failed", "failed"]
    assert len(read_report(job)["failed"]) == 2


def test_transparency_profile_and_greyscale(job, tmp_path):
    grey = Image.fromarray(astronaut()[:60, :60]).convert("LA")
    grey.putalpha(77)
    grey.save(tmp_path / "grey.png")
    run([tmp_path / "grey.png"], job)
    written = Image.open(job.out / "grey.png")
    assert written.mode == "RGBA" and set(np.unique(np.asarray(written)[..., 3])) == {77}


def test_labels_are_used_and_recorded(job, tmp_path):
    source = save_photo(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("file,Male,Young\na.png,1,0\n")
    labelled = dataclasses.replace(job, labels=read_labels(tmp_path / "labels.csv"))
    (outcome,) = run([source], labelled)
    assert outcome.entry["labels"] == {"Male": 1, "Young": 0}
    (outcome,) = run([save_photo(tmp_path / "b.png")], labelled)
    assert outcome.status == "failed" and "has no line for it" in str(outcome.error)
    (outcome,) = run([source], job)  # without labels, this is a different job
    assert outcome.status == "failed"


def test_labels_that_do_not_fit(job, tmp_path):
    (tmp_path / "labels.csv").write_text("file,Bald\na.png,1\n")
    with pytest.raises(FileError, match="stargan cannot use it: the labels lack Male, Young"):
        run([], dataclasses.replace(job, labels=read_labels(tmp_path / "labels.csv")))


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0},
        {"canonical_size": 0},
        {"config": Config(epsilon=0.005)},
        {"seed": -1},
        {"seed": 2**32},
    ],
)
def test_options_that_make_no_sense(job, change):
    with pytest.raises(ValueError, match=r"at least 1|grey level|seed must be"):
        run([], dataclasses.replace(job, **change))


def test_fields_of_the_report_are_described(job, tmp_path):
    run([save_photo(tmp_path / "a.png")], job)
    report = read_report(job)
    (entry,), generators = report["photos"], report["ensemble"]["generators"]
    assert {*report, *entry, *generators[0], *entry["square"], *entry["size"]} <= described()


def test_an_unknown_precision_is_refused_before_anything_is_written(job, tmp_path):
    source = save_photo(tmp_path / "a.png")
    with pytest.raises(ValueError, match="precision must be one of float32, tf32, bfloat16"):
        run([source], dataclasses.replace(job, precision="float16"))
    assert not job.out.exists()


def test_a_full_disk_leaves_only_whole_files(job, tmp_path, monkeypatch):
    sources = [save_photo(tmp_path / f"{i}.png", i) for i in range(6)]
    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) > 3:  # two photos and the report
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(disk.os, "fsync", fsync)
    seen = []
    with pytest.raises(FileError, match="disk is full"):
        for outcome in photos.protect_photos(sources, job):
            seen.append(outcome.status)
    assert seen == ["done", "done", "failed", "failed"]  # nothing is attacked for the last two
    assert sorted(os.listdir(job.out)) == ["0.png", "1.png", "report.json"]
    assert len(read_report(job)["photos"]) == 2
    monkeypatch.undo()
    assert statuses(run(sources, job)) == ["done"] * 4 + ["skipped"] * 2


def test_what_fails_after_a_copy_was_written_leaves_nothing(job, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("not foreseen")

    monkeypatch.setattr(protecting, "see_pair", fail)
    with pytest.raises(RuntimeError, match="not foreseen"):
        run([save_photo(tmp_path / "a.png")], job)
    assert os.listdir(job.out) == []


@pytest.mark.parametrize("part", ["look", "write_back", "see_pair"])
def test_a_photo_too_large_for_the_memory_fails_alone(job, tmp_path, monkeypatch, part):
    sources = [save_photo(tmp_path / f"{i}.png", i) for i in range(2)]
    sources.insert(1, save_photo(tmp_path / "large.png", 2, height=400, width=20))
    work = getattr(protecting, part)

    def lacking(photo, *others):
        if len(photo) == 400:
            raise MemoryError
        return work(photo, *others)

    monkeypatch.setattr(protecting, part, lacking)
    first, second, large = sorted(run(sources, job), key=lambda outcome: outcome.status)
    assert (first.status, second.status, large.status) == ("done", "done", "failed")
    assert str(large.error) == f"{sources[1]}: it does not fit into memory; shrink it"
    assert sorted(os.listdir(job.out)) == ["0.png", "1.png", "report.json"]


def test_a_folder_that_vanishes_ends_the_run(job, tmp_path, monkeypatch):
    sources = [save_photo(tmp_path / f"{i}.png", i) for i in range(6)]
    seen = []
    with pytest.raises(FileError, match=r"out: the folder is gone; run again"):
        for outcome in photos.protect_photos(sources, job):
            seen.append(outcome.status)
            if len(seen) == 2:
                shutil.rmtree(job.out)
    assert seen == ["done", "done"]


def test_a_link_that_leads_nowhere_is_not_replaced(job, tmp_path):
    job.out.mkdir()
    (job.out / "a.png").symlink_to(tmp_path / "elsewhere.png")
    (outcome,) = run([save_photo(tmp_path / "a.png")], job)
    assert outcome.status == "failed" and "a.png: it exists" in str(outcome.error)
    assert (job.out / "a.png").is_symlink()


def test_an_input_is_never_overwritten_however_its_name_is_written(job, tmp_path):
    """As on a disk that ignores case; a second name for the file stands in for that."""
    source = save_photo(tmp_path / "out" / "PHOTO.PNG")
    os.link(source, tmp_path / "out" / "PHOTO.png")
    (outcome,) = run([source], dataclasses.replace(job, force=True))
    assert "would replace a photo" in str(outcome.error)


def test_a_photo_that_cannot_be_read_any_more_is_told_of(job, tmp_path):
    source = save_photo(tmp_path / "a.png")
    run([source], job)
    source.unlink()
    (outcome,) = run([source], job)
    assert f"{source}: there is no such file" in str(outcome.error)


def test_an_interrupted_attack_leaves_nothing(job, tmp_path, monkeypatch):
    sources = [save_photo(tmp_path / f"{i}.png", i) for i in range(2)]

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(protecting, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(sources, job)
    assert os.listdir(job.out) == []


def test_a_photo_that_changes_meanwhile(job, tmp_path, monkeypatch):
    source = save_photo(tmp_path / "a.png", 1)
    real = protecting.protect

    def slow(*args, **options):
        save_photo(source, 2)
        return real(*args, **options)

    monkeypatch.setattr(protecting, "protect", slow)
    (outcome,) = run([source], job)
    assert "changed meanwhile" in str(outcome.error) and os.listdir(job.out) == []


@pytest.mark.parametrize("force", [False, True])
def test_a_file_that_appears_in_a_copys_place_meanwhile(job, tmp_path, monkeypatch, force):
    source, target = save_photo(tmp_path / "a.png", 1), job.out / "a.png"
    real = protecting.protect

    def slow(*args, **options):
        target.write_bytes(b"theirs")
        return real(*args, **options)

    monkeypatch.setattr(protecting, "protect", slow)
    (outcome,) = run([source], dataclasses.replace(job, force=force))
    if force:
        assert outcome.status == "done" and read_photo(target)
    else:
        assert "a.png: it was made by another program meanwhile" in str(outcome.error)
        assert os.listdir(job.out) == ["a.png"] and target.read_bytes() == b"theirs"


def test_failures_in_the_report_do_not_tell_where_photos_lie(job, tmp_path):
    good, bad = save_photo(tmp_path / "a.png"), tmp_path / "alice" / "b.png"
    outcomes = run([good, bad], job)
    assert str(bad) in str(outcomes[0].error)
    error = "b.png: there is no such file or folder; check its name and its permissions"
    assert read_report(job)["failed"] == [{"file": "b.png", "error": error}]


def test_find_photos(tmp_path):
    a, b = save_photo(tmp_path / "in" / "a.PNG".lower()), save_photo(tmp_path / "in" / "b.jpg")
    (tmp_path / "in" / "notes.txt").write_text("")
    save_photo(tmp_path / "in" / ".hidden.png")
    save_photo(tmp_path / "in" / "sub" / "c.png")
    assert photos.find_photos([tmp_path / "in", a]) == [a, b]
    assert photos.find_photos([b, tmp_path / "in"], out=tmp_path / "in") == [b, a]
    with pytest.raises(FileError, match="no picture in this folder"):
        (tmp_path / "empty").mkdir()
        photos.find_photos([tmp_path / "empty"])


def test_copies_in_the_same_folder_are_not_protected_again(tmp_path, job):
    folder = save_photo(tmp_path / "in" / "a.jpg").parent
    here = dataclasses.replace(job, out=folder)
    assert statuses(run(photos.find_photos([folder], folder), here)) == ["done"]
    assert statuses(run(photos.find_photos([folder], folder), here)) == ["skipped"]


def test_a_folder_of_copies_alone_has_nothing_to_protect(tmp_path, job, monkeypatch):
    monkeypatch.setattr(protecting, "protect", instant_protect)
    source = save_photo(tmp_path / "a.jpg")
    run([source], job)
    with pytest.raises(FileError, match=r"nothing but protected copies.*; give the original"):
        photos.find_photos([job.out], job.out)
    assert photos.find_photos([job.out, source], job.out) == [source]


def test_copies_among_the_given_files_are_not_protected_again(tmp_path, job, monkeypatch):
    source = save_photo(tmp_path / "in" / "a.jpg")
    copy = source.with_suffix(".png")
    run([source], dataclasses.replace(job, out=source.parent))
    assert photos.find_photos([source, copy], source.parent) == [source]
    with pytest.raises(FileError, match=r"a.png: it is a protected copy.*; give the original"):
        photos.find_photos([copy], source.parent)
    save_photo(copy, 5)  # a photo of one's own in its place
    assert photos.find_photos([source, copy], source.parent) == [source, copy]

    def refuse(path):
        raise FileError(path, "it cannot be read", "check its permissions")

    monkeypatch.setattr(disk, "sha256_of", refuse)
    assert photos.find_photos([source, copy], source.parent) == [source, copy]


def test_match_photos(tmp_path, job):
    x, y = tmp_path / "x", tmp_path / "y"
    a, b = save_photo(x / "a.jpg"), save_photo(x / "b.png")
    copy = save_photo(y / "a.png")
    assert photos.match_photos(a, copy) == [(a, copy)]
    (found, (same, missing)) = photos.match_photos(x, y)
    assert found == (a, copy) and same == b
    assert str(missing) == f"{b}: there is no protected copy of it; protect it first"
    shutil.copy(copy, y / "a.webp")
    shutil.copy(copy, y / "b.webp")
    ((_, several), known) = photos.match_photos(x, y)
    assert "several files could be its copy, a.png, a.webp; name" in str(several)
    assert known == (b, y / "b.webp")
    with pytest.raises(FileError, match="no such file"):
        photos.match_photos(x, tmp_path / "z")
    save_photo(tmp_path / "w" / "other.png")
    with pytest.raises(FileError, match="it has no copy of a photo in"):
        photos.match_photos(x, tmp_path / "w")


@pytest.mark.parametrize(("ours", "theirs"), [("\u00e9", "e\u0301"), ("e\u0301", "\u00e9")])
def test_names_match_whatever_the_form_of_their_accents(tmp_path, ours, theirs):
    original = save_photo(tmp_path / "x" / f"Jos{ours}.jpg")
    copy = save_photo(tmp_path / "y" / f"Jos{theirs}.png")
    assert photos.match_photos(tmp_path / "x", tmp_path / "y") == [(original, copy)]


def test_a_report_says_which_copy_is_whose(tmp_path, job):
    sources = [save_photo(tmp_path / "x" / name, i) for i, name in enumerate(("a.png", "a.bmp"))]
    run(sources, job)
    matched = dict(photos.match_photos(tmp_path / "x", job.out))
    assert matched == {sources[0]: job.out / "a.png", sources[1]: job.out / "a-2.png"}


def test_a_recorded_copy_that_is_gone_is_looked_for_by_its_name(tmp_path, job, monkeypatch):
    monkeypatch.setattr(protecting, "protect", instant_protect)
    source = save_photo(tmp_path / "x" / "a.png")
    run([source], job)
    (job.out / "a.png").unlink()
    posted = save_photo(job.out / "a.jpg")
    assert photos.match_photos(source, job.out) == [(source, posted)]


def test_a_pipe_is_no_original(tmp_path):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(FileError, match="a: it is a pipe or a device"):
        photos.match_photos(tmp_path / "a", save_photo(tmp_path / "b.png"))


def test_copies_in_the_folder_of_the_originals(tmp_path, job):
    folder = save_photo(tmp_path / "in" / "a.jpg").parent
    run([folder / "a.jpg"], dataclasses.replace(job, out=folder))
    assert photos.match_photos(folder, folder) == [(folder / "a.jpg", folder / "a.png")]


def test_equal_photos_have_copies_of_their_own(tmp_path, job):
    sources = [save_photo(tmp_path / "x" / name, 3) for name in ("a.png", "b.png")]
    run(sources, job)
    matched = dict(photos.match_photos(tmp_path / "x", job.out))
    assert matched == {source: job.out / source.name for source in sources}
    renamed = sources[0].rename(tmp_path / "x" / "c.png")
    matched = dict(photos.match_photos(tmp_path / "x", job.out))
    assert matched[renamed].parent == job.out and matched[sources[1]] == job.out / "b.png"


def test_one_path_that_leads_nowhere_does_not_stop_the_others(tmp_path, job, ensemble):
    good, loop = save_photo(tmp_path / "in" / "a.png"), tmp_path / "in" / "loop.png"
    loop.symlink_to("loop.png")
    gone, long = tmp_path / "in" / "gone.png", save_photo(tmp_path / "in" / f"{'l' * 251}.jpg")
    gone.symlink_to("nowhere")
    found = photos.find_photos([tmp_path / "in"])
    assert found == [good, gone, long, loop]
    outcomes = {outcome.source: outcome for outcome in run(found, job)}
    assert outcomes[good].status == "done"
    assert "no such file" in str(outcomes[gone].error)
    assert "leads back to itself" in str(outcomes[loop].error)
    assert outcomes[long].status == "done"  # with .png exactly as long as a name may be
    longer = tmp_path / f"{'l' * 252}.a"  # a suffix shorter than .png
    shutil.copy(good, longer)
    (outcome,) = run([longer], job)
    assert "too long" in str(outcome.error) and "shorten its name" in str(outcome.error)
    unnamed = tmp_path / f"{'l' * 300}.png"
    assert photos.find_photos([unnamed, good]) == [unnamed, good]
    assert [one.status for one in run([unnamed, good], job)] == ["failed", "skipped"]
    with pytest.raises(FileError, match="its name is too long"):
        photos.match_photos(good, unnamed)
    pairs = photos.match_photos(tmp_path / "in", job.out)
    measured = {one.source: one.status for one in photos.evaluate_photos(pairs, ensemble)}
    assert measured == {good: "done", long: "done", gone: "failed", loop: "failed"}


def test_photos_tell_of_the_versions_that_made_them(tmp_path, job, monkeypatch):
    first, second = (save_photo(tmp_path / f"{i}.png", i) for i in range(2))
    now = report.made_with()
    monkeypatch.setattr(report, "versions", lambda: {"jax": "0.1"})
    run([first], job)
    assert read_report(job)["versions"] == {"jax": "0.1"}
    monkeypatch.undo()
    for _ in range(2):  # a second run keeps what the first one said
        run([first, second], job)
        told = read_report(job)
        assert {name: told[name] for name in now} == now
        old, new = told["photos"]
        assert old["made_with"] == {**now, "versions": {"jax": "0.1"}}
        assert "made_with" not in new


def test_two_runs_do_not_share_a_folder(tmp_path, job):
    sources = [save_photo(tmp_path / f"{i}.png", i) for i in range(3)]
    first = photos.protect_photos(sources, dataclasses.replace(job, batch_size=1))
    next(first)
    with pytest.raises(FileError, match="another run is writing"):
        run(sources, job)
    assert statuses(first) == ["done", "done"]
    assert statuses(run(sources, job)) == ["skipped"] * 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda report: report.pop("photos"),
        lambda report: report["photos"].append(7),
        lambda report: report.update(config="abc"),
        lambda report: report["photos"][0].pop("square"),
        lambda report: report["photos"][0].pop("others"),
        lambda report: report["photos"][0].update(others=[7]),
        lambda report: report["photos"][0].update(others=[{"face": None}]),
        lambda report: report["photos"][0].update(psnr="high"),
        lambda report: report["photos"][0].update(protected="../a.png"),
        lambda report: report.update(earlier=[{"file": "b.png"}]),
        lambda report: report.update(earlier={}),
    ],
)
def test_a_damaged_report_is_told_of(tmp_path, job, damage):
    source = save_photo(tmp_path / "a.png")
    run([source], job)
    report = read_report(job)
    damage(report)
    (job.out / "report.json").write_text(json.dumps(report))
    with pytest.raises(FileError, match="it is damaged"):
        run([source], job)
    assert photos.match_photos(source.parent, job.out)  # by names
    assert statuses(run([source], dataclasses.replace(job, force=True))) == ["done"]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": -1}, {"max_pixels": 0}])
def test_measuring_needs_numbers_that_make_sense(tmp_path, ensemble, options):
    photo = save_photo(tmp_path / "a.png")
    with pytest.raises(ValueError, match="must be at least 1"):
        list(photos.evaluate_photos([(photo, photo)], ensemble, **options))


def test_only_copies_of_the_same_size_are_compared(tmp_path, ensemble):
    pairs = [(save_photo(tmp_path / "a.png"), save_photo(tmp_path / "b.png", height=50))]
    unknown = FileError(tmp_path / "a.png", "it has none", "protect it first")
    pairs.append((tmp_path / "a.png", unknown))
    first, second = photos.evaluate_photos(pairs, ensemble)
    assert first.error is unknown and "same size" in str(second.error)


def test_aligned_photos_are_taken_whole(ensemble, tmp_path):
    source = save_photo(tmp_path / "crop.png", 0, 32, 32)
    canonical = photos.default_canonical_size(ensemble, aligned=True)
    assert 3 * canonical == photos.default_canonical_size(ensemble)
    job = photos.Job(ensemble, tmp_path / "out", Config(steps=1), canonical, aligned=True)
    (outcome,) = run([source], job)
    assert outcome.entry["square"] == {"top": 0, "left": 0, "size": 32}
    (measured,) = photos.evaluate_photos([(source, job.out / "crop.png")], ensemble, aligned=True)
    assert measured.entry["models"] == outcome.entry["models"]
    assert photos.make_report(job, [outcome.entry])["aligned"] is True


def labelled(job, folder, *rows):
    path = folder / "labels.csv"
    path.write_text("file,Male,Young\n" + "".join(f"{row}\n" for row in rows))
    return dataclasses.replace(job, labels=read_labels(path))


@pytest.mark.parametrize("precision, dtype", [("bfloat16", "bfloat16"), (None, "float32")])
def test_generators_are_attacked_in_the_precision_asked_for(
    job, tmp_path, monkeypatch, precision, dtype
):
    def spy(images, models, *_, **__):
        leaves = jax.tree.leaves([model.params for model in models])
        assert {leaf.dtype.name for leaf in leaves} == {dtype}
        return instant_protect(images)

    monkeypatch.setattr(protecting, "protect", spy)
    source = save_photo(tmp_path / "a.png")
    assert statuses(run([source], dataclasses.replace(job, precision=precision))) == ["done"]


@pytest.mark.parametrize("size, count", [(1, None), (2, 2), (3, 3), (4, 2), (5, None), (6, 3)])
def test_devices_share_what_can_be_shared_evenly(monkeypatch, size, count):
    three = [SimpleNamespace(platform="gpu")] * 3
    monkeypatch.setattr(jax, "local_devices", lambda: three)
    assert protecting.devices_for(size) == (count and three[:count])


@pytest.mark.parametrize("size, shared", [(1, False), (2, True), (3, False), (4, True)])
def test_the_cores_of_a_cpu_share_what_all_have_a_part_of(monkeypatch, size, shared):
    two = jax.devices()[:2]
    monkeypatch.setattr(jax, "local_devices", lambda: two)
    assert protecting.devices_for(size) == (two if shared else None)
    more = [SimpleNamespace(platform="cpu")] * (2 * size)
    monkeypatch.setattr(jax, "local_devices", lambda: more)
    assert protecting.devices_for(size) is None


@pytest.mark.parametrize("platform, shared", [("cpu", False), ("gpu", True)])
def test_devices_of_a_cpu_share_nothing_where_xla_may_compute_wrongly(
    monkeypatch, platform, shared
):
    monkeypatch.setattr(protection, "can_share_cpu", lambda: False)
    two = [SimpleNamespace(platform=platform), SimpleNamespace(platform=platform)]
    monkeypatch.setattr(jax, "local_devices", lambda: two)
    assert protection.devices_for(2) == (two if shared else None)


def test_labels_seed_and_chunk_reach_the_attack(job, tmp_path, monkeypatch):
    told = []

    def spy(images, models, config, key, **options):
        told.append((key, options))
        return instant_protect(images)

    monkeypatch.setattr(protecting, "protect", spy)
    source = save_photo(tmp_path / "a.png")
    asked = dataclasses.replace(labelled(job, tmp_path, "a.png,1,0"), seed=5, chunk=2)
    run([source], asked)
    ((key, options),) = told
    assert key == 5 and options["chunk"] == 2
    assert {name: list(v) for name, v in options["labels"].items()} == {"Male": [1], "Young": [0]}


def test_copies_are_measured_with_their_labels(job, tmp_path, ensemble, monkeypatch):
    source = save_photo(tmp_path / "a.png")
    asked = labelled(job, tmp_path, "a.png,1,0")
    (done,) = run([source], asked)
    pair = [(source, job.out / "a.png")]
    (same,) = photos.evaluate_photos(pair, ensemble, asked.labels)
    (other,) = photos.evaluate_photos(pair, ensemble)
    name = "stargan"
    assert same.entry["models"][name] == pytest.approx(done.entry["models"][name], rel=1e-4)
    assert other.entry["models"][name] != pytest.approx(done.entry["models"][name], rel=1e-4)


def test_a_large_batch_is_measured_in_parts(job, tmp_path, ensemble, monkeypatch):
    """Its attack takes what fits the memory at a time, and must not be lost after that."""
    sizes, measure = [], protecting.measure

    def spy(generators, pairs, labels, size):
        sizes.append((len(pairs), size))
        return measure(generators, pairs, labels, size)

    monkeypatch.setattr(protecting, "protect", instant_protect)
    monkeypatch.setattr(protecting, "measure", spy)
    monkeypatch.setattr(protecting, "_MEASURED_AT_ONCE", 3)
    sources = [save_photo(tmp_path / f"{i}.png", i) for i in range(7)]
    made = run(sources, dataclasses.replace(job, batch_size=4))
    assert statuses(made) == ["done"] * 7 and sizes == [(4, 2), (3, 2)]
    pairs = [(source, job.out / source.name) for source in sources]
    for one, same in zip(made, photos.evaluate_photos(pairs, ensemble), strict=True):
        for name, values in one.entry["models"].items():
            assert same.entry["models"][name] == pytest.approx(values, rel=1e-4)


def test_changed_labels_are_noticed(job, tmp_path):
    source = save_photo(tmp_path / "a.png")
    run([source], labelled(job, tmp_path, "a.png,1,0"))
    (again,) = run([source], labelled(job, tmp_path, "a.png,0,0"))
    assert again.status == "failed"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"aligned": True}, "without --aligned"),
        ({"aligned": True, "canonical_size": 16}, "without --aligned"),
        ({"canonical_size": 16}, "with another canonical size"),
        ({"precision": "float32"}, "with another precision"),
        ({"config": Config(steps=3)}, "with steps 2, not 3"),
    ],
)
def test_settings_that_change_the_copy_need_another_folder(
    job, tmp_path, change, told, monkeypatch
):
    monkeypatch.setattr(protecting, "protect", instant_protect)
    source = save_photo(tmp_path / "a.png")
    run([source], job)
    with pytest.raises(FileError, match=f"it tells of photos made {told}; choose another --out"):
        run([source], dataclasses.replace(job, **change))


def test_psnr_and_ssim_are_of_the_square(ensemble):
    before = np.random.default_rng(0).integers(10, 240, (40, 80, 3), np.uint8)
    box = Box(0, 0, 40)
    after = write_back(before, [box], [np.full((40, 40, 3), 0.05, np.float32)], 0.05)
    pair = see_pair(before, after, box, ensemble.generators)
    assert pair.psnr == metrics.psnr(before[:, :40], after[:, :40]) < metrics.psnr(before, after)
    assert pair.ssim == metrics.ssim(before[:, :40], after[:, :40])


def test_aligned_copies_are_compared_in_the_middle(ensemble, tmp_path, monkeypatch):
    asked = []

    def spy(photo, aligned=False):
        asked.append(aligned)
        return look(photo, aligned)

    monkeypatch.setattr(protecting, "look", spy)
    a, b = save_photo(tmp_path / "a.png", 0), save_photo(tmp_path / "b.png", 1)
    list(photos.evaluate_photos([(a, b)], ensemble, aligned=True))
    assert asked == [True]


@pytest.mark.parametrize(
    ("name", "products"), [("float32", "highest"), ("tf32", "tensorfloat32"), (None, None)]
)
def test_a_precision_is_that_of_matrix_products(name, products):
    with protecting._computing_in(name):
        assert jax.config.jax_default_matmul_precision == products
