"""The command line: what it prints, what it writes, and how it fails."""

import dataclasses
import errno
import functools
import json
import os

import pytest

from cdmaa_jax import disk
from cdmaa_jax.attack import config as attack_config
from cdmaa_jax.generators import ensembles
from tests.cli.processes import errors
from tests.tiny import save_ensemble, save_photo


def test_protect_prints_figures_on_stdout_and_the_rest_on_stderr(protect, tmp_path):
    status, out, err = protect(save_photo(tmp_path / "a.png"), save_photo(tmp_path / "b.jpg", 1))
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split() == ["generator", "edit", "avg", "L", "L", ">", "0.05"]
    assert next(line for line in lines if line.startswith("a.png")).split()[-1].startswith("0.")
    assert "compiling" in err and "2 done" in err and "photos/s" in err
    assert "compiling" not in out and not errors(err)


def test_protect_json_is_the_report(protect, tmp_path):
    status, out, _ = protect(save_photo(tmp_path / "a.png"), "--json")
    printed = json.loads(out)
    assert status == 0 and printed == json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(printed["models"]) == {"stargan", "ugatit"}
    assert set(printed["models"]["ugatit"]["domains"]) == {"comic"}
    (photo,) = printed["photos"]
    assert {"file", "protected", "size", "face", "linf", "psnr", "ssim", "models"} <= set(photo)


def test_running_again_says_so(protect, tmp_path):
    photo = save_photo(tmp_path / "a.png")
    _, first, _ = protect(photo)
    status, again, err = protect(photo)
    assert status == 0 and again == first
    assert "1 done before" in err and "compiling" not in err


def test_evaluate_gives_the_same_figures(protect, call, ensemble, tmp_path):
    save_photo(tmp_path / "in" / "a.png")
    _, first, _ = protect(tmp_path / "in", "--json")
    status, out, _ = call(
        "evaluate", tmp_path / "in", tmp_path / "out", "--ensemble", ensemble, "--json"
    )
    assert status == 0
    before, after = json.loads(first), json.loads(out)
    for name, model in before["models"].items():
        assert after["models"][name]["avg_l"] == pytest.approx(model["avg_l"], rel=1e-4)
        assert set(after["models"][name]) == {"avg_l", "attack_rate", "domains"}
    status, table, _ = call(
        "evaluate", tmp_path / "in/a.png", tmp_path / "out/a.png", "--ensemble", ensemble
    )
    assert status == 0 and "stargan" in table


def test_crops_are_taken_as_they_are(protect, call, ensemble, tmp_path):
    photo = save_photo(tmp_path / "crop.png")
    status, table, _ = protect(photo, "--aligned")
    assert status == 0 and "aligned" in table
    copy = tmp_path / "out" / "crop.png"
    status, table, _ = call("evaluate", photo, copy, "--ensemble", ensemble, "--aligned")
    assert status == 0 and "aligned" in table


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--batch-size", "-1"), "batch size must be at least 1"),
        (("--threshold", "nan"), "threshold must be above 0"),
        (("--threshold", "inf"), "threshold must be above 0"),
        (("--threshold", "-1"), "threshold must be above 0"),
    ],
)
def test_evaluate_refuses_bad_values(call, ensemble, tmp_path, options, what):
    photo = save_photo(tmp_path / "a.png")
    status, out, err = call("evaluate", photo, photo, "--ensemble", ensemble, *options)
    assert status == 1 and out == "" and len(errors(err)) == 1 and what in errors(err)[0]


def test_evaluate_says_what_is_missing(call, ensemble, tmp_path):
    save_photo(tmp_path / "in" / "a.png"), save_photo(tmp_path / "in" / "b.png")
    save_photo(tmp_path / "out" / "a.png")
    arguments = ("evaluate", tmp_path / "in", tmp_path / "out", "--ensemble", ensemble)
    status, out, err = call(*arguments)
    assert status == 1 and "a.png" in out and "equal" in out
    assert len(errors(err)) == 1 and "no protected copy" in err


