"""Generators on disk: what is written can be read back, and anything else is one clear line."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import shutil
import stat

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cdmaa_jax.generators import checkpoint
from cdmaa_jax.generators.checkpoint import (
    CheckpointError,
    load_generator,
    load_params,
    read_metadata,
    save_generator,
)
from cdmaa_jax.generators.registry import ARCHITECTURES
from tests.generators.test_registry import TINY, random_params


def save(directory, arch="stargan", **options):
    save_generator(directory, arch, TINY[arch], random_params(arch, TINY[arch]), **options)
    return directory


def edit(directory, **fields):
    path = directory / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def files(directory):
    return {p.relative_to(directory): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_round_trip(tmp_path, arch):
    config, params = TINY[arch], random_params(arch, TINY[arch])
    save_generator(tmp_path / "g", arch, config, params, name="mine")
    record, loaded = load_params(tmp_path / "g")
    assert (record.name, record.architecture, record.config) == ("mine", arch, config)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    generator = load_generator(tmp_path / "g")
    assert generator.name == "mine" and generator.domains == record.domains
    leaves = jax.tree.leaves(generator.params)
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}
    assert {len(leaf.devices()) for leaf in leaves} == {1}


def test_metadata(tmp_path):
    extra = {"description": "drawn hats", "seeds": [1, 2]}
    save(tmp_path / "g", metadata=extra, source_sha256="ab" * 32)
    record = read_metadata(tmp_path / "g")
    assert record.extra == extra and record.source_sha256 == "ab" * 32
    assert record.image_size == 16 and record.domains == ("Male", "Young")
    fields = json.loads((tmp_path / "g" / "metadata.json").read_text())
    assert fields["format_version"] == 1 and fields["architecture"] == "stargan"
    assert json.loads((save(tmp_path / "h") / "metadata.json").read_text())["source_sha256"] is None


def test_half_size(tmp_path):
    save(tmp_path / "half", dtype="float16")
    record, loaded = load_params(tmp_path / "half")
    assert record.dtype == "float16"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded)} == {"float32"}
    want = random_params("stargan", TINY["stargan"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), loaded, want)


def test_a_copy_without_empty_folders_loads_read_only_elsewhere(tmp_path):
    save(tmp_path / "here")
    for path, content in files(tmp_path / "here").items():
        (tmp_path / "there" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "there" / path).write_bytes(content)
        assert os.fsencode(tmp_path) not in content
    shutil.rmtree(tmp_path / "here")
    for path in [tmp_path / "there", *(tmp_path / "there").rglob("*")]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    before = files(tmp_path / "there")
    try:
        load_generator(os.path.relpath(tmp_path / "there"))
        assert files(tmp_path / "there") == before
    finally:
        for path in [tmp_path / "there", *(tmp_path / "there").rglob("*")]:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)


def test_equal_loads_share_one_program(tmp_path):
    traces = []

    @jax.jit
    def run(generator, x, c):
        traces.append(generator.name)
        return generator(x, c)

    save(tmp_path / "g")
    x = np.zeros((1, 16, 16, 3), np.float32)
    for _ in range(3):
        generator = load_generator(tmp_path / "g")
        run(generator, x, generator.conditions(None)[:, 0])
    assert len(traces) == 1


def test_is_quiet(tmp_path, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        save(tmp_path / "g")
        load_generator(tmp_path / "g")
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_does_not_overwrite_unless_asked(tmp_path):
    save(tmp_path / "g")
    before = files(tmp_path / "g")
    with pytest.raises(CheckpointError, match="g: exists; choose another folder"):
        save(tmp_path / "g", name="new")
    assert files(tmp_path / "g") == before
    save(tmp_path / "g", name="new", overwrite=True)
    assert load_generator(tmp_path / "g").name == "new"
    assert os.listdir(tmp_path) == ["g"]


def test_overwrites_nothing_but_a_generator(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.json").write_text('{"format": "a data set"}')
    for name in ("photos", "file", "data"):
        with pytest.raises(CheckpointError, match="exists and is not a generator"):
            save(tmp_path / name, overwrite=True)
    assert (tmp_path / "photos" / "a.jpg").exists()
    (tmp_path / "empty").mkdir()
    load_generator(save(tmp_path / "empty"))
    (tmp_path / "empty" / "weights.ckpt").write_text("x")
    with pytest.raises(CheckpointError, match=r"holds weights\.ckpt beside a generator"):
        save(tmp_path / "empty", overwrite=True)
    assert (tmp_path / "empty" / "weights.ckpt").exists()


def test_the_folder_that_it_runs_in_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"^\.: is the folder that this runs in"):
        save(".")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    save(tmp_path / "g")
    before = files(tmp_path / "g")

    def fail(path, arrays):
        path.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_arrays", fail)
    for name in ("g", "new"):
        with pytest.raises(CheckpointError, match=f"{name}: cannot be written, No space left"):
            save(tmp_path / name, overwrite=True)
    assert os.listdir(tmp_path) == ["g"] and files(tmp_path / "g") == before

    def interrupt(path, arrays):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_write_arrays", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "g", overwrite=True)
    assert os.listdir(tmp_path) == ["g"] and files(tmp_path / "g") == before


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room is not asked for there")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EOPNOTSUPP])
def test_room_is_asked_for_before_orbax_writes(tmp_path, monkeypatch, capfd, number):
    asked = []

    def refuse(descriptor, start, size):
        asked.append(size)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    if number == errno.EOPNOTSUPP:  # the file system cannot tell
        save(tmp_path / "g")
    else:
        with pytest.raises(CheckpointError, match=rf"cannot be written, {os.strerror(number)}$"):
            save(tmp_path / "g")
        assert os.listdir(tmp_path) == []
    params = random_params("stargan", TINY["stargan"])
    assert asked == [sum(leaf.nbytes for leaf in jax.tree.leaves(params))]
    assert capfd.readouterr().err == ""


def test_what_orbax_finds_out_is_one_line(tmp_path, monkeypatch):
    def fail(error):
        def save(*_, **options):
            raise error

        monkeypatch.setattr(ocp.PyTreeCheckpointer, "save", save)

    fail(ValueError("RESOURCE_EXHAUSTED: Error writing\nand more"))
    with pytest.raises(CheckpointError, match=r"fails with ValueError: RESOURCE_.* and more$"):
        save(tmp_path / "g")
    fail(OSError(errno.EIO, "Input/output error"))
    with pytest.raises(CheckpointError, match=r"cannot be written, Input/output error$"):
        save(tmp_path / "g")
    fail(MemoryError())
    with pytest.raises(MemoryError):
        save(tmp_path / "g")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error")])
@pytest.mark.parametrize("place", ["old", "new", "new and back"])
def test_what_was_there_outlives_a_failed_replacement(tmp_path, monkeypatch, place, error):
    """Ctrl-C may arrive after a move has been made. Where nothing can be moved back, it waits."""
    before = files(save(tmp_path / "g"))
    rename = type(tmp_path).rename
    last = {"old": tmp_path / "g", "new": ".tmp", "new and back": (".tmp", ".old")}[place]

    def fail(path, target):
        if path == last and target.suffix == ".old":
            rename(path, target)
            raise error
        if last != tmp_path / "g" and path.suffix in last:
            raise error
        rename(path, target)

    monkeypatch.setattr(type(tmp_path), "rename", fail)
    with pytest.raises((CheckpointError, KeyboardInterrupt)):
        save(tmp_path / "g", name="new", overwrite=True)
    (kept,) = os.listdir(tmp_path)
    assert kept == "g" if place != "new and back" else kept.startswith(".g.")
    assert files(tmp_path / kept) == before


def test_what_a_link_leads_to_is_replaced(tmp_path):
    (tmp_path / "store").mkdir()
    save(tmp_path / "store" / "a")
    (tmp_path / "link").symlink_to(tmp_path / "store" / "a")
    save(tmp_path / "link", name="new", overwrite=True)
    assert (tmp_path / "link").is_symlink() and os.listdir(tmp_path / "store") == ["a"]
    assert load_generator(tmp_path / "store" / "a").name == "new"


def test_links_that_lead_back_to_themselves(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for name, message in (("loop", "is not a generator"), ("loop/g", "a link that leads nowhere")):
        with pytest.raises(CheckpointError, match=message):
            save(tmp_path / name, overwrite=True)
    assert os.listdir(tmp_path) == ["loop"]


def test_a_path_that_is_not_utf_8(tmp_path, capfd):
    foreign = tmp_path / os.fsdecode(b"nu\xff")
    with pytest.raises(CheckpointError, match="is not UTF-8 text; rename it"):
        save(foreign)
    assert os.listdir(tmp_path) == []
    save(tmp_path / "g").rename(foreign)
    with pytest.raises(CheckpointError, match="is not UTF-8 text; rename it"):
        load_generator(foreign)
    assert capfd.readouterr() == ("", "")


def test_arrays_that_cannot_be_read(tmp_path, monkeypatch):
    save(tmp_path / "g")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "read_bytes", refuse)
    with pytest.raises(CheckpointError, match="g: cannot be read, Permission denied"):
        load_generator(tmp_path / "g")
    with pytest.raises(CheckpointError, match="cannot be read, File name too long"):
        load_generator(tmp_path / ("g" * 300))


def test_a_device_without_room(tmp_path, monkeypatch):
    save(tmp_path / "g")

    def full(arrays):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(jax, "device_put", full)
    with pytest.raises(CheckpointError, match="the device does not take it, RESOURCE_EXHAUSTED"):
        load_generator(tmp_path / "g")


def test_refuses_to_write_what_is_no_generator(tmp_path):
    config, params = TINY["stargan"], random_params("stargan", TINY["stargan"])

    def refused(message, params=params, **options):
        with pytest.raises(CheckpointError, match=message):
            save_generator(tmp_path / "g", "stargan", config, params, **options)
        assert os.listdir(tmp_path) == []

    head = params["head"]["kernel"]
    refused(r"\['head'\]\['kernel'\] is not finite", {**params, "head": {"kernel": head * np.nan}})
    refused("is not finite in float16", {**params, "head": {"kernel": head + 1e6}}, dtype="float16")
    refused(r"parameter \['more'\] is not part", {**params, "more": head})
    refused("dtype must be one of float32, float16", dtype="int8")
    refused(r"not written, 'a\\n' is no printable name", name="a\n")
    refused("metadata must be JSON", metadata={"array": np.ones(1)})
    with pytest.raises(CheckpointError, match="unknown architecture 'gan'"):
        save_generator(tmp_path / "g", "gan", config, params)
    config = dataclasses.replace(config, image_size=8192)
    refused("not written, the field 'image_size' of config is not from 0 to 4096")


def test_foreign_directories(tmp_path):
    foreign = (
        "not a generator's folder; give one that cdmaa-convert wrote "
        "(it has metadata.json and arrays/)"
    )
    cases = {"none": "there is no such folder", "empty": foreign, "file": foreign}
    cases["json"] = foreign
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "metadata.json").write_text('{"name": "someone else"}')
    for name, message in cases.items():
        with pytest.raises(CheckpointError) as caught:
            load_generator(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {message}"


CONFIG = json.loads(json.dumps(dataclasses.asdict(TINY["stargan"])))


@pytest.mark.parametrize("fields, message", [
    ({"format_version": 2}, "format version 2 is not 1; update cdmaa-jax"),
    ({"format": "other"}, "not a generator's folder"),
    ({"architecture": "gan"}, "unknown architecture 'gan'"),
    ({"config": {**CONFIG, "depth": 3}}, "field 'depth', which StarGAN does not have"),
    ({"config": {k: v for k, v in CONFIG.items() if k != "width"}}, "lacks the field 'width'"),
    ({"config": {**CONFIG, "width": "4"}}, "field 'width' of config is '4', not int"),
    ({"config": {**CONFIG, "width": True}}, "field 'width' of config is True, not int"),
    ({"config": {**CONFIG, "width": -4}}, "field 'width' of config is not from 0 to 4096"),
    ({"config": {**CONFIG, "blocks": 4000}}, "field 'blocks' of config is not from 0 to 128"),
    ({"config": {**CONFIG, "attributes": "ab"}}, "'attributes' of config is 'ab'"),
    ({"config": {**CONFIG, "image_size": 17}}, "image_size must be a multiple of 4"),
    ({"config": []}, "config is not an object"),
    ({"config": {**CONFIG, "width": 8}}, "arrays do not fit the configuration"),
    ({"config": {**CONFIG, "width": 0}}, "arrays do not fit the configuration"),
    ({"name": ["a"]}, r"\['a'\] is no printable name"),
    ({"name": "a\x1b[31m"}, r"'a\\x1b\[31m' is no printable name"),
    ({"config": {**CONFIG, "attributes": ["\n", "Young"]}, "domains": ["\n", "Young"]},
     "is no printable name"),
    ({"domains": ["a", "b"]}, "not those of the configuration"),
    ({"image_size": 32}, "not those of the configuration"),
    ({"arrays_sha256": "00"}, "not those that metadata.json describes"),
    ({"extra": 3}, "damaged"),
])  # fmt: skip
def test_wrong_metadata(tmp_path, fields, message):
    edit(save(tmp_path / "g"), **fields)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_generator(tmp_path / "g")
    assert str(tmp_path / "g") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda text: text[:100], lambda text: 200_000 * "["])
def test_metadata_that_is_no_json(tmp_path, damage):
    path = save(tmp_path / "g") / "metadata.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(CheckpointError, match=r"metadata\.json is damaged"):
        load_generator(tmp_path / "g")


@pytest.mark.parametrize("name", ["dtype", "files"])
def test_metadata_that_lacks_a_field(tmp_path, name):
    path = save(tmp_path / "g") / "metadata.json"
    fields = json.loads(path.read_text())
    del fields[name]
    path.write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=f"metadata.json is damaged, {name} is missing"):
        load_generator(tmp_path / "g")


@pytest.mark.parametrize("damage", ["remove", "cut", "flip"])
def test_damaged_arrays(tmp_path, damage):
    """Damages each file in turn."""
    save(tmp_path / "g")
    for name, content in files(tmp_path / "g" / "arrays").items():
        path = tmp_path / "g" / "arrays" / name
        if damage == "remove":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(content[: len(content) // 2])
        else:
            middle = len(content) // 2
            path.write_bytes(
                content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
            )
        with pytest.raises(CheckpointError, match="arrays/ is missing or damaged; copy"):
            load_params(tmp_path / "g")
        path.write_bytes(content)
    (tmp_path / "g" / "arrays" / ".DS_Store").write_text("of no concern")
    load_params(tmp_path / "g")
    shutil.rmtree(tmp_path / "g" / "arrays")
    with pytest.raises(CheckpointError, match="arrays/ is missing or damaged"):
        load_generator(tmp_path / "g")
