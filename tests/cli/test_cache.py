"""Where compiled programs are kept, and what happens to damaged ones."""

import argparse
import errno
import os

import jax
import pytest

from cdmaa_jax import disk
from cdmaa_jax.cli import cache, commands, process
from tests.cli.processes import start
from tests.tiny import save_photo


def test_a_damaged_program_in_the_cache_is_made_anew(ensemble, tmp_path):
    folder, photo = tmp_path / "cache", save_photo(tmp_path / "a.png")
    env = {**os.environ, cache.CACHE_VARIABLE: os.fspath(folder)}

    def protect(out):
        process = start(
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


@pytest.mark.parametrize("unsafe", [False, True])
def test_jaxs_own_cache_is_left_alone_too(tmp_path, monkeypatch, capsys, unsafe):
    """JAX reads its variable when it is imported."""
    settings, theirs = {}, tmp_path / "jax"
    theirs.mkdir()
    theirs.chmod(0o777 if unsafe else 0o700)
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", os.fspath(theirs))
    monkeypatch.delenv(cache.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv(cache.JAX_VARIABLE, os.fspath(theirs))
    process._use_cache(argparse.Namespace(no_cache=not unsafe, run=commands.demo))
    assert settings == {"jax_compilation_cache_dir": None}
    assert ("not kept" in capsys.readouterr().err) == unsafe


def test_the_cache_is_also_where_jax_is_told_to_keep_it(call, tmp_path, monkeypatch):
    monkeypatch.delenv(cache.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.fspath(tmp_path / "jax"))
    assert cache.folder_for_people() == os.fspath(tmp_path / "jax")
    monkeypatch.setenv(cache.CACHE_VARIABLE, os.fspath(tmp_path / "ours"))
    assert cache.folder_for_people() == os.fspath(tmp_path / "ours")
    _, out, _ = call("demo", "--help", options=())
    assert "$CDMAA_CACHE_DIR or $JAX_COMPILATION_CACHE_DIR" in " ".join(out.split())


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


@pytest.fixture
def kept_in(monkeypatch):
    """The folder in which a run keeps programs, or None."""

    def find():
        settings = {}
        monkeypatch.setattr(jax.config, "update", settings.__setitem__)
        with process._use_cache(argparse.Namespace(no_cache=False, run=commands.demo)):
            return settings.get("jax_compilation_cache_dir")

    return find


def test_programs_that_others_can_write_are_not_run(tmp_path, monkeypatch, capsys, kept_in):
    folder = tmp_path / "its cache"
    monkeypatch.setenv(cache.CACHE_VARIABLE, os.fspath(folder))
    assert kept_in() == os.fspath(folder) and folder.stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr().err == ""
    for opened in (folder, folder / "traced"):
        opened.mkdir(exist_ok=True)
        opened.chmod(0o770)
        assert kept_in() is None and opened.stat().st_mode & 0o777 == 0o770
        what = f"{opened}: others can write into it; run: chmod go-w '{opened}'"
        assert capsys.readouterr().err == f"cdmaa: compiled programs are not kept: {what}\n"
        opened.chmod(0o755)
        assert kept_in() == os.fspath(folder)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    assert kept_in() is None and "another user's" in capsys.readouterr().err


def test_the_default_folder_is_closed_to_others(tmp_path, monkeypatch, capsys, kept_in):
    """Earlier versions left it open where the mask of the process did."""
    for name in (cache.CACHE_VARIABLE, "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path))
    folder = tmp_path / "cdmaa-jax"
    (folder / "traced").mkdir(parents=True)
    for each in (folder, folder / "traced"):
        each.chmod(0o775)
    assert kept_in() == os.fspath(folder) and capsys.readouterr().err == ""
    assert {each.stat().st_mode & 0o777 for each in (folder, folder / "traced")} == {0o755}


def test_without_a_home_nothing_is_kept(call, monkeypatch, capsys):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in (cache.CACHE_VARIABLE, cache.JAX_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.Path, "home", homeless)
    process._use_cache(argparse.Namespace(no_cache=False, run=commands.demo))
    assert f"set {cache.CACHE_VARIABLE}" in capsys.readouterr().err
    status, out, _ = call("info", options=())
    assert status == 0 and "nowhere: there is no home folder" in out
