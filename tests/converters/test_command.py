"""The command ``cdmaa-convert``."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys

import pytest

from cdmaa_jax.generators.checkpoint import load_generator
from converters import conversion
from converters.__main__ import main
from tests.converters.test_files import official, options, write


def test_in_a_process_of_its_own(tmp_path):
    path = write(tmp_path / "a.pth", official("stargan"))
    command = [sys.executable, "-W", "error", "-m", "converters", "stargan", str(path)]
    result = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), *options("stargan"), "--json"],
        capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found["written"] == str(tmp_path / "out") and found["domains"] == ["Male", "Young"]
    assert found["config"]["width"] == 4 and len(found["source_sha256"]) == 64
    assert "main.1.running_mean" in found["ignored"] and found["part"] == ""
    assert load_generator(tmp_path / "out").image_size == 16


@pytest.mark.parametrize("arch, option, answer", [
    ("cyclegan", "padding", "replicate"),
    ("pix2pix", "statistics", "running"),
])  # fmt: skip
def test_answers_that_only_the_caller_has(tmp_path, capsys, arch, option, answer):
    path = write(tmp_path / "a.pth", official(arch))
    command = [arch, str(path), "--out", str(tmp_path / "out"), "--image-size", "16", "--json"]
    assert main([*command, f"--{option}", answer, "--attributes", "horse2zebra"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"][option] == answer and found["domains"] == ["horse2zebra"]


def test_an_error_is_one_line_and_leaves_nothing(tmp_path, capsys):
    tensors = official("stargan")
    del tensors["main.1.weight"]
    path = write(tmp_path / "a.pth", tensors)
    assert main(["stargan", str(path), "--out", str(tmp_path / "out"), *options("stargan")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"cdmaa-convert: error: {path}: tensor main.1.weight is missing\n"
    assert os.listdir(tmp_path) == ["a.pth"]


def test_keys_do_not_command_the_terminal(tmp_path, capsys):
    path = write(tmp_path / "a.pth", {"\x1b[2J\nwrote out": official("stargan")})
    assert main(["stargan", str(path), "--out", str(tmp_path / "out"), *options("stargan")]) == 1
    assert r"it has \x1b[2J\nwrote out, choose with --part" in capsys.readouterr().err


def test_without_enough_memory(tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    path = write(tmp_path / "a.pth", official("stargan"))
    monkeypatch.setattr(conversion.engine, "from_torch", fail)
    assert main(["stargan", str(path), "--out", str(tmp_path / "out"), *options("stargan")]) == 1
    what = "does not fit into memory; nothing was written"
    assert capsys.readouterr().err == f"cdmaa-convert: error: {path}: {what}\n"


def test_an_unwritable_output(tmp_path, capsys):
    path = write(tmp_path / "a.pth", official("stargan"))
    out = str(path / "out")
    assert main(["stargan", str(path), "--out", out, *options("stargan")]) == 1
    assert "out: cannot be written, its folder is a file" in capsys.readouterr().err


def test_an_interrupt(tmp_path, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "read", interrupt)
    assert main(["stargan", "a.pth", "--out", str(tmp_path / "out")]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_without_torch(monkeypatch, capsys):
    true_import = builtins.__import__

    def no_torch(name, *args, **kwargs):
        if name == "converters" and "conversion" in (args[2] or ()):
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return true_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_torch)
    assert main(["stargan", "a.pth", "--out", "out"]) == 1
    assert "torch is not installed; run pip install '.[convert]' in" in capsys.readouterr().err


def test_a_library_that_does_not_load(monkeypatch, capsys):
    def load(*_, **options):
        raise ImportError("libfoo.so.1: cannot open shared object file", name="torch")

    monkeypatch.setattr(conversion, "read", load)
    assert main(["stargan", "a.pth", "--out", "out"]) == 1
    expected = "cdmaa-convert: error: a library does not work: libfoo.so.1: cannot open"
    assert capsys.readouterr().err.startswith(expected)


def test_without_stderr_nothing_else_is_printed(tmp_path):
    command = [sys.executable, "-m", "converters", "stargan", "none.pth", "--out", "out"]
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *command],
        stdout=subprocess.PIPE, env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert (closed.returncode, closed.stdout) == (1, b"")


@pytest.mark.parametrize("arguments, message", [
    ([], "the following arguments are required: ARCH, FILE"),
    (["gan", "a.pth", "--out", "out"], "invalid choice: 'gan'"),
    (["stargan", "a.pth"], "give --out DIR, or --to-torch FILE"),
    (["stargan", "a.pth", "--out", "o", "--to-torch", "f"], "give --out DIR, or --to-torch FILE"),
    (["stargan", "a.pth", "--out", "o", "--attributes", "a,,b"], "give different names"),
    (["stargan", "a.pth", "--out", "o", "--attributes", "a,a"], "give different names"),
    (["stargan", "a", "--to-torch", "f", "--image-size", "16"], "--image-size is of no use with"),
    (["stargan", "a", "--to-torch", "f", "--dtype", "float16"], "--dtype is of no use with"),
])  # fmt: skip
def test_usage(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "cdmaa-convert stargan 200000-G.ckpt" in capsys.readouterr().out


@pytest.mark.parametrize("arch", ["stargan", "attgan", "stgan", "ugatit", "cyclegan", "pix2pix"])
@pytest.mark.parametrize("size", ["0", "-64", "6", "1000000"])
def test_sizes_that_no_generator_has(tmp_path, capsys, arch, size):
    path = write(tmp_path / "a.pth", official(arch))
    command = [arch, str(path), "--out", str(tmp_path / "out"), *options(arch)]
    status = main([*command, "--image-size", size])
    assert status == 1 and not (tmp_path / "out").exists()
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and ("image_size must be" in line or "--image-size" in line)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_summary_that_cannot_be_printed(tmp_path):
    path = write(tmp_path / "a.pth", official("stargan"))
    command = [sys.executable, "-m", "converters", "stargan", str(path)]
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*command, "--out", str(tmp_path / "out"), *options("stargan")],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "is written, but telling of it failed: No space left on device" in result.stderr
