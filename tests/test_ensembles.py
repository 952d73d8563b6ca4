"""Named ensembles and ensembles of directories."""

import shutil

import pytest

from cdmaa_jax.generators import ensembles
from cdmaa_jax.generators.checkpoint import CheckpointError
from cdmaa_jax.generators.ensembles import EnsembleError, load_ensemble, named_ensembles
from tests.tiny import save_ensemble


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    named = tmp_path_factory.mktemp("named")
    save_ensemble(named / "demo")
    return named


@pytest.fixture(autouse=True)
def only_this_folder(folder, monkeypatch):
    monkeypatch.setattr(ensembles, "_FOLDERS", (folder / "absent", folder))


def test_a_name_gives_all_its_generators_in_the_architectures_order(folder):
    assert named_ensembles() == {"demo": folder / "demo"}
    loaded = load_ensemble()
    assert loaded.name == load_ensemble("demo").name == load_ensemble(["demo"]).name == "demo"
    assert [generator.name for generator in loaded.generators] == ["stargan", "ugatit"]
    assert [m.architecture for m in loaded.metadata] == ["stargan", "ugatit"]


def test_directories_in_the_order_given(folder):
    names = [str(folder / "demo" / arch) for arch in ("ugatit", "stargan")]
    loaded = load_ensemble(names)
    assert [g.name for g in loaded.generators] == ["ugatit", "stargan"]
    assert loaded.name == "ugatit+stargan"
    paths = [folder / "demo" / arch for arch in ("ugatit", "stargan")]
    assert load_ensemble(paths).name == "ugatit+stargan"
    assert [g.name for g in load_ensemble(paths[0]).generators] == ["ugatit"]


def test_names_that_occur_twice_are_numbered(folder):
    loaded = load_ensemble([str(folder / "demo"), "demo"])
    assert [g.name for g in loaded.generators] == ["stargan", "ugatit", "stargan-2", "ugatit-2"]


def test_what_a_killed_conversion_left_is_no_member(folder, tmp_path):
    shutil.copytree(folder / "demo", tmp_path / "own")
    shutil.copytree(tmp_path / "own" / "stargan", tmp_path / "own" / ".stargan.46b53e72.old")
    assert [g.name for g in load_ensemble([str(tmp_path / "own")]).generators] == [
        "stargan", "ugatit",
    ]  # fmt: skip


def test_what_the_system_refuses_to_look_into():
    with pytest.raises(EnsembleError, match="cannot be read, File name too long"):
        load_ensemble(["n" * 300])


def test_what_is_no_ensemble(tmp_path):
    with pytest.raises(EnsembleError, match="named ensembles: demo"):
        load_ensemble(["no such thing"])
    with pytest.raises(EnsembleError, match="holds no generator"):
        load_ensemble([str(tmp_path)])
    for nothing in (None, [None], [], [""]):
        with pytest.raises(EnsembleError, match="at least one generator"):
            load_ensemble(nothing)
    with pytest.raises(EnsembleError, match="at least one"):
        load_ensemble([])


def test_a_damaged_member_is_named(folder, tmp_path):
    shutil.copytree(folder / "demo", tmp_path / "copy")
    (tmp_path / "copy" / "ugatit" / "metadata.json").write_text("{")
    with pytest.raises(CheckpointError, match="ugatit"):
        load_ensemble([str(tmp_path / "copy")])
