"""Shared by the tests of the command line: a tiny ensemble, and commands run in this process."""

import pytest

from cdmaa_jax import cli
from tests.tiny import save_ensemble


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
