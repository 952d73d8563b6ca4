"""``cdmaa reproduce``: what it prints, and how it fails."""

import importlib.util
import json
import sys

import pytest

from cdmaa_jax import cli
from cdmaa_jax.cli import parser
from cdmaa_jax.cli.text import duration
from cdmaa_jax.experiments import reproduce
from tests.cli.processes import errors
from tests.tiny import save_ensemble, save_photo


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    return save_ensemble(tmp_path_factory.mktemp("ensemble"))


@pytest.fixture
def call(ensemble, tmp_path, capsys):
    """Runs the command on two photos: (exit status, stdout, stderr)."""
    for i in range(2):
        save_photo(tmp_path / "in" / f"{i}.png", i)

    def run(*arguments, photos=tmp_path / "in"):
        options = ("--photos", photos, "--out", tmp_path / "out", "--ensemble", ensemble)
        options += ("--steps", 2, "--batch-size", 2, "--no-cache")
        try:
            status = cli.main([*map(str, ("reproduce", *options)), *map(str, arguments)])
        except SystemExit as exit:
            status = exit.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_the_choices_are_the_results():
    assert parser._RESULTS == reproduce.WHAT


def test_a_table_goes_to_stdout_and_the_rest_to_stderr(call, tmp_path):
    (tmp_path / "in" / "bad.jpg").write_text("no photo")
    status, out, err = call("table4", "--images", 3)
    assert status == 0
    assert out.startswith("# The paper's experiments") and "| stargan |" in out
    assert (
        "--photos has 2 that can be used, not the 3 of --images" in err
        and "columns to measure" in err
    )
    assert len(errors(err)) == 1 and "bad.jpg" in errors(err)[0]
    status, out, err = call("table4", "--images", 3, "--json")
    assert status == 0 and json.loads(out)["results"] == ["table4"]
    assert "columns to measure" not in err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("table5",), "invalid choice"),
        (("table1", "--images", "0"), "images must be at least 1"),
        (("table1", "--steps", "-1"), "steps must be at least 1"),
        (("table1", "--max-pixels", "0"), "--max-pixels must be at least 1"),
        (("table1", "--attributes", "missing.txt"), "no such file"),
        (("table1", "--partition", "missing.txt"), "no such file"),
        (("related", "--tune-photos", "missing"), "no such file"),
        (("table1", "--ensemble", "missing"), "there is no ensemble"),
    ],
)
def test_mistakes_are_one_line(call, arguments, what):
    status, out, err = call(*arguments)
    assert status in (1, 2) and out == ""
    assert what in err and len(errors(err)) == 1


def test_a_folder_without_photos_is_one_line(call, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, err = call("table1", photos=tmp_path / "empty")
    assert status == 1 and len(errors(err)) == 1 and "no picture in this folder" in err


def test_without_matplotlib_it_says_what_to_install_before_it_works(call, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name)
    )
    status, _, err = call("table1")
    assert (
        status == 1
        and "run pip install '.[reproduce]' in the folder of cdmaa-jax" in errors(err)[0]
    )
    assert not (tmp_path / "out").exists()


def test_a_matplotlib_that_does_not_load_is_found_out_before_the_work(call, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, err = call("table1")
    assert status == 1 and "matplotlib, which draws the charts, does not work: " in errors(err)[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("seconds", "words"), [(7.2, "7 s"), (600, "10 min"), (11100, "3 h 05 min")]
)
def test_durations_for_people(seconds, words):
    assert duration(seconds) == words
