"""Errors that no command expects: users can fix some of them, and the others are bugs."""

import logging
import os
import subprocess
import sys

import pytest

from cdmaa_jax.cli import commands, facts
from cdmaa_jax.cli.cache import CACHE_VARIABLE
from cdmaa_jax.photos import protecting
from cdmaa_jax.processor import cores
from tests.cli.processes import errors, start
from tests.tiny import save_photo


def test_out_of_device_memory(protect, tmp_path, monkeypatch):
    def exhausted(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")

    monkeypatch.setattr(protecting, "protect", exhausted)
    status, _, err = protect(save_photo(tmp_path / "a.png"))
    assert status == 1 and "--batch-size" in errors(err)[0]


def test_a_bug_is_not_hidden(protect, tmp_path, monkeypatch):
    def bug(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(protecting, "protect", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        protect(save_photo(tmp_path / "a.png"))


@pytest.mark.parametrize(
    "warning",
    [
        "CUDA backend failed to initialize: no\ndriver.(Set TF_CPP_MIN_LOG_LEVEL=0 and rerun.)",
        "An NVIDIA GPU may be present on this machine, but a CUDA-enabled jaxlib is not installed. "
        "Falling back to cpu.",
        "A Google TPU may be present on this machine, but either a TPU-enabled jaxlib or libtpu is "
        "not installed. Falling back to cpu.",
    ],
)
def test_a_device_that_jax_does_without_is_told_of_on_one_line(call, warning, monkeypatch, caplog):
    logger, gather = logging.getLogger("jax._src.xla_bridge"), facts.gather_facts

    def gather_and_log(*arguments):
        logger.info("Unable to initialize backend 'tpu'")
        logger.warning("Platform 'abacus' is experimental")
        logger.warning(warning)
        return gather(*arguments)

    monkeypatch.setattr(commands, "gather_facts", gather_and_log)
    for _ in range(2):  # in one process, no line is doubled
        status, _, err = call("info", options=())
        assert (status, err) == (0, f"cdmaa: JAX: {' '.join(warning.split())}\n")
    assert not caplog.records
    logger.error("Jax plugin configuration error")
    assert [record.message for record in caplog.records] == ["Jax plugin configuration error"]


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (("protect", "photo.png", "--out", "out"), cores()),
        (("reproduce", "table1", "--photos", "missing", "--out", "out"), cores()),
        (("info",), 1),
    ],
)
def test_the_cores_of_a_cpu_share_batches(arguments, count, tmp_path):
    code = (
        "import sys, jax\n"
        "from cdmaa_jax.cli import process\n"
        "process.main(sys.argv[1:])\n"
        "print(jax.local_device_count())"
    )
    asked = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    environment = {name: value for name, value in os.environ.items() if name not in asked}
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path, env=environment | {CACHE_VARIABLE: str(tmp_path / "cache")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.splitlines()[-1] == str(count)


def test_a_device_that_is_not_there_is_one_line(ensemble, tmp_path):
    env = {**os.environ, "JAX_PLATFORMS": "abacus", CACHE_VARIABLE: str(tmp_path / "cache")}
    photo = save_photo(tmp_path / "a.png")
    for command in (("info",), ("protect", photo, "--out", tmp_path / "out")):
        process = start(*command, env=env)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1 and len(errors(err)) == 1
        assert "JAX_PLATFORMS is 'abacus'; unset it" in err and "Traceback" not in err
