"""The benchmark of whole runs, from files to files."""

import errno
import json

import pytest
from PIL import Image

from benchmarks import __main__ as command
from benchmarks import photos
from cdmaa_jax.photos import protecting
from tests.tiny import instant_protect, save_ensemble


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Of a brief run, whose attack takes no time."""
    monkeypatch.setattr(protecting, "protect", instant_protect)
    ensemble = save_ensemble(tmp_path / "ensemble")
    brief = ["--photos", "3", "--batch", "2", "--megapixels", "0.02", "--rounds", "2"]
    return ["photos", *brief, "--ensemble", str(ensemble)]


def test_rate_of_photos_from_files_to_files(arguments, tmp_path, capsys):
    file = tmp_path / "found.json"
    assert command.main([*arguments, "--json", str(file)]) == 0
    found, output = json.loads(file.read_text()), capsys.readouterr()
    assert output.err.count("round") == 2
    seconds = found["seconds_per_photo"]
    assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
    assert found["photos_per_second"] == pytest.approx(1 / seconds["median"])
    assert 0 < found["share_of_time_in_attacks"]["median"] < 1
    assert f"{found['photos_per_second']:.3g} photos a second" in output.out


def test_the_batch_that_is_not_timed_is_like_the_others(arguments, monkeypatch):
    sizes = []

    def spy(*given, batch_size, **options):
        sizes.append(batch_size)
        return instant_protect(*given, batch_size=batch_size, **options)

    monkeypatch.setattr(protecting, "protect", spy)
    assert command.main([*arguments, "--photos", "5", "--batch", "4"]) == 0
    assert sizes == [3] + 2 * [3, 3]


def test_photos_differ_and_have_the_size_that_was_asked_for(tmp_path):
    options = photos.Options(photos=2, megapixels=0.03)
    one, other = photos.make_photos(tmp_path / "photos", options)
    assert one.read_bytes() != other.read_bytes()
    with Image.open(one) as picture:
        assert picture.size == (150, 200)


def test_a_photo_that_fails_stops_the_benchmark(arguments, monkeypatch, capsys):
    def damaged(folder, options):
        folder.mkdir()
        (folder / "a.jpg").write_bytes(b"no picture")
        return [folder / "a.jpg"]

    monkeypatch.setattr(photos, "make_photos", damaged)
    assert command.main(arguments) == 1
    assert "error: a photo could not be protected: " in capsys.readouterr().err


def test_a_full_temporary_folder_is_one_line(arguments, monkeypatch, capsys):
    def full(folder, options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(photos, "make_photos", full)
    assert command.main(arguments) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and line.endswith(
        ": the disk is full; free some space and run again"
    )
    assert command.main([*arguments, "--precision", "tf32"]) == 1
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith("error: --precision tf32 needs a GPU")
    )


@pytest.mark.parametrize("megapixels", ["0", "nan", "101", "many"])
def test_sizes_that_no_photo_has(megapixels, capsys):
    with pytest.raises(SystemExit):
        command.main(["photos", "--megapixels", megapixels])
    assert "from 0.01 to 100" in capsys.readouterr().err