def test_a_bad_photo_is_one_line_and_the_others_are_done(protect, tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    status, out, err = protect(save_photo(tmp_path / "a.png"), tmp_path / "text.jpg")
    assert status == 1 and (tmp_path / "out" / "a.png").exists() and "a.png" in out
    assert len(errors(err)) == 1 and "no picture" in errors(err)[0]
    assert "cdmaa: 1 done in " in err and "photos/s), 1 failed\n" in err


def _folder(path):
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: path / "missing.png", "no such file"),
        (lambda path: save_photo(path / "a.png", height=1, width=1), "too few"),
        (lambda path: _folder(path / "empty"), "no picture in this folder"),
    ],
)
def test_photos_that_cannot_be_protected(protect, tmp_path, make, what):
    status, out, err = protect(make(tmp_path))
    assert status == 1 and out == "" and what in err and len(errors(err)) == 1


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--steps", "0"), "steps must be a whole number"),
        (("--epsilon", "-1"), "epsilon must be above 0"),
        (("--epsilon", "0.001"), "below one grey level"),
        (("--batch-size", "0"), "must be at least 1"),
        (("--seed", 2**64), "seed must be a whole number"),
        (("--canonical-size", "0"), "must be at least 1"),
        (("--max-pixels", "10"), "more than the limit of 10"),
        (("--labels", "missing.csv"), "no such file"),
    ],
)
def test_bad_values_are_one_line(protect, tmp_path, options, what):
    status, _, err = protect(save_photo(tmp_path / "a.png"), *options)
    assert status == 1 and what in err and len(errors(err)) == 1


def test_unknown_ensembles(call, tmp_path):
    arguments = ("protect", save_photo(tmp_path / "a.png"), "--out", tmp_path / "out", "--ensemble")
    for name, what in (
        ("nothing", "no ensemble and no directory"),
        (tmp_path, "holds no generator"),
    ):
        status, _, err = call(*arguments, name)
        assert status == 1 and what in err and len(errors(err)) == 1
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written(protect, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    status, _, err = protect(save_photo(tmp_path / "a.png"), out=tmp_path / "file")
    assert status == 1 and "it is a file, not a folder" in err and len(errors(err)) == 1

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(disk.tempfile, "TemporaryFile", refuse)
    status, _, err = protect(tmp_path / "a.png")
    assert status == 1 and "no permission" in err and len(errors(err)) == 1


def test_existing_output_needs_force(protect, tmp_path):
    photo = save_photo(tmp_path / "a.png")
    save_photo(tmp_path / "out" / "a.png", 5)
    status, _, err = protect(photo)
    assert status == 1 and "--force" in err
    assert protect(photo, "--force")[0] == 0


def test_a_full_disk(protect, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.os, "fsync", full)
    status, _, err = protect(save_photo(tmp_path / "a.png"))
    assert status == 1 and "the disk is full" in errors(err)[0]
    assert os.listdir(tmp_path / "out") == []


def test_info(call, monkeypatch, tmp_path):
    info = functools.partial(call, "info", options=())
    save_ensemble(tmp_path / "little")
    monkeypatch.setattr(ensembles, "_FOLDERS", (tmp_path,))
    status, out, _ = info()
    assert status == 0 and "stargan, 16 px: Male, Young" in out and "cpu" in out
    facts = json.loads(info("--json")[1])
    names = {"stargan", "attgan", "stgan", "ugatit", "cyclegan", "pix2pix"}
    assert set(facts["architectures"]) == names
    assert facts["ensembles"]["little"]["generators"][1]["domains"] == ["comic"]
    monkeypatch.setattr(ensembles, "_FOLDERS", ())
    assert "none in this installation" in info()[1]
    folder = str(tmp_path / "little" / "stargan")
    alone = json.loads(info("--ensemble", folder, "--json")[1])["ensembles"][folder]
    assert [member["attributes"] for member in alone["generators"]] == [["Male", "Young"]]
    assert "labels: Male, Young" in info("--ensemble", folder)[1]


def test_demo(call, monkeypatch, tmp_path):
    save_ensemble(tmp_path / "named" / "demo")
    monkeypatch.setattr(ensembles, "_FOLDERS", (tmp_path / "named",))
    quick = dataclasses.replace(attack_config.Config(), steps=2)
    monkeypatch.setattr(attack_config, "Config", lambda: quick)
    out = tmp_path / "demo"
    status, table, err = call("demo", "--out", out)
    written = ["original.png", "protected.png", "report.json", "report.png"]
    assert status == 0 and sorted(os.listdir(out)) == written
    assert "stargan" in table and "protected.png" in table and "report.png" in err
    (out / "report.png").unlink()
    status, again, err = call("demo", "--out", out)
    assert status == 0 and again == table and "done before" in err
    assert sorted(os.listdir(out)) == written
    (out / "original.png").write_bytes(b"mine")
    status, _, err = call("demo", "--out", out)
    assert status == 1 and "--force" in err


def test_demo_overwrites_no_picture_of_others(call, tmp_path):
    picture = save_photo(tmp_path / "demo" / "report.png")
    before = picture.read_bytes()
    status, _, err = call("demo", "--out", tmp_path / "demo")
    assert status == 1 and len(errors(err)) == 1 and "report.png: it exists" in errors(err)[0]
    assert picture.read_bytes() == before and os.listdir(tmp_path / "demo") == ["report.png"]
