"""Files in every format, parts of files, and files that are something else."""

from __future__ import annotations

import errno
import io
import os
import pickle
import warnings
import zipfile

import jax
import numpy as np
import pytest
import safetensors.torch
import torch

from cdmaa_jax import disk
from cdmaa_jax.generators.checkpoint import load_generator, load_params
from converters import conversion, files
from converters.__main__ import main
from converters.tables import ConversionError, Given
from tests.generators.test_registry import TINY
from tests.parity.torch_models import random_model

GIVEN = {arch: Given(16, getattr(config, "attributes", None)) for arch, config in TINY.items()}


def options(arch):
    names = getattr(TINY[arch], "attributes", ())
    return ["--image-size", "16", *(["--attributes", ",".join(names)] if names else [])]


def official(arch, seed=0):
    return dict(random_model(arch, TINY[arch], seed).state_dict())


def write(path, content, form="zip"):
    if form == "safetensors":
        path = path.with_suffix(".safetensors")
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return path


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("arch", TINY)
def test_file_to_checkpoint(tmp_path, capsys, arch, form):
    path = write(tmp_path / "200000-G.ckpt", official(arch), form)
    out = tmp_path / "out" / arch
    assert main([arch, str(path), "--out", str(out), *options(arch)]) == 0
    record, params = load_params(out)
    assert record.config == TINY[arch] and record.source_sha256 == disk.sha256_of(path)
    same(params, conversion.from_state_dict(arch, official(arch), GIVEN[arch])[1])
    printed = capsys.readouterr()
    assert f"wrote {out}" in printed.out and f"--ensemble {out}" in printed.out
    assert printed.err == "" and os.listdir(tmp_path / "out") == [arch]


def test_parts(tmp_path):
    """As each official code saves: beside the discriminator and the optimizers."""
    rest = {"optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0]}]}}
    attgan = write(tmp_path / "a.pth", {"G": official("attgan"), "D": official("stgan"), **rest})
    assert conversion.read("attgan", attgan, GIVEN["attgan"]).part == "G"
    stgan = write(tmp_path / "s.pth.tar", {"state_dict": official("stgan"), **rest})
    assert conversion.read("stgan", stgan, GIVEN["stgan"]).part == "state_dict"
    both = {"genA2B": official("ugatit", 1), "genB2A": official("ugatit", 2), "disGA": {}}
    ugatit = write(tmp_path / "u.pt", both)
    with pytest.raises(ConversionError, match="has genA2B and genB2A; choose one with --part"):
        conversion.read("ugatit", ugatit, GIVEN["ugatit"])
    for seed, part in ((1, "genA2B"), (2, "genB2A")):
        found = conversion.read("ugatit", ugatit, GIVEN["ugatit"], part)
        assert found.config.domain == part[3:]
        want = conversion.from_state_dict("ugatit", official("ugatit", seed), GIVEN["ugatit"])
        same(found.params, want[1])
    named = conversion.read("ugatit", ugatit, Given(16, ("selfie2anime",)), "genA2B")
    assert named.config.domain == "selfie2anime"
    with pytest.raises(ConversionError, match="has no part ema; it has genA2B, genB2A, disGA"):
        conversion.read("ugatit", ugatit, GIVEN["ugatit"], "ema")


@pytest.mark.parametrize("content, message", [
    ([1, 2], "holds list, not a state dict"),
    ({}, "holds no state dict"),
    ({"netG": {"a": torch.zeros(1)}}, "it has netG, choose with --part"),
    ({"epoch": 3}, "key epoch holds int, not a tensor"),
])  # fmt: skip
def test_content_that_is_no_state_dict(tmp_path, content, message):
    path = write(tmp_path / "file.pth", content)
    with pytest.raises(ConversionError, match=message):
        conversion.read("stargan", path, GIVEN["stargan"])


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_in_a_file_is_never_run(tmp_path, capsys, form):
    trap = tmp_path / "trap"
    content = {**official("stargan"), "extra": Malice(trap)}
    path = tmp_path / "file.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"extra": Malice(trap)}))
    else:
        write(path, content, form)
    assert main(["stargan", str(path), "--out", str(tmp_path / "out")]) == 1
    assert not trap.exists() and os.listdir(tmp_path) == ["file.pth"]
    error = capsys.readouterr().err
    assert error.startswith(f"cdmaa-convert: error: {path}: ") and error.count("\n") == 1
    if form != "pickle":
        assert "holds code or objects, not only tensors; nothing in it was run" in error


def test_a_whole_module_is_refused(tmp_path):
    path = tmp_path / "file.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(random_model("stargan", TINY["stargan"]), path)
    with pytest.raises(ConversionError, match="holds code or objects"):
        conversion.read("stargan", path, GIVEN["stargan"])


def test_truncated_files(tmp_path):
    for form in ("zip", "legacy", "safetensors"):
        path = write(tmp_path / f"{form}.pth", official("stargan"), form)
        whole = path.read_bytes()
        for kept in (0, 1, 10, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:kept])
            message = r"(a damaged or truncated|not a) PyTorch file|not a safetensors file"
            with pytest.raises(ConversionError, match=message) as caught:
                conversion.read("stargan", path, GIVEN["stargan"])
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_program_is_no_state_dict(tmp_path):
    path = write(tmp_path / "a.pth", official("stargan"))
    with zipfile.ZipFile(path, "a") as archive:  # what torch.jit.save writes, for later Pythons
        archive.writestr("a/code/__torch__.py", "class Module: pass")
        archive.writestr("a/constants.pkl", b"")
    with pytest.raises(ConversionError, match="holds a TorchScript program, not a state dict"):
        conversion.read("stargan", path, GIVEN["stargan"])


