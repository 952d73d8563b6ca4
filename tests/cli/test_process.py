"""Errors that no command expects: users can fix some of them, and the others are bugs."""

import os

import pytest

from cdmaa_jax.photos import protecting
from tests.cli.processes import errors, start
from tests.tiny import save_photo


def test_out_of_device_memory(protect, tmp_path, monkeypatch):
    def exhausted(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")

    monkeypatch.setattr(protecting, "protect", exhausted)
    status, _, err = protect(save_photo(tmp_path / "a.png"))
    assert status == 1 and "--batch-size" in errors(err)[0]


def test_a_bug_is_not_hidden(protect, tmp_path, monkeypatch):
    def bug(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(protecting, "protect", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        protect(save_photo(tmp_path / "a.png"))


def test_a_device_that_is_not_there_is_one_line(ensemble, tmp_path):
    env = {**os.environ, "JAX_PLATFORMS": "abacus"}
    photo = save_photo(tmp_path / "a.png")
    for command in (("info",), ("protect", photo, "--out", tmp_path / "out")):
        process = start(*command, env=env)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1 and len(errors(err)) == 1
        assert "JAX_PLATFORMS is 'abacus'; unset it" in err and "Traceback" not in err
