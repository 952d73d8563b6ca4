"""The report, as JSON and as a picture."""

import dataclasses
import json
import math
import os

import jax
import numpy as np
import pytest

from cdmaa_jax.disk import FileError
from cdmaa_jax.evaluation import drawing, metrics, picture, report
from cdmaa_jax.evaluation.measure import Pair, edits_of_pairs, measure, see_pair
from cdmaa_jax.images.faces import Box
from cdmaa_jax.images.files import Photo
from cdmaa_jax.images.squares import Look
from tests.attack.toys import toy
from tests.tiny import astronaut

SQUARE = Box(0, 0, 40)
LOOK = Look(None, SQUARE)


def pair_of(ensemble, seed=0, change=6):
    random = np.random.default_rng(seed)
    original = random.integers(10, 240, (40, 50, 3), np.uint8)
    protected = (original + random.integers(-change, change + 1, original.shape)).astype(np.uint8)
    return see_pair(original, protected, SQUARE, ensemble.generators)


def entry(ensemble, *pairs):
    photo = Photo(np.zeros((40, 50, 3), np.uint8), sha256="a")
    values = measure(ensemble.generators, pairs)
    domains = {generator.name: generator.domains for generator in ensemble.generators}
    looks = [LOOK] * len(pairs)
    plain = report.photo_entry("a.jpg", "a.png", photo, "b", looks, pairs, None)
    return report.with_losses([plain], values, domains)[0]


def test_a_pair_is_measured_alone_as_among_others(ensemble):
    pairs = [pair_of(ensemble, seed) for seed in range(3)]
    together = measure(ensemble.generators, pairs, batch_size=4)
    for i, pair in enumerate(pairs):
        alone = measure(ensemble.generators, [pair], batch_size=4)
        for name, values in together.items():
            np.testing.assert_allclose(alone[name][0], values[i], rtol=1e-4)


def test_edits_that_are_not_finite_are_refused(ensemble):
    first, *others = ensemble.generators
    params = jax.tree.map(lambda leaf: leaf * np.nan, first.params)
    broken = dataclasses.replace(first, name="broken", params=params)
    with pytest.raises(ValueError, match="the edits by broken are not finite"):
        measure([*others, broken], [pair_of(ensemble, 0)])


def test_many_pairs_are_measured_a_few_at_a_time(ensemble, monkeypatch):
    pairs, sizes = [pair_of(ensemble, seed) for seed in range(5)], []
    labels = {"Male": np.array([0, 1, 1, 0, 1]), "Young": [1, 1, 0, 0, 1]}
    together = measure(ensemble.generators, pairs, labels)
    edits = metrics.edits

    def spy(generator, images, conditions):
        sizes.append(len(images))
        return edits(generator, images, conditions)

    monkeypatch.setattr(metrics, "edits", spy)
    few = measure(ensemble.generators, pairs, labels, batch_size=2)
    assert sizes == [2] * 12  # three parts of originals and copies, for two generators
    assert few.keys() == together.keys()
    for name, values in together.items():
        np.testing.assert_allclose(few[name], values, rtol=1e-4)


def test_labels_choose_the_edits(ensemble):
    pairs = [pair_of(ensemble, seed) for seed in range(2)]
    labels = {"Male": np.array([0, 1]), "Young": np.array([1, 1])}
    measured = measure(ensemble.generators, pairs, labels, batch_size=4)
    unlabelled = measure(ensemble.generators, pairs, None, batch_size=4)
    assert measured["stargan"].shape == (2, 2)
    assert not np.allclose(measured["stargan"], unlabelled["stargan"], rtol=1e-6)
    np.testing.assert_allclose(measured["ugatit"], unlabelled["ugatit"])


def test_report_is_json_and_sums_up(ensemble):
    entries = [entry(ensemble, pair_of(ensemble, seed)) for seed in range(2)]
    text = report.to_json(report.build(entries, 1e-9, {"seed": 3}))
    read = json.loads(text)
    assert list(read["models"]) == ["stargan", "ugatit"]
    model = read["models"]["stargan"]
    values = [list(photo["models"]["stargan"].values()) for photo in read["photos"]]
    assert model["avg_l"] == pytest.approx(np.mean(values)) and model["attack_rate"] == 1
    assert model["domains"]["Young"]["avg_l"] == pytest.approx(np.mean(values, axis=0)[1])
    assert read["seed"] == 3 and read["versions"]["jax"] and read["photos"][0]["face"] is None
    assert read["photos"][0]["size"] == {"width": 50, "height": 40}


