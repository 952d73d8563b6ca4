"""The public names: those that the packages promise exist, once, and are documented."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cdmaa_jax

ROOT = Path(cdmaa_jax.__file__).parent
PACKAGES = [
    ".".join(path.relative_to(ROOT.parent).parent.parts)
    for path in sorted(ROOT.rglob("__init__.py"))
    if "__all__" in path.read_text(encoding="utf-8")
]
NAMES = [
    (package, name) for package in PACKAGES for name in importlib.import_module(package).__all__
]


def test_the_packages_that_promise_names():
    assert {"cdmaa_jax", "cdmaa_jax.attack", "cdmaa_jax.photos", "cdmaa_jax.cli"} <= {*PACKAGES}
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_a_public_name_exists_and_is_documented(package, name):
    value = getattr(importlib.import_module(package), name)
    if inspect.isclass(value) or inspect.isfunction(value):
        made_by_python = f"{value.__name__}("  # of a dataclass or a named tuple without its own
        assert value.__doc__ and not value.__doc__.startswith(made_by_python)
        assert value is getattr(importlib.import_module(value.__module__), value.__name__)


def test_each_name_of_the_package_has_a_home():
    assert cdmaa_jax.__all__ == sorted(cdmaa_jax._HOMES)
    assert dir(cdmaa_jax) == sorted([*cdmaa_jax._HOMES, *cdmaa_jax._MODULES])
    for name, home in cdmaa_jax._HOMES.items():
        assert getattr(cdmaa_jax, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="has no attribute 'missing'"):
        _ = cdmaa_jax.missing


def test_type_checkers_see_the_same_homes():
    tree = ast.parse(Path(cdmaa_jax.__file__).read_text(encoding="utf-8"))
    block, *_ = (node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name: line.module for line in block.body for alias in line.names}
    assert imported == cdmaa_jax._HOMES | dict.fromkeys(cdmaa_jax._MODULES, "cdmaa_jax")


def test_the_packages_that_the_readme_names_need_no_import_of_their_own():
    code = (
        "from cdmaa_jax.images import files; import cdmaa_jax; "
        "assert 'CDMAA' in cdmaa_jax.attack.__doc__; "
        "assert cdmaa_jax.images.views.jpeg(90).quality == 90"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_type_checkers_know_wrong_names(tmp_path):
    client = tmp_path / "client.py"
    client.write_text(
        "from typing import Any\n"
        "import numpy as np\n"
        "import cdmaa_jax\n"
        "from cdmaa_jax import Config, load_ensemble, protect\n"
        "config = Config(across_models='weighted', model_weights=[1, 3])\n"
        "models = load_ensemble('demo').generators\n"
        "images: np.ndarray[Any, Any] = protect(np.zeros((1, 8, 8, 3)), models, config).images\n"
        "run, jpeg = cdmaa_jax.attack.run, cdmaa_jax.images.views.jpeg\n"
        "cdmaa_jax.protct\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(client)]
    told = subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(ROOT.parent)},
    )  # fmt: skip
    errors = re.findall(r"^client\.py:\d+: error: .*", told.stdout, re.MULTILINE)
    assert len(errors) == 1 and "protct" in errors[0], told.stdout
