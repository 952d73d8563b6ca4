"""Signals end the command at once, with nothing half-written."""

import os
import signal
import time

import pytest

from tests.cli.processes import errors, start
from tests.tiny import save_photo


@pytest.fixture
def interruptible():
    """Child processes receive these signals, even if this one ignores some, as under ``nohup``."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


def _endless(ensemble, tmp_path):
    """An attack that would take hours, and the folder it would write into."""
    out, photo = tmp_path / "out", save_photo(tmp_path / "a.png")
    options = ("--ensemble", ensemble, "--steps", 10**6, "--no-cache")
    return out, start("protect", photo, "--out", out, *options)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["int", "term", "hup"],
)
def test_an_interrupt_ends_at_once_with_nothing_half_written(ensemble, tmp_path, number, status):
    out, process = _endless(ensemble, tmp_path)
    try:
        assert any("compiling" in line for line in process.stderr)
        time.sleep(0.5)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status
    assert len(errors(err)) == 1 and "interrupted" in errors(err)[0]
    assert os.listdir(out) == []


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_that_nobody_can_be_told_of(ensemble, tmp_path):
    """As with ``2>&1 | tee``, where the same Ctrl-C ends ``tee`` first."""
    out, process = _endless(ensemble, tmp_path)
    try:
        assert any("compiling" in line for line in process.stderr)
        process.stderr.close()
        process.stdout.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    assert os.listdir(out) == []