def test_further_faces_count_as_much_as_the_first():
    values = {"a": np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])}
    plain = [{"others": [{"ssim": 1}, {"ssim": 2}]}, {"others": []}]
    first, second = report.with_losses(plain, values, {"a": ("x", "y")})
    assert first["models"] == {"a": {"x": 1, "y": 2}}
    assert first["others"][1] == {"ssim": 2, "models": {"a": {"x": 5, "y": 6}}}
    assert [one["models"]["a"]["x"] for one in report.squares_of(first)] == [1, 3, 5]
    assert second == {"others": [], "models": {"a": {"x": 7, "y": 8}}}
    figures = report.summary([first, second], 4.0)["a"]
    assert figures["avg_l"] == 4.5 and figures["attack_rate"] == 0.5
    assert figures["domains"]["y"] == {"avg_l": 5, "attack_rate": 0.5}


@pytest.mark.parametrize("rows", (1, 3))
def test_as_many_losses_as_squares_are_needed(rows):
    plain = [{"others": []}, {"others": []}]
    with pytest.raises(ValueError, match="L of a is not that of 2 squares"):
        report.with_losses(plain, {"a": np.ones((rows, 1))}, {"a": ("x",)})


def test_what_is_equal_has_no_psnr(ensemble):
    same = entry(ensemble, pair_of(ensemble, change=0))
    assert same["psnr"] is None and same["ssim"] == pytest.approx(1) and same["linf"] == 0
    json.loads(report.to_json(report.build([same], 0.05, {})))


def test_an_empty_report():
    assert report.build([], 0.05, {})["models"] == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}', 200_000 * "["])
def test_foreign_reports_are_refused(tmp_path, text):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(FileError, match="no report of this program"):
        report.read_report(path)


@pytest.mark.parametrize("damage", [
    {"linf": math.nan}, {"linf": math.inf}, {"linf": "0"}, {"models": {}},
    {"linf": 10**400}, {"psnr": -(10**400)}, {"square": {"top": 0}},
    {"square": {"top": "0", "left": 0, "size": 40}},
    {"models": {"stargan": {"Male": 0.1, "Young": 10**400}, "ugatit": {"comic": 0.1}}},
    {"models": {"stargan": {"Male": 0.1, "Young": 0.1}}},
    {"models": {"stargan": {"Male": 0.1}, "ugatit": {"comic": 0.1}}},
    {"models": {"stargan": {"Male": 0.1, "Young": "0.1"}, "ugatit": {"comic": 0.1}}},
    {"protected": ""}, {"protected": ".."}, {"protected": "a\0.png"}, {"protected": "b/a.png"},
    {"protected": 300 * "a"}, {"protected": "\ud800.png"},
])  # fmt: skip
def test_damaged_entries_are_refused(ensemble, tmp_path, damage):
    one = entry(ensemble, pair_of(ensemble))
    path, about = tmp_path / "report.json", {"ensemble": report.describe(ensemble)}
    whole = report.build([one], 0.05, about)
    path.write_text(report.to_json(whole))
    assert report.read_report(path) == json.loads(report.to_json(whole))
    path.write_text(json.dumps({**whole, "photos": [{**one, **damage}]}))
    is_json = isinstance(damage.get("linf", 0), str | int)
    with pytest.raises(FileError, match="it is damaged" if is_json else "no report of this"):
        report.read_report(path)


def test_a_pipe_is_no_report(tmp_path):
    os.mkfifo(tmp_path / "report.json")
    with pytest.raises(FileError, match="a pipe or a device, not a file"):
        report.read_report(tmp_path / "report.json")


def test_reports_of_another_version_and_none(tmp_path):
    path = tmp_path / "report.json"
    assert report.read_report(path) is None
    with pytest.raises(FileError, match="its name is too long"):
        report.read_report(tmp_path / (300 * "a") / "report.json")
    path.write_text(report.to_json({"format": report.FORMAT, "format_version": 99}))
    with pytest.raises(FileError, match="another version"):
        report.read_report(path)


def panel(domains, losses):
    images = np.random.default_rng(0).uniform(-1, 1, (2, len(domains), 8, 8, 3))
    return picture.Panel(
        "StarGAN", domains, images[0, 0], images[1, 0], images[0], images[1], np.array(losses)
    )


