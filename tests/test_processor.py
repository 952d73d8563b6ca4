"""What the system reports about its processor."""

import platform

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
