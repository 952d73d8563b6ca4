"""What is printed where: to terminals, closed pipes, full disks, and nowhere."""

import json
import os
import subprocess
import sys

import pytest

from cdmaa_jax.cli.facts import facts_as_text
from cdmaa_jax.cli.output import fail, say
from cdmaa_jax.cli.text import _table, report_as_text
from tests.cli.processes import ROOT, buffered, errors, start
from tests.tiny import save_photo


def test_names_that_the_terminal_cannot_show_are_escaped(ensemble, tmp_path):
    photo = save_photo(tmp_path / "photo-\N{GREEK SMALL LETTER OMEGA}.png")
    process = start(
        "evaluate", photo, photo, "--ensemble", ensemble, "--no-cache",
        env={**os.environ, "PYTHONIOENCODING": "latin-1"}, encoding="latin-1",
    )  # fmt: skip
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "photo-\\u03c9.png" in out and not errors(err)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_full_disk_of_a_log_ends_no_run(ensemble, tmp_path):
    photo = save_photo(tmp_path / "a.png")
    with open("/dev/full", "w") as full:
        process = start(
            "protect", photo, tmp_path / "none.png", "--out", tmp_path / "out", "--steps", "2",
            "--json", "--no-cache", "--ensemble", ensemble, stderr=full,
        )  # fmt: skip
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 1  # of the photo that is missing
    assert [entry["file"] for entry in json.loads(out)["photos"]] == ["a.png"]
    assert (tmp_path / "out" / "a.png").exists()


def test_a_photos_line_is_of_all_its_faces():
    def square(psnr, ssim, losses, face):
        models = {"a": dict(zip("xy", losses, strict=True))}
        return {"psnr": psnr, "ssim": ssim, "models": models, "face": face and {"size": 9}}

    others = [square(30.04, 0.9, (0.06, 0.07), True), square(None, 1.0, (0.0, 0.051), True)]
    photos = [
        {"protected": "a.png", "linf": 6 / 127.5, "others": others}
        | square(33.0, 0.95, (0.04, 0.06), True),
        {"protected": "b.png", "linf": 0.0, "others": []} | square(None, 1.0, (0.0, 0.0), False),
    ]
    models = {"a": {"avg_l": 0.04, "attack_rate": 0.5, "domains": {}}}
    report = {"threshold": 0.05, "models": models, "photos": photos}
    lines = [" ".join(line.split()) for line in report_as_text(report).splitlines()]
    assert lines[-2:] == [
        "a.png 3 found 4 of 6 6 of 255 30.0 dB 0.9000",
        "b.png none: centre 0 of 2 0 of 255 equal 1.0000",
    ]
    assert "aligned" in report_as_text({**report, "aligned": True})


def test_names_do_not_command_the_terminal(capsys):
    name, shown = "\x1b[2Ka\ncdmaa: b\u202egpj.\udce9", r"\x1b[2Ka\ncdmaa: b\u202egpj.\udce9"
    say(f"{name}: note")
    fail(f"{name}: it is damaged")
    note, error = capsys.readouterr().err.splitlines()
    assert note == f"cdmaa: {shown}: note"
    assert error == rf"cdmaa: error: {shown}: it is damaged".replace(r"\n", " ")
    assert _table([("photo", "n"), (name, "1")]).splitlines()[2:] == [f"{shown}  1"]
    generator = {"name": name, "image_size": 8, "domains": [name], "attributes": []}
    ensemble = {"path": name, "generators": [generator]}
    empty = {"devices": [], "versions": {}, "architectures": {}, "cache": name}
    lines = facts_as_text({**empty, "ensembles": {"a": ensemble}}).splitlines()
    assert lines[-2:] == [f"  a ({shown})", f"    {shown}, 8 px: {shown}"]


def test_without_a_place_for_messages_nothing_is_wrong(ensemble, tmp_path):
    photo, out = save_photo(tmp_path / "a.png"), tmp_path / "out"
    arguments = ["protect", photo, "--out", out, "--steps", "1", "--no-cache", "--ensemble"]
    command = [sys.executable, "-m", "cdmaa_jax", *map(str, [*arguments, ensemble])]
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    found = subprocess.run(shell, cwd=ROOT, text=True, stdout=subprocess.PIPE, timeout=120)
    assert found.returncode == 0 and (out / "a.png").exists()
    assert "edits spoiled" in found.stdout and "cdmaa:" not in found.stdout


@pytest.mark.parametrize("environment", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["", "unbuffered"])
@pytest.mark.parametrize("arguments", [("info",), ("--help",), ("--version",)])
def test_a_reader_that_stops_reading(arguments, environment):
    process = start(*arguments, env=buffered() | environment)
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(60) in (0, 1)


def test_without_an_output_nothing_is_wrong():
    command = [sys.executable, "-m", "cdmaa_jax", "--version"]
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    found = subprocess.run(shell, cwd=ROOT, text=True, stderr=subprocess.PIPE, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device here")
@pytest.mark.parametrize("arguments", [("info",), ("--help",)])
def test_output_that_cannot_be_written_is_told_of(arguments):
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "cdmaa_jax", *arguments],
            cwd=ROOT, text=True, stdout=full, stderr=subprocess.PIPE, env=buffered(), timeout=60,
        )  # fmt: skip
    assert found.returncode == 1
    assert found.stderr == "cdmaa: error: the output cannot be written: No space left on device\n"
