"""The command line: what it prints, what it writes, and how it fails."""

import argparse
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from cdmaa_jax import cli, disk, photos
from cdmaa_jax.attack import config as attack_config
from cdmaa_jax.cli import cache, commands, parser, process
from cdmaa_jax.generators import ensembles
from cdmaa_jax.images import files
from tests.tiny import save_ensemble, save_photo

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    return save_ensemble(tmp_path_factory.mktemp("ensemble"))


@pytest.fixture
def call(ensemble, capsys):
    """Runs a command in this process: (exit status, stdout, stderr)."""

    def run(*arguments, options=("--no-cache",)):
        try:
            status = cli.main([*map(str, arguments), *options])
        except SystemExit as exit:
            status = exit.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def protect(call, ensemble, tmp_path):
    """Runs ``cdmaa protect`` with the tiny ensemble and two steps, into ``tmp_path / "out"``."""

    def run(*arguments, out=tmp_path / "out"):
        options = ("--out", out, "--steps", 2, "--ensemble", ensemble)
        return call("protect", *options, "--seed", 0, *arguments)

    return run


def errors(text):
    return [line for line in text.splitlines() if line.startswith("cdmaa: error: ")]


def test_protect_prints_figures_on_stdout_and_the_rest_on_stderr(protect, tmp_path):
    status, out, err = protect(save_photo(tmp_path / "a.png"), save_photo(tmp_path / "b.jpg", 1))
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split() == ["model", "edit", "avg", "L", "L", ">", "0.05"]
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


