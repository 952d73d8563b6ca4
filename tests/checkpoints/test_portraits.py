"""Splitting and drawing the training data; the photographs themselves are not included."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import color

from cdmaa_jax.disk import FileError
from cdmaa_jax.images.faces import Box
from cdmaa_jax.images.files import Photo
from checkpoints import portraits
from checkpoints.portraits import is_test, load, main, read_table, split
from tests.checkpoints.test_train import made_up_portraits

HEAD = "file,gender,birth_year"


def folder_of(path, *lines):
    """A folder of portraits whose table has the given lines, with the photos listed there."""
    (path / "photos").mkdir(parents=True, exist_ok=True)
    (path / "portraits.csv").write_text("\n".join(lines) + "\n")
    for line in lines[1:]:
        Image.new("RGB", (32, 32)).save(path / "photos" / line.split(",")[0])
    return path


def test_the_split_stays_what_the_bundled_generators_were_trained_with():
    """Of all the portraits, these have the hashes nearest to the limit."""
    held_out = {"P000605.jpg", "D000492.jpg", "B001284.jpg", "T000038.jpg"}
    trained_on = {"H000324.jpg", "C001066.jpg", "A000374.jpg", "B001245.jpg"}
    assert {name for name in held_out | trained_on if is_test(name)} == held_out


def test_about_a_seventh_is_for_testing():
    share = np.mean([is_test(f"{i:06d}.jpg") for i in range(4000)])
    assert 0.12 < share < 0.18


def test_the_split_as_two_folders(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("A000055.jpg", "A000014.jpg"):
        (tmp_path / "photos" / name).write_bytes(name.encode())
    split(tmp_path, tmp_path / "test", tmp_path / "rest")
    assert (tmp_path / "test" / "A000055.jpg").read_bytes() == b"A000055.jpg"
    assert (tmp_path / "rest" / "A000014.jpg").read_bytes() == b"A000014.jpg"
    assert len(os.listdir(tmp_path / "test")) == len(os.listdir(tmp_path / "rest")) == 1


def test_the_two_folders_are_made_twice_but_replace_nothing(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("A000055.jpg", "A000014.jpg"):
        (tmp_path / "photos" / name).write_bytes(b"x")
    for _ in range(2):
        split(tmp_path, tmp_path / "test", tmp_path / "rest")
    link = tmp_path / "rest" / "A000014.jpg"
    link.unlink()
    link.write_bytes(b"another")
    with pytest.raises(FileError, match=r"A000014\.jpg: it is there and no link to"):
        split(tmp_path, tmp_path / "test", tmp_path / "rest")
    assert link.read_bytes() == b"another"


def test_what_is_no_picture_is_not_split(tmp_path):
    photos = tmp_path / "photos"
    (photos / "old.jpg").mkdir(parents=True)
    for name in (".DS_Store", "._a.jpg", "notes.txt"):
        (photos / name).write_bytes(b"x")
    with pytest.raises(FileError, match="there is no picture in this folder"):
        split(tmp_path, tmp_path / "test", tmp_path / "rest")
    assert os.listdir(tmp_path) == ["photos"]
    (photos / "A000014.jpg").write_bytes(b"x")
    split(tmp_path, tmp_path / "test", tmp_path / "rest")
    assert os.listdir(tmp_path / "rest") == ["A000014.jpg"] and not (tmp_path / "test").exists()


def test_the_two_folders_are_different(tmp_path):
    (tmp_path / "link").symlink_to("test")
    with pytest.raises(FileError, match="link: it is given for the test photos and for the others"):
        split(tmp_path, tmp_path / "test", tmp_path / "link")


@pytest.mark.parametrize("options, message", [
    (["--size", "1025"], "--size must be at most 1024"),
    (["--split", "a", "b", "--size", "32"], "--cache and --size are of no use with --split"),
    (["--split", "a", "b", "--cache", "c"], "--cache and --size are of no use with --split"),
])  # fmt: skip
def test_options_that_are_of_no_use(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), *options])
    assert message in capsys.readouterr().err


def test_a_cache_gives_back_what_was_written(tmp_path):
    given, cache = made_up_portraits(), tmp_path / "cache.npz"
    portraits._write(given, cache, "ab")
    found = portraits._read(cache, 64, "ab")
    assert found.files == given.files
    for name in ("images", "comic", "test"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name), strict=True)
    for group in ("labels", "overlays"):
        assert getattr(found, group).keys() == getattr(given, group).keys()
        for name, values in getattr(given, group).items():
            np.testing.assert_array_equal(getattr(found, group)[name], values, strict=True)
    assert os.listdir(tmp_path) == ["cache.npz"]


def test_a_cache_is_read_for_its_own_table_only(tmp_path, monkeypatch):
    here = folder_of(tmp_path / "here", HEAD, "a.png,F,1960", "b.png,M,1940")
    cache = tmp_path / "cache.npz"
    monkeypatch.setattr(portraits, "_faces", lambda folder, rows: (rows, rows))
    monkeypatch.setattr(portraits, "_assemble", lambda *_: made_up_portraits())
    first = load(here, cache=cache)
    shutil.rmtree(here / "photos")
    np.testing.assert_array_equal(load(here, cache=cache).images, first.images)
    with pytest.raises(FileError, match="it holds faces of 64 pixels, not of 32; choose another"):
        load(here, 32, cache)
    there = folder_of(tmp_path / "there", HEAD, "a.png,F,1961", "b.png,M,1940")
    with pytest.raises(FileError) as caught:
        load(there, cache=cache)
    what = "it is a cache of other portraits; delete it, or choose another --cache"
    assert str(caught.value) == f"{cache}: {what}"
    whole = cache.read_bytes()
    half, other = whole[: len(whole) // 2], whole.replace(b"comic", b"tragi")
    for content in (b"", b"not at all", half, other):
        cache.write_bytes(content)
        with pytest.raises(FileError) as caught:
            load(here, cache=cache)
        what = "it is no cache of portraits, or a damaged one; choose another --cache"
        assert str(caught.value) == f"{cache}: {what}"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="it is a pipe or a device, not a file; choose another --c"):
        load(here, cache=tmp_path / "pipe")


def test_a_full_disk_leaves_nothing_of_a_cache(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(FileError, match="the disk is full; free some space"):
        portraits._write(made_up_portraits(), tmp_path / "cache.npz", "ab")
    assert os.listdir(tmp_path) == []


def test_a_table_of_a_spreadsheet_begins_with_a_mark(tmp_path):
    table = tmp_path / "portraits.csv"
    table.write_text("file,gender,birth_year,party\nb.png,M,1940,x\na.png,,\n", "utf-8-sig")
    assert [row["file"] for row in read_table(table)] == ["a.png", "b.png"]


@pytest.mark.parametrize("content, message", [
    (b"", "it has no column 'file'; its first line must name file, gender, birth_year"),
    (b"name,gender,birth_year\na,M,1\n", "it has no column 'file'; its first line must name"),
    (b"file,birth_year\na,1\n", "it has no column 'gender'; its first line must name"),
    (b"file,gender,birth_year\n", "it lists no portrait; add a line for each photo"),
    (b"file,gender,birth_year\na,,\n,F,1950\n", "portrait 2 has no file; fill it in"),
    (b"file,gender,birth_year\na,F,1\nb,,\na,,\n", "it lists a 2 times; keep one of these lines"),
    (b"file,gender,birth_year\na,F,young\n", "the birth_year of a is 'young'; make it a year"),
    (b"file,gender,birth_year\na,male,1\n", "the gender of a is 'male'; make it M or F, or leave"),
    (b"file,gender,birth_year\n../a,F,1\n", "the file ../a is named with its folder; give its"),
    (b"file,gender,birth_year\n\xff,F,1\n", "it is no CSV file in UTF-8; save it as one"),
    (b"file,gender,birth_year\na,F,1\n", "photos/a: there is no such photo, but portraits.csv"),
    (None, "portraits.csv: there is no such file or folder; check its name"),
])  # fmt: skip
def test_a_mistake_in_a_table_is_one_line(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "portraits.csv").write_bytes(content)
    assert main([str(tmp_path)]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"python -m checkpoints.portraits: error: {tmp_path}/")
    assert message in line and line.count("\n") == 1


def test_what_cannot_be_read_or_kept_is_one_line(tmp_path, capsys):
    here = folder_of(tmp_path / "here", HEAD, "a.png,F,1960")
    cases = {
        "no face is found in its photos": [here],
        "; make it, or choose another --cache": [here, "--cache", tmp_path / "none" / "cache.npz"],
        "it is a folder": [here, "--cache", tmp_path],
        "there is no such file or folder": [tmp_path, "--split", tmp_path / "a", tmp_path / "b"],
    }
    for message, arguments in cases.items():
        assert main([*map(str, arguments)]) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("python -m checkpoints.portraits: error: ") and message in line
    photo = here / "photos" / "a.png"
    photo.write_bytes(b"not a picture")
    assert main([str(here)]) == 1
    assert f"error: {photo}: " in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit, match="2"):
        main([str(here), "--size", "0"])
    assert "'0' is not a whole number above zero" in capsys.readouterr().err


def at_the_mean_place(count):
    """Frames of faces whose eyes and mouth are where they are on average."""
    left, right, mouth = portraits._LANDMARKS
    middle = (left + right) / 2
    return np.stack([np.stack([right - left, mouth - middle, middle], axis=-1)] * count)


def filled(*colours):
    """Crops of one colour each, given in CIELAB."""
    pixels = [np.rint(255 * color.lab2rgb(np.array(lab, float)[None, None])) for lab in colours]
    side = portraits._WORK
    return np.stack([np.broadcast_to(one, (side, side, 3)) for one in pixels]).astype(np.uint8)


def test_dark_hair_is_the_darkest_of_all():
    heads = filled(*[(light, 0, 0) for light in (20, 30, 50, 70, 80)])
    heads[:, :8, :8] = heads[:, :8, -8:] = (0, 200, 0)  # the background
    assert portraits._dark_hair(heads, at_the_mean_place(5)).tolist() == [1, 1, -1, 0, 0]


def test_pale_skin_is_light_and_has_little_colour():
    """The lightest has so much colour that it is not the palest; the last is grey."""
    faces = filled((60, 10, 0), (65, 40, 0), (62, 4, 0), (90, 0, 0))
    assert portraits._pale_skin(faces, at_the_mean_place(4)).tolist() == [-1, 0, 1, -1]


def test_accessories_differ_from_face_to_face_and_stay_what_they_are():
    frame, draw = at_the_mean_place(1)[0], portraits._ACCESSORIES["Bangs"]
    one, other, again = (portraits._overlay(draw, frame, f"{n}.jpg", 32) for n in (1, 2, 1))
    assert (one == again).all() and (one != other).any()


@pytest.mark.parametrize("side, is_large", [(45, True), (35, False)])
def test_a_face_is_large_enough_by_the_width_of_the_portrait(monkeypatch, side, is_large):
    pixels = np.zeros((400, 100, 3), np.uint8)
    monkeypatch.setattr(portraits, "read_photo", lambda path: Photo(pixels))
    monkeypatch.setattr(portraits, "find_face", lambda photo: Box(100, 20, side))
    assert (portraits._square(Path("a.png")) is not None) == is_large
