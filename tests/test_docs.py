"""What the documentation shows is run."""

import doctest
import re
from pathlib import Path

import pytest

import cdmaa_jax.protection

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def python_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("code", python_blocks(README))
def test_examples_of_the_readme_run(code):
    exec(compile(code, "README.md", "exec"), {})


def test_the_readme_has_examples():
    assert python_blocks(README)


def test_examples_of_the_docstrings_run():
    failed, tried = doctest.testmod(cdmaa_jax.protection)
    assert tried and not failed


def test_commands_of_the_readme_exist(capsys):
    from cdmaa_jax import cli

    commands = re.findall(r"(?:^|[ /])cdmaa ([a-z]+)", "\n".join(bash_blocks(README)), re.MULTILINE)
    assert {"demo", "protect", "evaluate", "info"} <= set(commands)
    for command in set(commands):
        with pytest.raises(SystemExit) as stop:
            cli.main([command, "--help"])
        assert stop.value.code == 0
    capsys.readouterr()


def bash_blocks(text):
    return re.findall(r"```bash\n(.*?)```", text, re.DOTALL)


def test_pictures_and_files_that_the_documentation_names_exist():
    for document in (ROOT / "README.md", ROOT / "checkpoints" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name} names {target}"
