"""What the system reports about its processor."""

import os
import platform
import subprocess
import sys

import jax
import pytest

from cdmaa_jax import processor

NARROW = "processor\t: 0\nflags\t\t: fpu avx avx2 fma\n"
WIDE = "processor\t: 0\nflags\t\t: fpu avx avx2 fma avx512f\n"


@pytest.mark.parametrize(
    ("machine", "facts", "expected"),
    [
        ("x86_64", NARROW, True),
        ("AMD64", NARROW, True),
        ("x86_64", WIDE, False),
        ("x86_64", NARROW.replace(" avx2", ""), False),
        ("x86_64", "", False),
        ("x86_64", None, False),  # not Linux
        ("aarch64", NARROW, False),
    ],
)
def test_which_processors_have_no_avx512(machine, facts, expected, tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    if facts is not None:
        file.write_text(facts)
    monkeypatch.setattr(processor, "_FACTS", file)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert processor.is_x86_without_avx512.__wrapped__() is expected


DEVICES = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
"""What sets the number of devices of a CPU."""


@pytest.mark.parametrize(
    "asked",
    [{"JAX_NUM_CPU_DEVICES": "3"}, {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}],
    ids=str,
)
def test_the_number_of_devices_that_jax_was_told_stays(asked):
    code = (
        "import jax; from cdmaa_jax import processor\n"
        "processor.make_devices(); print(jax.local_device_count()); processor.make_devices()"
    )
    others = {name: value for name, value in os.environ.items() if name not in DEVICES}
    found = subprocess.run(
        [sys.executable, "-c", code], env=others | asked, capture_output=True, text=True, check=True
    )
    assert found.stdout == "3\n"


def test_devices_that_exist_stay(monkeypatch):
    before = jax.devices()
    monkeypatch.delenv("XLA_FLAGS")
    processor.make_devices()
    assert jax.devices() == before


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="counts its own threads")
@pytest.mark.parametrize(
    ("cores_to_run_on", "asked", "threads"),
    [(5, {}, 3), (3, {}, processor._cores_to_run_on()), (5, {"NPROC": "4"}, 4)],
)
def test_xla_computes_in_as_many_threads_as_there_is_time_for(
    cores_to_run_on, asked, threads, tmp_path
):
    (tmp_path / "membership").write_text("0::/\n")
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    code = (
        "import pathlib, sys\n"
        "from cdmaa_jax import cgroups, processor\n"
        "cgroups._ROOT = pathlib.Path(sys.argv[1])\n"
        "cgroups._MEMBERSHIP = cgroups._ROOT / 'membership'\n"
        "processor._cores_to_run_on = lambda: int(sys.argv[2])\n"
        "processor.limit_threads()\n"
        "import jax\n"
        "jax.devices()\n"
        "names = (f.read_text() for f in pathlib.Path('/proc/self/task').glob('*/comm'))\n"
        "print(sum('XLAEigen' in name for name in names))"
    )
    others = {name: value for name, value in os.environ.items() if name != "NPROC"}
    found = subprocess.run(
        [sys.executable, "-c", code, tmp_path, str(cores_to_run_on)],
        env=others | asked, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout == f"{threads}\n"
