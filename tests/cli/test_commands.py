"""The command line: what it prints, what it writes, and how it fails."""

import errno
import functools
import json
import logging
import os
import warnings

import pytest

from cdmaa_jax import disk, photos
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
    assert {"file", "protected", "size", "face", "others", "linf", "psnr", "ssim", "models"} <= set(
        photo
    )


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
        (("--batch-size", "-1"), "--batch-size must be at least 1"),
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
        (("--epsilon", "0.001"), "the original; give at least 0.00785"),
        (("--batch-size", "0"), "--batch-size must be at least 1"),
        (("--seed", 2**64), "seed must be a whole number"),
        (("--canonical-size", "0"), "--canonical-size must be at least 1"),
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
        ("nothing", "no ensemble and no folder"),
        (tmp_path, "holds no generator"),
        (tmp_path / "a.png", "what follows --ensemble belongs to it: give it last"),
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
    status, _, err = protect(*(save_photo(tmp_path / f"{name}.png") for name in "ab"))
    assert status == 1 and "the disk is full" in errors(err)[0] and len(errors(err)) == 1
    assert os.listdir(tmp_path / "out") == []


def test_labels_of_other_photos_are_one_line(protect, call, ensemble, tmp_path):
    a, b = save_photo(tmp_path / "in" / "a.png"), save_photo(tmp_path / "in" / "b.png")
    labels = tmp_path / "labels.csv"
    labels.write_text("file,Male,Young\nc.png,1,0\n")
    for status, out, err in (
        protect(a, b, "--labels", labels),
        call("evaluate", a, b, "--ensemble", ensemble, "--labels", labels),
    ):
        assert status == 1 and out == "" and len(errors(err)) == 1
        assert "labels.csv: it has no line for any of the photos" in err


def test_generators_for_demonstration_are_told_of(protect, tmp_path, monkeypatch):
    told = "these generators are for demonstration; name those that you fear with --ensemble"
    photo = save_photo(tmp_path / "a.png")
    assert told not in protect(photo)[2]
    monkeypatch.setattr(ensembles, "is_for_demonstration", lambda ensemble: True)
    assert told in protect(photo)[2]
    assert ensembles.is_for_demonstration(ensembles.load_ensemble([ensembles.DEFAULT]))


def test_options_reach_the_job(protect, ensemble, tmp_path, monkeypatch):
    jobs = []

    def spy(found, job, starting, partly):
        jobs.append(job)
        return iter(())

    monkeypatch.setattr(photos, "protect_photos", spy)
    labels = tmp_path / "labels.csv"
    labels.write_text("file,Male,Young\na.png,1,0\n")
    given = {
        "seed": 5, "canonical_size": 20, "batch_size": 3, "chunk": 2, "precision": "bfloat16",
        "max_pixels": 5000, "force": True, "aligned": True, "labels": labels,
    }  # fmt: skip
    attack = {
        "update": "mi-fgsm", "across_domains": "iterative", "across_models": "weighted",
        "model_weights": (1.0, 3.0), "regularization": "none", "zeta": 0.1, "threshold": 0.2,
        "start": "uniform", "loss": "face-weighted", "epsilon": 0.1, "step_size": 0.02,
    }  # fmt: skip
    words = []
    for name, value in (given | attack).items():
        values = () if value is True else value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *values]
    assert protect(save_photo(tmp_path / "a.png"), *words)[0] == 0
    (job,) = jobs
    assert job.config == attack_config.Config(steps=2, **attack)
    assert job.labels.path == labels and job.labels.attributes == ("Male", "Young")
    assert {name: getattr(job, name) for name in given if name != "labels"} == {
        name: value for name, value in given.items() if name != "labels"
    }


def test_notices_of_the_library_are_the_command_s_own(protect, tmp_path, monkeypatch):
    def warn(*_):
        warnings.warn("something is odd", stacklevel=1)
        logging.getLogger("cdmaa_jax.kept").warning("something is not kept")
        return iter(())

    monkeypatch.setattr(photos, "protect_photos", warn)
    with warnings.catch_warnings(action="default"):
        err = protect(save_photo(tmp_path / "a.png"))[2].splitlines()
    assert {"cdmaa: something is odd", "cdmaa: something is not kept"} <= set(err)
    assert not any("UserWarning" in line or "stacklevel" in line for line in err)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--step-size", "3"), "--step-size must be above 0 and at most 2, not 3.0"),
        (("--model-weights", "1"), "--model-weights needs --across-models weighted, not mgda"),
        (("--across-models", "weighted"), "--across-models weighted needs --model-weights, a num"),
        (
            ("--across-models", "weighted", "--model-weights", "1"),
            "--model-weights must have one number for each generator: 2, not 1",
        ),
        (("--loss", "latent"), "stargan has no encoder, which the loss latent needs: leave star"),
    ],
)
def test_messages_name_options_as_they_are_typed(protect, tmp_path, options, what):
    status, _, err = protect(save_photo(tmp_path / "a.png"), *options)
    assert status == 1 and len(errors(err)) == 1 and what in errors(err)[0]


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

    class Quick(attack_config.Config):
        def __init__(self, **options):
            super().__init__(**({"steps": 2} | options))

    monkeypatch.setattr(attack_config, "Config", Quick)
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


def test_demo_writes_nothing_beside_another_run(call, tmp_path):
    with disk.locked(tmp_path):
        before = os.listdir(tmp_path)
        status, _, err = call("demo", "--out", tmp_path)
        assert status == 1 and "another run is writing into this folder" in err
        assert os.listdir(tmp_path) == before


def test_demo_leaves_the_folder_of_others_as_it_is(call, protect, tmp_path):
    assert protect(save_photo(tmp_path / "a.png"))[0] == 0
    before = sorted(os.listdir(tmp_path / "out"))
    status, _, err = call("demo", "--out", tmp_path / "out")
    assert status == 1 and "report.json: it exists; choose another --out" in err
    assert sorted(os.listdir(tmp_path / "out")) == before


def test_an_empty_path_is_none(call, protect, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo = save_photo(tmp_path / "a.png")
    for status, _, err in (
        protect(photo, out=""),
        protect(""),
        call("evaluate", "", photo),
        call("info", "--ensemble", "", options=()),
    ):
        assert status in (1, 2) and ("it is empty; give a path" in err or "needs a name" in err)
    assert os.listdir(tmp_path) == ["a.png"]


def test_demo_overwrites_no_picture_of_others(call, tmp_path):
    picture = save_photo(tmp_path / "demo" / "report.png")
    before = picture.read_bytes()
    status, _, err = call("demo", "--out", tmp_path / "demo")
    assert status == 1 and len(errors(err)) == 1 and "report.png: it exists" in errors(err)[0]
    assert picture.read_bytes() == before and os.listdir(tmp_path / "demo") == ["report.png"]