@pytest.mark.parametrize("count", [1, 3, 13])
def test_picture_holds_every_edit(count):
    photo = astronaut()[:300]
    panels = [panel(tuple(f"Edit_{i}" for i in range(count)), np.linspace(0, 0.1, count))] * 2
    drawn = picture.draw_report(photo, photo, Box(30, 60, 120), panels, 0.05, math.pi)
    assert drawn.width >= 3 * 400 and drawn.mode == "RGB"
    assert drawn.height > 300 + (-(-count // 8)) * 2 * 136
    assert drawing.encode(drawn).startswith(b"\x89PNG")


def place_of(drawn, colour):
    """The first and one past the last row and column of a colour in a picture."""
    rows, columns = np.nonzero((np.asarray(drawn) == colour).all(-1))
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def solid(level, *shape):
    return np.full((*shape, 8, 8, 3), level / 127.5 - 1)


def drawn_plainly(loss):
    """A report on a grey photo, of which all parts have a shade of their own."""
    shades = solid(20), solid(40), solid(60, 1), solid(80, 1)
    panel = picture.Panel("one", ("x",), *shades, np.array([loss]))
    photo = np.full((400, 400, 3), 100, np.uint8)
    return picture.draw_report(photo, photo + 3, Box(50, 200, 90), [panel], 0.05)


def test_a_picture_shows_photo_copy_and_change_and_what_is_looked_at():
    drawn = drawn_plainly(0.1)
    original, copy, change = (place_of(drawn, 3 * (shade,)) for shade in (100, 103, 128 + 20 * 3))
    for place in (original, copy, change):
        assert place[2] - place[0] == place[3] - place[1] == 400
    assert original[3] < copy[1] and copy[3] < change[1]
    frame = np.array(place_of(drawn, drawing.FRAME)) - (original[:2] * 2)
    np.testing.assert_array_equal(frame, (50, 200, 140, 290))


def test_tiles_of_the_original_are_above_those_of_the_copy():
    clean, protected, before, after = (
        place_of(drawn_plainly(0.1), 3 * (shade,)) for shade in (20, 40, 60, 80)
    )
    assert clean[0] == before[0] < protected[0] == after[0]
    assert clean[1] == protected[1] < before[1] == after[1]


@pytest.mark.parametrize("loss, spoiled", [(0.051, True), (0.05, False)])
def test_edits_are_spoiled_above_the_threshold(loss, spoiled):
    drawn = np.asarray(drawn_plainly(loss))
    for colour, is_there in ((drawing.SPOILED, spoiled), (drawing.HELD, not spoiled)):
        assert (drawn == colour).all(-1).any() == is_there


def test_edits_of_the_original_come_before_those_of_the_copy():
    keep = toy(size=8, apply=lambda params, x, c: x)
    pair = Pair(0.0, 0.0, 0.0, {8: solid(20)}, {8: solid(40)})
    before, after = edits_of_pairs(keep, [pair])
    np.testing.assert_allclose(before[0], np.stack([solid(20)] * 3), atol=1e-6)
    np.testing.assert_allclose(after[0], np.stack([solid(40)] * 3), atol=1e-6)


def test_the_largest_change_is_that_of_the_whole_photo(ensemble):
    photo = np.full((40, 50, 3), 100, np.uint8)
    changed = photo.copy()
    changed[0, -1] = 110  # outside the square
    pair = see_pair(photo, changed, SQUARE, ensemble.generators)
    assert pair.linf == pytest.approx(10 / 127.5) and pair.psnr == math.inf


def test_names_for_people():
    assert picture.readable("Mouth_Slightly_Open") == "mouth slightly open"
    assert picture.readable("Male") == "male"
    assert picture.readable("A2B") == "A2B"


def test_pair_keeps_what_generators_see(ensemble):
    pair = pair_of(ensemble)
    assert isinstance(pair, Pair) and pair.clean[16].shape == (16, 16, 3)


@pytest.mark.parametrize(
    "other",
    [{"device": "another"}, {"devices": 1000}, {"cores": 1000}, {"matmul_precision": "highest"}],
)
def test_photos_that_were_made_otherwise_say_so(other):
    ours = report.made_with()
    there = {**ours, **other, "photos": [{"file": "a"}]}
    (entry,) = report.dated(there)
    assert entry[report.MADE_WITH] == {**ours, **other}
    assert report.dated({**ours, "photos": [{"file": "a"}]}) == [{"file": "a"}]
    before = {"file": "a", report.MADE_WITH: {**ours, "versions": {"jax": "0.1"}}}
    assert report.dated({**there, "photos": [before]}) == [before]


def test_a_report_that_does_not_tell_of_the_precision_is_of_the_default():
    ours = {key: value for key, value in report.made_with().items() if key != "matmul_precision"}
    assert report.made_with_in(ours) == report.made_with()
    assert report.dated({**ours, "photos": [{"file": "a"}]}) == [{"file": "a"}]


def test_a_report_tells_of_the_precision_of_products():
    assert report.made_with()["matmul_precision"] is None
    with jax.default_matmul_precision("highest"):
        assert report.made_with()["matmul_precision"] == "highest"


def test_a_domains_rate_is_by_the_threshold_of_the_report():
    entry = {"models": {"a": {"x": 0.2, "y": 0.02}}, "others": []}
    domains = report.summary([entry], 0.1)["a"]["domains"]
    assert domains["x"]["attack_rate"] == 1 and domains["y"]["attack_rate"] == 0
    low = report.summary([entry], 0.01)["a"]["domains"]
    assert low["y"]["attack_rate"] == 1
