"""The memory that the allocator keeps, on systems whose C library is glibc."""

import os
import threading

import numpy as np
import psutil
import pytest

from cdmaa_jax import allocator

pytestmark = pytest.mark.skipif(
    allocator._function("malloc_trim") is None, reason="the C library is not glibc"
)
MIB = 2**20


def resident():
    return psutil.Process(os.getpid()).memory_info().rss


def held(pieces, size):
    """Allocates arrays and frees every second one, so that none can be trimmed from the top."""
    arrays = [np.ones(size, np.uint8) for _ in range(pieces)]
    return arrays[::2]


def test_released_memory_goes_back_to_the_system():
    kept = held(4000, 32 * 1024)
    before = resident()
    allocator.release_memory()
    assert resident() < before - 30 * MIB
    assert sum(int(array[0]) for array in kept) == 2000


def test_what_other_threads_free_goes_back_too():
    before = resident()

    def work():
        for _ in range(3):
            held(60, 2 * MIB)

    with allocator.frugal():
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert resident() < before + 40 * MIB


def test_an_error_within_is_passed_on():
    with pytest.raises(ZeroDivisionError), allocator.frugal():
        raise ZeroDivisionError
    assert np.ones(4 * MIB, np.uint8).all()


def test_other_systems_have_nothing_to_release(monkeypatch):
    monkeypatch.setattr(allocator, "_function", lambda name: None)
    with allocator.frugal():
        allocator.release_memory()