def test_names_that_the_terminal_cannot_show_are_escaped(ensemble, tmp_path):
    photo = save_photo(tmp_path / "photo-\N{GREEK SMALL LETTER OMEGA}.png")
    process = _process(
        "evaluate", photo, photo, "--ensemble", ensemble, "--no-cache",
        env={**os.environ, "PYTHONIOENCODING": "latin-1"}, encoding="latin-1",
    )  # fmt: skip
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "photo-\\u03c9.png" in out and not errors(err)


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


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("unknown",),
        ("protect",),
        ("protect", "a.png"),
        ("protect", "a.png", "--out", "x", "--update", "adam"),
        ("protect", "a.png", "--out", "x", "--steps", "many"),
        ("evaluate", "a.png"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(call, arguments):
    status, out, err = call(*arguments, options=())
    assert status == 2 and out == ""
    assert len(err.splitlines()) == 1 and err.startswith("cdmaa: error: ") and "--help" in err


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


def test_out_of_device_memory(protect, tmp_path, monkeypatch):
    def exhausted(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")

    monkeypatch.setattr(photos, "protect", exhausted)
    status, _, err = protect(save_photo(tmp_path / "a.png"))
    assert status == 1 and "--batch-size" in errors(err)[0]


def test_a_bug_is_not_hidden(protect, tmp_path, monkeypatch):
    def bug(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(photos, "protect", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        protect(save_photo(tmp_path / "a.png"))


def test_info(call, monkeypatch, tmp_path):
    save_ensemble(tmp_path / "little")
    monkeypatch.setattr(ensembles, "_FOLDERS", (tmp_path,))
    status, out, _ = call("info")
    assert status == 0 and "stargan, 16 px: Male, Young" in out and "cpu" in out
    facts = json.loads(call("info", "--json")[1])
    names = {"stargan", "attgan", "stgan", "ugatit", "cyclegan", "pix2pix"}
    assert set(facts["architectures"]) == names
    assert facts["ensembles"]["little"]["generators"][1]["domains"] == ["comic"]
    monkeypatch.setattr(ensembles, "_FOLDERS", ())
    assert "none in this installation" in call("info")[1]
    folder = str(tmp_path / "little" / "stargan")
    alone = json.loads(call("info", "--ensemble", folder, "--json")[1])["ensembles"][folder]
    assert [member["attributes"] for member in alone["generators"]] == [["Male", "Young"]]
    assert "labels: Male, Young" in call("info", "--ensemble", folder)[1]


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


def test_options_mirror_the_config():
    bare = argparse.ArgumentParser()
    parser._add_config(bare)
    actions = {action.dest: action for action in bare._actions if action.dest != "help"}
    defaults = dataclasses.asdict(attack_config.Config())
    choices = attack_config.choices()
    assert defaults.pop("perturbation") == "image"  # the other is for ``fit_universal`` alone
    assert "universal" in choices.pop("perturbation")
    assert {name: action.default for name, action in actions.items()} == defaults
    allowed = {name: set(action.choices) for name, action in actions.items() if action.choices}
    assert allowed == {name: set(values) for name, values in choices.items()}


def test_defaults_are_those_of_the_library():
    args = parser.make_parser().parse_args(["protect", "a.png", "--out", "b"])
    assert args.batch_size == photos.BATCH_SIZE and args.max_pixels == files.MAX_PIXELS
    assert args.ensemble == [ensembles.DEFAULT] and args.seed == photos.Job.seed


@pytest.mark.parametrize(
    "command", [(), ("demo",), ("protect",), ("evaluate",), ("reproduce",), ("info",)]
)
def test_help_fits_a_terminal(call, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = call(*command, "--help", options=())
    assert status == 0 and max(map(len, out.splitlines())) <= 100


def test_help_does_not_import_jax():
    """The command's own module imports nothing slow; the package is left out of account."""
    code = (
        "import sys, types\n"
        "package = types.ModuleType('cdmaa_jax')\n"
        f"package.__path__ = [{os.fspath(ROOT / 'cdmaa_jax')!r}]\n"
        "sys.modules['cdmaa_jax'] = package\n"
        "import cdmaa_jax.cli\n"
        "cdmaa_jax.cli.parser.make_parser()\n"
        "assert not {'jax', 'numpy', 'PIL', 'tqdm', 'skimage'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _process(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "cdmaa_jax", *map(str, arguments)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


@pytest.fixture
def interruptible():
    """Processes that are started take SIGINT, even where this one was started to ignore it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def _endless(ensemble, tmp_path):
    """An attack that would take hours, and the folder it would write into."""
    out, photo = tmp_path / "out", save_photo(tmp_path / "a.png")
    options = ("--ensemble", ensemble, "--steps", 10**6, "--no-cache")
    return out, _process("protect", photo, "--out", out, *options)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["int", "term", "hup"],
)
def test_an_interrupt_ends_at_once_with_nothing_half_written(ensemble, tmp_path, number, status):
    out, process = _endless(ensemble, tmp_path)
    try:
        assert any("compiling" in line for line in process.stderr)
        time.sleep(0.5)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status
    assert len(errors(err)) == 1 and "interrupted" in errors(err)[0]
    assert os.listdir(out) == []


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_that_nobody_can_be_told_of(ensemble, tmp_path):
    """As in ``2>&1 | tee``, which the same Ctrl-C ends first."""
    out, process = _endless(ensemble, tmp_path)
    try:
        assert any("compiling" in line for line in process.stderr)
        process.stderr.close()
        process.stdout.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    assert os.listdir(out) == []


def test_a_damaged_program_in_the_cache_is_made_anew(ensemble, tmp_path):
    folder, photo = tmp_path / "cache", save_photo(tmp_path / "a.png")
    env = {**os.environ, cache.CACHE_VARIABLE: os.fspath(folder)}

    def protect(out):
        process = _process(
            "protect", photo, "--out", tmp_path / out, "--ensemble", ensemble, "--steps", 1, env=env
        )
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0 and "Warning" not in err
        return {path: path.read_bytes() for path in folder.glob("*-cache")}

    whole = protect("one")
    damaged = {path: data[: len(data) // 2] for path, data in whole.items()}
    for path, data in damaged.items():
        path.write_bytes(data)
    again = protect("two")
    assert again and not again.items() & damaged.items()


def test_a_device_that_is_not_there_is_one_line(ensemble, tmp_path):
    env = {**os.environ, "JAX_PLATFORMS": "abacus"}
    photo = save_photo(tmp_path / "a.png")
    for command in (("info",), ("protect", photo, "--out", tmp_path / "out")):
        process = _process(*command, env=env)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1 and len(errors(err)) == 1
        assert "JAX_PLATFORMS is 'abacus'; unset it" in err and "Traceback" not in err


def test_without_a_place_for_messages_nothing_is_wrong(ensemble, tmp_path):
    photo, out = save_photo(tmp_path / "a.png"), tmp_path / "out"
    arguments = ["protect", photo, "--out", out, "--steps", "1", "--no-cache", "--ensemble"]
    command = [sys.executable, "-m", "cdmaa_jax", *map(str, [*arguments, ensemble])]
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    found = subprocess.run(shell, cwd=ROOT, text=True, stdout=subprocess.PIPE, timeout=120)
    assert found.returncode == 0 and (out / "a.png").exists()
    assert "edits spoiled" in found.stdout and "cdmaa:" not in found.stdout


def test_the_cache_is_kept_where_it_is_asked_for(tmp_path, monkeypatch, capsys):
    settings = {}
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    monkeypatch.setenv(cache.CACHE_VARIABLE, os.fspath(tmp_path / "cache"))
    process._use_cache(argparse.Namespace(no_cache=True, run=commands.demo))
    assert settings == {}
    process._use_cache(argparse.Namespace(no_cache=False, run=commands.demo))
    assert settings["jax_compilation_cache_dir"] == os.fspath(tmp_path / "cache")
    assert (tmp_path / "cache").is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.CACHE_VARIABLE, os.fspath(tmp_path / "file" / "cache"))
    process._use_cache(argparse.Namespace(no_cache=False, run=commands.demo))
    assert "not kept" in capsys.readouterr().err


def test_a_cache_folder_that_cannot_be_written_into(tmp_path, monkeypatch, capsys):
    def refuse(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setenv(cache.CACHE_VARIABLE, os.fspath(tmp_path))
    monkeypatch.setattr(disk.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(jax.config, "update", lambda *_: pytest.fail("it is used all the same"))
    process._use_cache(argparse.Namespace(no_cache=False, run=commands.demo))
    assert capsys.readouterr().err == (
        f"cdmaa: compiled programs are not kept: {tmp_path}: no permission\n"
    )


def test_without_a_home_nothing_is_kept(call, monkeypatch, capsys):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in (cache.CACHE_VARIABLE, "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.Path, "home", homeless)
    process._use_cache(argparse.Namespace(no_cache=False, run=commands.demo))
    assert f"set {cache.CACHE_VARIABLE}" in capsys.readouterr().err
    status, out, _ = call("info", options=())
    assert status == 0 and "nowhere: there is no home folder" in out


def buffered():
    """The environment, with output that is written when there is a bufferful of it."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.parametrize("environment", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["", "unbuffered"])
@pytest.mark.parametrize("arguments", [("info",), ("--help",), ("--version",)])
def test_a_reader_that_stops_reading(arguments, environment):
    process = _process(*arguments, env=buffered() | environment)
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
