"""Runs the documentation's examples and checks its commands and links."""

import doctest
import re
import shlex
from pathlib import Path

import pytest

import cdmaa_jax.experiments
import cdmaa_jax.protection
from benchmarks import __main__ as benchmark
from cdmaa_jax.cli.parser import make_parser
from checkpoints import manifest, measure, portraits, train
from converters import command as convert

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    ROOT / name
    for name in (
        "README.md",
        "benchmarks/README.md",
        "checkpoints/README.md",
        "docs/results.md",
        "docs/speed.md",
    )
]
WITHOUT_COMMANDS = [ROOT / "docs" / "formats.md", ROOT / "CHANGELOG.md"]
PARSERS = {
    "benchmarks": benchmark.parser,
    "checkpoints.manifest": manifest.make_parser,
    "checkpoints.measure": measure.make_parser,
    "checkpoints.portraits": portraits.make_parser,
    "checkpoints.train": train.make_parser,
}
"""Of the modules that are run with ``python -m``."""


def python_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("code", python_blocks(README))
def test_examples_of_the_readme_run(code):
    exec(compile(code, "README.md", "exec"), {})


def test_the_readme_has_examples():
    assert python_blocks(README)


@pytest.mark.parametrize("module", [cdmaa_jax.protection, cdmaa_jax.attack, cdmaa_jax.experiments])
def test_examples_of_the_docstrings_run(module):
    failed, tried = doctest.testmod(module)
    assert tried > 3 and not failed


def commands_of(text):
    """The commands to type, without comments, from blocks and from inline code with options."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += [code for code in re.findall(r"`([^`\n]+)`", text) if " --" in code]
    for line in lines:
        for part in re.split("&&|;", line.replace("$arch", "stargan")):
            words = shlex.split(part, comments=True)
            if "--help" not in words:
                yield words


def parsed(words):
    """The arguments of a command of this project, read by its parser; None for other commands."""
    if not words:
        return None
    if Path(words[0]).name == "cdmaa":
        return make_parser().parse_args(words[1:])
    if words[0] == "cdmaa-convert":
        return convert._parser().parse_args(words[1:])
    if words[:2] == ["python", "-m"]:
        return PARSERS[words[2]]().parse_args(words[3:])
    assert not words[0].startswith("cdmaa"), f"there is no command {words[0]}"
    return None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_ones_that_the_parsers_take(document):
    found = [parsed(words) for words in commands_of(document.read_text(encoding="utf-8"))]
    assert any(arguments is not None for arguments in found)


def headings(document):
    """The anchors of a document's headings."""
    titles = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "document", DOCUMENTS + WITHOUT_COMMANDS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_pictures_files_and_headings_that_are_linked_exist(document):
    text = document.read_text(encoding="utf-8")
    for name, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        if name.startswith("http"):
            continue
        target = document.parent / name if name else document
        assert target.exists(), f"{document.name} names {name}"
        assert not anchor or anchor in headings(target), f"{name} has no heading #{anchor}"
