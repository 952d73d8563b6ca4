"""Which module may import, print or touch the disk: the architecture, enforced."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cdmaa_jax"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
ALLOWED = {
    "types": set(),
    "disk": set(),
    "tracing": set(),
    "scheduling": set(),
    "hoisting": set(),
    "allocator": set(),
    "cgroups": set(),
    "processor": {"cgroups"},
    "kept": {"processor", "disk"},
    "generators": {"types", "tracing", "scheduling", "hoisting", "allocator", "processor"},
    "images": {"types", "disk"},
    "attack": {
        "types", "tracing", "scheduling", "hoisting", "allocator", "processor", "cgroups", "kept",
    },
    "protection": {"types", "attack", "images"},
    "evaluation": {
        "types", "disk", "tracing", "processor", "kept", "generators", "attack", "images",
    },
    "photos": {
        "types", "disk", "processor", "allocator", "generators", "attack", "images", "protection",
        "evaluation",
    },
    "search": {"types", "attack", "protection"},
    "universal": {"types", "tracing", "attack", "protection"},
    "experiments": {
        "types", "disk", "tracing", "scheduling", "generators", "attack", "images", "protection",
        "evaluation", "photos", "search", "universal",
    },
    "cli": {
        "disk", "processor", "kept", "generators", "attack", "images", "evaluation", "photos",
        "experiments",
    },
    "__main__": {"cli"},
    "__init__": {
        "types", "generators", "attack", "images", "protection", "search", "universal",
    },
}  # fmt: skip
OUTSIDE = {"torch", "tests", "converters", "benchmarks", "checkpoints"}
TOUCH_THE_DISK = {
    "disk.py", "generators/checkpoint.py", "processor.py", "cgroups.py", "kept.py",
}  # fmt: skip
DISK_CALLS = {
    "open", "write_text", "write_bytes", "read_text", "read_bytes", "unlink", "mkdir", "rename",
    "rmtree", "fdopen", "savez", "save", "mkstemp",
}  # fmt: skip
NOT_FILES = {"image.save", "picture.save", "Image.open", "os.open"}  # in memory; on stdout


def layer_of(module):
    return module.parts[0].removesuffix(".py")


def tree_of(module):
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"))


def imports_of(module):
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            if node.module == "cdmaa_jax":
                yield from (f"cdmaa_jax.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_go_one_way(module):
    layer = layer_of(module)
    for name in imports_of(module):
        top, *rest = name.split(".")
        assert top not in OUTSIDE, f"{module}: {name}"
        if top == "cdmaa_jax" and rest and rest[0] != layer:
            assert rest[0] in ALLOWED[layer], f"{module} must not import {name}"


@pytest.mark.parametrize("layer", ALLOWED)
def test_what_is_allowed_is_needed(layer):
    imported = {
        name for module in MODULES if layer_of(module) == layer for name in imports_of(module)
    }
    assert ALLOWED[layer] <= {
        name.split(".")[1] for name in imported if name.startswith("cdmaa_jax.")
    }


def reachable(layer):
    """The layers that a layer imports, directly or through others."""
    found, new = set(), ALLOWED[layer]
    while new - found:
        found |= new
        new = set().union(*(ALLOWED[each] for each in found))
    return found


def test_those_that_do_not_know_each_other():
    apart = {"generators", "attack", "images"}
    for layer in apart:
        assert not reachable(layer) & (apart - {layer}), layer


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_only_the_command_line_prints_and_reads_arguments(module):
    if module.as_posix() != "cli/output.py":
        names = {node.id for node in ast.walk(tree_of(module)) if isinstance(node, ast.Name)}
        assert "print" not in names and "input" not in names
    if layer_of(module) != "cli":
        assert not {"argparse", "sys", "tqdm"} & set(imports_of(module))


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_few_modules_touch_the_disk(module):
    if module.as_posix() in TOUCH_THE_DISK or layer_of(module) == "experiments":  # reports
        return
    for node in ast.walk(tree_of(module)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        name = called.rsplit(".", 1)[-1]
        if name in DISK_CALLS and called not in NOT_FILES and not called.startswith("disk."):
            imported = name == "read_bytes" and called == name  # disk's function
            assert imported, f"{module} calls {called}"