@pytest.mark.parametrize("way", ["compressed", "overlapping"])
def test_archives_that_unpack_to_more_than_they_are(tmp_path, monkeypatch, way):
    path, archive = write(tmp_path / "a.pth", official("stargan")), io.BytesIO()
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(archive, "w") as packed:
        for entry in plain.infolist():
            kind = zipfile.ZIP_DEFLATED if way == "compressed" else zipfile.ZIP_STORED
            packed.writestr(entry.filename, plain.read(entry), kind)
        if way == "overlapping":
            packed.filelist *= 2
    path.write_bytes(archive.getvalue())
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it is unpacked"))
    with pytest.raises(ConversionError, match="is compressed, as PyTorch's files never are"):
        conversion.read("stargan", path, GIVEN["stargan"])


def test_files_that_are_something_else(tmp_path):
    def refused(path, message):
        with pytest.raises(ConversionError, match=message):
            conversion.read("stargan", path, GIVEN["stargan"])

    refused(tmp_path / "none.pth", "the file is missing")
    refused(tmp_path, "it is a folder; give a file")
    for name, content in {
        "a.pth": b"<html>not found</html>",
        "b.pth": b"\x00\x01\x02" * 50,
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "not a PyTorch file")
    (tmp_path / "c.safetensors").write_bytes(b"<html>")
    refused(tmp_path / "c.safetensors", "not a safetensors file")
    archive = io.BytesIO()
    np.savez(archive, a=np.zeros(3))
    (tmp_path / "d.pth").write_bytes(archive.getvalue())
    refused(tmp_path / "d.pth", "a damaged or truncated PyTorch file")


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("arch", TINY)
def test_the_way_back(tmp_path, capsys, arch, suffix):
    source, back = write(tmp_path / "a.pth", official(arch)), tmp_path / f"back{suffix}"
    out = str(tmp_path / "out")
    assert main([arch, str(source), "--out", out, *options(arch)]) == 0
    assert main([arch, out, "--to-torch", str(back)]) == 0
    found = conversion.read(arch, back, GIVEN[arch])
    parts = {"attgan": "G", "stgan": "state_dict", "ugatit": "genA2B"}
    assert found.part == ("" if suffix == ".safetensors" else parts.get(arch, ""))
    same(found.params, load_params(out)[1])
    assert sorted(os.listdir(tmp_path)) == sorted(["a.pth", back.name, "out"])
    assert main([arch, out, "--to-torch", str(back)]) == 1
    assert "exists; choose another file, or replace it (--force)" in capsys.readouterr().err
    assert main([arch, out, "--to-torch", str(back), "--force"]) == 0


def test_the_way_back_of_a_direction(tmp_path, capsys):
    """A name of one's own does not say it; under the other's key the file would be of the other."""
    both = {"genA2B": official("ugatit", 1), "genB2A": official("ugatit", 2)}
    source = str(write(tmp_path / "u.pt", both))
    out, back = str(tmp_path / "out"), str(tmp_path / "back.pt")
    command = ["ugatit", source, "--part", "genB2A", "--image-size", "16", "--force"]
    assert main([*command, "--out", out]) == 0
    assert main(["ugatit", out, "--to-torch", back]) == 0
    assert conversion.read("ugatit", back, GIVEN["ugatit"]).part == "genB2A"
    assert main([*command, "--out", out, "--attributes", "anime2selfie"]) == 0
    capsys.readouterr()
    again = ["ugatit", out, "--to-torch", back, "--force"]
    assert main(again) == 1
    told = f"{out}: does not say its direction; give --part genA2B or genB2A"
    assert told in capsys.readouterr().err
    assert main([*again, "--part", "genB2A"]) == 0
    assert conversion.read("ugatit", back, GIVEN["ugatit"]).part == "genB2A"
    bare = str(tmp_path / "back.safetensors")
    assert main(["ugatit", out, "--to-torch", bare]) == 0


def test_the_way_back_replaces_tensors_alone(tmp_path, capsys):
    out = str(tmp_path / "out")
    path = write(tmp_path / "a.pth", official("stargan"))
    assert main(["stargan", str(path), "--out", out, *options("stargan")]) == 0
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xff precious")
    back = ["stargan", out, "--force", "--to-torch"]
    assert main([*back, str(photo)]) == 1
    assert "photo.jpg: exists and is no file of tensors" in capsys.readouterr().err
    assert photo.read_bytes() == b"\xff\xd8\xff precious"
    assert main([*back, out]) == 1
    assert f"{out}: is a folder; choose another file" in capsys.readouterr().err
    assert main([*back, str(tmp_path / ("n" * 300))]) == 1
    assert "cannot be written, File name too long" in capsys.readouterr().err
    assert main([*back, str(path)]) == 0


