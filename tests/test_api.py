"""The public names: those that the packages promise exist, once, and are documented."""

import ast
import importlib
import inspect
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
    assert cdmaa_jax.__all__ == sorted(cdmaa_jax._HOMES) == dir(cdmaa_jax)
    for name, home in cdmaa_jax._HOMES.items():
        assert getattr(cdmaa_jax, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="has no attribute 'missing'"):
        _ = cdmaa_jax.missing


def test_type_checkers_see_the_same_homes():
    tree = ast.parse(Path(cdmaa_jax.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name: line.module for line in block.body for alias in line.names}
    assert imported == cdmaa_jax._HOMES
