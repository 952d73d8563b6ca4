"""The bundled ensemble matches its manifest."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest

from cdmaa_jax import load_generator
from checkpoints import manifest

NAMES = ("attgan", "stargan", "stgan", "ugatit")


def test_the_manifest_describes_the_files():
    assert json.loads(manifest.MANIFEST.read_text()) == json.loads(json.dumps(manifest.describe()))


def test_every_architecture_is_there_and_all_are_small():
    described = manifest.describe()["generators"]
    assert tuple(described) == NAMES
    assert sum(entry["bytes"] for entry in described.values()) <= 16e6
    for entry in described.values():
        assert entry["purpose"] == "demonstration weights"
        assert isinstance(entry["seed"], int)


@pytest.mark.parametrize("name", NAMES)
def test_every_edit_is_an_image_of_its_own(name):
    generator = load_generator(manifest.ENSEMBLE / name)
    conditions = np.asarray(generator.conditions(None))
    assert conditions.shape[:2] == (1, len(generator.domains))
    x = jax.random.uniform(jax.random.key(0), (1, 64, 64, 3), minval=-1, maxval=1)
    edits = [np.asarray(generator(x, conditions[:, k])) for k in range(len(generator.domains))]
    for edit in edits:
        assert edit.shape == x.shape and np.isfinite(edit).all() and np.abs(edit).max() <= 1
    for first, second in itertools.pairwise(edits):
        assert np.abs(first - second).mean() > 1e-3


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of one generator as the ensemble, with a manifest."""
    monkeypatch.setattr(manifest, "ENSEMBLE", tmp_path / "demo")
    monkeypatch.setattr(manifest, "MANIFEST", tmp_path / "manifest.json")
    shutil.copytree(manifest.HERE / "demo" / "stargan", tmp_path / "demo" / "stargan")
    assert manifest.main([]) == 0
    return tmp_path / "demo"


def test_what_interrupted_programs_leave_is_of_no_concern(copy, capsys):
    (copy / ".stargan.0a1b2c3d.tmp" / "arrays").mkdir(parents=True)
    (copy / "stargan" / ".DS_Store").touch()
    (copy / "stargan.history.json").write_text("[]")
    assert manifest.main(["--check"]) == 0
    assert capsys.readouterr().out == "the files are those of the manifest\n"


def test_what_differs_or_is_missing_is_one_line(copy, capsys):
    def told(*arguments):
        assert manifest.main([*arguments]) == 1
        line = capsys.readouterr().err
        assert line.startswith("python -m checkpoints.manifest: error: ")
        assert line.count("\n") == 1
        return line

    assert json.loads(manifest.MANIFEST.read_text())["generators"].keys() == {"stargan"}
    (copy / "stargan" / "more").touch()
    assert "manifest.json: it and the files differ; restore the files, or" in told("--check")
    manifest.MANIFEST.unlink()
    assert "manifest.json: there is no such file or folder" in told("--check")
    (copy / "photos").mkdir()
    assert "photos: not a generator's folder" in told()
    (copy / "photos").rmdir()
    record = json.loads((copy / "stargan" / "metadata.json").read_text())
    (copy / "stargan" / "metadata.json").write_text(json.dumps({**record, "extra": {}}))
    assert "stargan: it does not say the seed and the steps of its training" in told()
    shutil.rmtree(copy)
    assert "demo: there is no such file or folder" in told()