def test_a_file_that_the_system_refuses(tmp_path, monkeypatch):
    def refused(message, path=tmp_path / "a.pth"):
        with pytest.raises(ConversionError, match=message) as caught:
            conversion.read("stargan", path, GIVEN["stargan"])
        assert "\n" not in str(caught.value)

    refused("cannot be read, File name too long", tmp_path / ("n" * 300))
    write(tmp_path / "a.pth", official("stargan"))
    for error in (MemoryError(), RuntimeError("can't allocate memory: you tried to allocate 9")):

        def full(*_, error=error, **options):
            raise error

        monkeypatch.setattr(torch, "load", full)
        refused("a.pth: does not fit into memory")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_breaks_off_while_it_is_read(tmp_path, monkeypatch, suffix):
    """As on a damaged disk: reading it again, to see what is wrong with it, fails too."""
    path = write(tmp_path / f"a{suffix}", official("stargan"))
    start, reads = files._start, []

    def read(path):
        reads.append(path)
        if len(reads) > 1:
            raise OSError(errno.EIO, "Input/output error")
        return start(path)

    def fail(*_, **options):
        raise RuntimeError("unexpected end")

    monkeypatch.setattr(files, "_start", read)
    monkeypatch.setattr(torch, "load", fail)
    monkeypatch.setattr(safetensors.torch, "load_file", fail)
    with pytest.raises(ConversionError, match=f"{path}: cannot be read, Input/output error$"):
        conversion.read("stargan", path, GIVEN["stargan"])


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.pth")
    with pytest.raises(disk.FileError, match=r"a.pth: it is a pipe or a device, not a file; copy"):
        conversion.read("stargan", tmp_path / "a.pth", GIVEN["stargan"])


def test_a_pipe_is_kept(tmp_path):
    pipe = tmp_path / "a.pth"
    os.mkfifo(pipe)
    with pytest.raises(disk.FileError, match=r"a.pth: it is a pipe or a device, not a file; choo"):
        files.write_file(pipe, {"a": torch.zeros(1)}, "")
    assert pipe.is_fifo()


def test_a_name_that_is_no_text(tmp_path):
    path = tmp_path / os.fsdecode(b"\xfe.safetensors")
    try:
        write(tmp_path / "a.safetensors", official("stargan")).rename(path)
    except OSError:
        pytest.skip("such names are not allowed here")
    with pytest.raises(ConversionError, match="its path is not UTF-8 text; rename it"):
        conversion.read("stargan", path, GIVEN["stargan"])


def test_damage_is_not_called_code(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"a": 1}, 4))
    with pytest.raises(ConversionError, match="damaged or truncated"):
        conversion.read("stargan", path, GIVEN["stargan"])


def test_a_part_of_another_name_is_no_direction(tmp_path):
    path = write(tmp_path / "u.pt", {"generator": official("ugatit")})
    found = conversion.read("ugatit", path, Given(16), "generator")
    assert found.config.domain == type(found.config)().domain


def test_the_way_back_refuses(tmp_path, capsys):
    out = str(tmp_path / "out")
    path = write(tmp_path / "a.pth", official("stgan"))
    assert main(["stgan", str(path), "--out", out, *options("stgan")]) == 0
    assert main(["attgan", out, "--to-torch", str(tmp_path / "b.pth")]) == 1
    assert "holds stgan, not attgan" in capsys.readouterr().err
    bare = str(tmp_path / "b.safetensors")
    assert main(["stgan", out, "--to-torch", bare, "--part", "G"]) == 1
    assert "safetensors have no parts; leave G out" in capsys.readouterr().err
    assert main(["stgan", str(tmp_path), "--to-torch", str(tmp_path / "b.pth")]) == 1
    assert "not a generator's folder" in capsys.readouterr().err
    assert main(["stgan", out, "--to-torch", str(path / "b.pth")]) == 1
    assert "cannot be written, its folder is a file" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["a.pth", "out"]


def test_existing_output(tmp_path, capsys):
    path = write(tmp_path / "a.pth", official("stargan"))
    command = ["stargan", str(path), "--out", str(tmp_path / "out"), *options("stargan")]
    assert main(command) == 0
    assert main(command) == 1
    assert "out: exists; choose another folder, or replace it (" in (err := capsys.readouterr().err)
    assert "cdmaa-convert --force" in err
    assert main([*command, "--force", "--name", "other", "--dtype", "float16"]) == 0
    assert load_generator(tmp_path / "out").name == "other"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    command[3] = str(tmp_path / "photos")
    assert main([*command, "--force"]) == 1
    assert "exists and is not a generator" in capsys.readouterr().err
    assert os.listdir(tmp_path / "photos") == ["a.jpg"]
