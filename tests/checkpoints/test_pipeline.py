"""From photographs and their table to training data and the measured tables, by the commands."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps

from cdmaa_jax.evaluation.measure import see_pair
from cdmaa_jax.generators import stargan, ugatit
from cdmaa_jax.generators.checkpoint import save_generator
from cdmaa_jax.generators.registry import init_params
from cdmaa_jax.images.faces import Box
from cdmaa_jax.images.squares import see
from checkpoints import measure, portraits
from checkpoints.measure import COMIC
from checkpoints.train import SIZE
from tests.checkpoints.test_portraits import HEAD
from tests.tiny import astronaut

CONFIGS = {
    "stargan": stargan.Config(SIZE, ("Male", "Eyeglasses"), width=4, blocks=1),
    "ugatit": ugatit.Config(SIZE, width=4, blocks=1, domain=COMIC),
}


def named(held_out, count):
    """File names that the split holds out, or does not."""
    names = (f"{i}.png" for i in range(1000))
    return [name for name in names if portraits.is_test(name) == held_out][:count]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One face in four photographs, two of them to test on: as it is, mirrored, grey and dark."""
    folder = tmp_path_factory.mktemp("portraits")
    (folder / "photos").mkdir()
    photo = Image.fromarray(astronaut()).crop((105, 5, 340, 240))
    pictures = [
        photo,
        ImageOps.mirror(photo),
        ImageOps.grayscale(photo).convert("RGB"),
        photo.point(lambda level: 2 * level // 3),
    ]
    files = [*named(False, 2), *named(True, 2)]
    for name, picture in zip(files, pictures, strict=True):
        picture.save(folder / "photos" / name)
    people = ["F,1960", "M,1940", "M,", ",1950"]
    lines = [f"{name},{person}" for name, person in zip(files, people, strict=True)]
    (folder / portraits.TABLE).write_text("\n".join([HEAD, *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def cache(folder):
    file = folder / "portraits.npz"
    assert portraits.main([str(folder), "--size", str(SIZE), "--cache", str(file)]) == 0
    return file


@pytest.fixture
def measured(folder, cache, tmp_path, monkeypatch):
    """Measures with little training and few steps: (exit status, what was written)."""
    monkeypatch.setattr(measure, "NAMES", tuple(CONFIGS))
    for arch, config in CONFIGS.items():
        save_generator(tmp_path / "ensemble" / arch, arch, config, init_params(arch, config))
    for name, value in {"STEPS": 2, "BATCH": 2, "SCALES": (2,), "QUALITIES": (50,)}.items():
        monkeypatch.setattr(measure, name, value)

    def run(what, *options):
        given = {"portraits": folder, "cache": cache, "ensemble": tmp_path / "ensemble"}
        words = [word for name, path in given.items() for word in (f"--{name}", str(path))]
        assert measure.main([what, *words, "--out", str(tmp_path / "out"), *options]) == 0
        return json.loads((tmp_path / "out" / f"{what}.json").read_text())

    return run


def test_the_data_are_made_and_counted(folder, cache, capsys):
    assert portraits.main([str(folder), "--cache", str(cache)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "4 portraits, 2 of them for the test"
    assert printed[1].split() == ["Male", "yes", "2", "no", "1", "unknown", "1"]
    found = portraits.load(folder, SIZE, cache)
    assert found.images.shape == found.comic.shape == (4, SIZE, SIZE, 3)
    of = {name: found.files.index(name) for name in found.files}
    plain, mirrored, grey, dark = (of[name] for name in [*named(False, 2), *named(True, 2)])
    assert found.test[[plain, mirrored, grey, dark]].tolist() == [False, False, True, True]
    assert found.labels["Senior"][[plain, mirrored, grey, dark]].tolist() == [0, 1, -1, 0]
    assert found.labels["Pale_Skin"][grey] == -1 and found.labels["Pale_Skin"][dark] == 0
    assert len(np.unique(found.comic[plain] // 16)) < len(np.unique(found.images[plain]))


def test_what_is_drawn_is_where_the_face_is(folder, cache):
    found = portraits.load(folder, SIZE, cache)
    assert found.overlays.keys() == {"Eyeglasses", "Beard", "Bangs", "Lipstick"}
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE

    def middle(name, i):
        alpha = found.overlays[name][i, ..., 3] / 255
        return (alpha * rows).sum() / alpha.sum(), (alpha * columns).sum() / alpha.sum()

    for i in range(4):
        heights = [middle(n, i)[0] for n in ("Bangs", "Eyeglasses", "Lipstick", "Beard")]
        assert heights == sorted(heights)
        assert abs(middle("Eyeglasses", i)[0] - 0.45) < 0.1
        assert abs(middle("Lipstick", i)[0] - 0.74) < 0.12
        assert all(abs(middle(name, i)[1] - 0.5) < 0.1 for name in found.overlays)
        lips = found.overlays["Lipstick"][i]
        red, green, _ = lips[lips[..., 3] > 128][:, :3].mean(0)
        assert red > 2 * green


def test_edits_are_measured(measured, tmp_path, capsys):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        found = measured("edits")
    assert found["portraits"] == 2
    assert {name: list(rows) for name, rows in found["models"].items()} == {
        "stargan": ["Male", "Eyeglasses"],
        "ugatit": [COMIC],
    }
    assert all(0 <= row["after"] <= 1 for row in found["models"]["stargan"].values())
    assert "| stargan | Eyeglasses |" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "edits.png") as sheet:
        assert sheet.size == (2 * SIZE * 4, 2 * SIZE * 2 + 40)  # beside the originals


def test_attacks_are_measured(measured, tmp_path, monkeypatch, capsys):
    attacks = measure.attacks
    monkeypatch.setattr(measure, "attacks", lambda ensemble: {
        title: [*options, "--steps", "2"] for title, options in attacks(ensemble).items()
    })  # fmt: skip
    titles = ["together, default", "together, default, bfloat16", measure.WHOLE]
    found = measured("attacks", "--only", *titles, "--images", "1")
    assert list(found["rows"]) == titles and found["portraits"] == 1
    assert all(row["stargan"]["avg_l"] > 0 for row in found["rows"].values())
    assert f"| {measure.WHOLE} |" in capsys.readouterr().out


def test_what_is_posted_cropped_and_in_groups_is_measured(measured, monkeypatch, capsys):
    protect = measure.protect
    monkeypatch.setattr(
        measure, "protect", lambda files, folder, seed, options: protect(
            files, folder, seed, [*options, "--steps", "2"]
        )
    )  # fmt: skip
    found = measured("posted", "--images", "1")
    (row,) = found["rows"]
    assert row["scale"] == 2 and row["square"] > 0 and set(row["attack_rate"]) == {"png", "q50"}
    assert "JPEG 50" in capsys.readouterr().out
    found = measured("cropped", "--images", "1")
    assert [row["square"] for row in found["rows"]] == list(measure.CROPS)
    assert all(row["portraits"] == 1 and 0 <= row["attack_rate"] <= 1 for row in found["rows"])
    assert "| as protected | 1 |" in capsys.readouterr().out
    monkeypatch.setattr(measure, "CROPS", {"moved out of the photo": (9.0, 1.0)})
    assert measured("cropped", "--images", "1")["rows"] == []
    monkeypatch.setattr(measure, "DISTANCES", (1.0, 0.8))
    for row in measured("groups", "--images", "2")["rows"]:
        assert row["faces"] == row["found"] == 2 and row["found_elsewhere"] == 0
        assert 0 <= row["attack_rate"] <= 1
    assert "| 0.8 | 2 | 2 | 0 |" in capsys.readouterr().out
    monkeypatch.setattr(measure, "DISTANCES", (0.9,))
    monkeypatch.setattr(measure, "beside", lambda left, right, distance: 0 * left)
    (row,) = measured("groups", "--images", "2")["rows"]
    assert (row["found"], row["found_elsewhere"], row["attack_rate"]) == (0, 0, None)
    assert "| 0.9 | 2 | 0 | 0 |  |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("face", "is_one"),
    [
        (Box(65, 65, 200), True),
        (Box(65, 65 + 264, 200), True),
        (Box(65, 65 + 132, 200), False),  # between them
        (Box(190, 135, 60), False),  # a chin
        (Box(0, 0, 180), False),
    ],
)
def test_faces_of_a_group_are_where_they_were_put(face, is_one):
    assert measure.is_of_group(face, 0.8) == is_one


@pytest.mark.parametrize(
    ("square", "change", "expected"),
    [
        (Box(10, 20, 64), "as protected", (10, 20, 64)),
        (Box(10, 20, 64), "moved by 1 pixel", (10, 21, 64)),
        (Box(10, 20, 80), "moved by a quarter of a pixel", (10, 20.3125, 80)),
        (Box(10, 56, 64), "moved by 2 pixels", (10, 54, 64)),  # on the right there is no room
        (Box(0, 20, 100), "10 % smaller", (5, 25, 90)),
        (Box(0, 20, 90), "5 % smaller", (2.25, 22.25, 85.5)),
        (Box(0, 0, 120), "moved by 1 pixel", None),
    ],
)
def test_another_square_lies_in_the_photo(square, change, expected):
    found = measure.another_square(square, 100, 120, *measure.CROPS[change])
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("side", [64, 100, 150])
@pytest.mark.parametrize(
    ("title", "pixels"),
    [("as protected", 0), ("moved by a quarter of a pixel", 0.25), ("moved by half a pixel", 0.5)],
)
def test_a_square_moved_between_pixels_is_seen_moved_by_just_that_much(side, title, pixels):
    """In a photo whose shades grow from left to right, by 3 for each pixel of the generators."""
    square, shades = Box(3, 5, side), 3 * SIZE / side * np.arange(side + 9)
    photo = np.broadcast_to(shades[:, None], (side + 9, side + 9, 3))
    another = measure.another_square(square, *photo.shape[:2], *measure.CROPS[title])
    moved = measure.see_between(photo, another, SIZE) - see(photo, square, SIZE)
    assert moved[:, 1:-1].mean() == pytest.approx(3 * pixels / 127.5, rel=0.02)
    assert pixels or not moved.any()


def test_a_pair_seen_elsewhere_is_that_of_both_photos_there():
    random = np.random.default_rng(0)
    before, after = random.integers(0, 256, (2, 40, 50, 3), np.uint8)
    generators = [SimpleNamespace(image_size=size) for size in (8, 16)]
    expected = see_pair(before, after, Box(5, 9, 30), generators)
    pair = see_pair(before, after, Box(0, 0, 20), generators)
    found = measure.seen_elsewhere(pair, before, after, measure.Square(5.0, 9.0, 30.0))
    for size in (8, 16):
        np.testing.assert_array_equal(found.clean[size], expected.clean[size])
        np.testing.assert_array_equal(found.protected[size], expected.protected[size])
