"""The arguments: their defaults, what is refused, and the help."""

import argparse
import dataclasses
import os
import subprocess
import sys

import pytest

from cdmaa_jax import photos
from cdmaa_jax.attack import config as attack_config
from cdmaa_jax.cli import parser
from cdmaa_jax.experiments.reproduce import Request
from cdmaa_jax.generators import ensembles
from cdmaa_jax.images import files
from tests.cli.processes import ROOT


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
    args = parser.make_parser().parse_args(["reproduce", "all", "--photos", "a", "--out", "b"])
    fields = [f for f in dataclasses.fields(Request) if f.default is not dataclasses.MISSING]
    assert {f.name: getattr(args, f.name) for f in fields} == {f.name: f.default for f in fields}


@pytest.mark.parametrize(
    "command", [(), ("demo",), ("protect",), ("evaluate",), ("reproduce",), ("info",)]
)
def test_help_fits_a_terminal(call, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = call(*command, "--help", options=())
    assert status == 0 and max(map(len, out.splitlines())) <= 80


def test_help_does_not_import_jax():
    """The command's own module imports nothing slow; the package itself is not considered."""
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
