"""Work ahead runs in order, continues past failures, and stops when it is left."""

import threading

import pytest

from cdmaa_jax.experiments.ahead import working_ahead


def test_tasks_are_done_in_order_past_one_that_fails():
    done, last = [], threading.Event()

    def fail():
        raise ValueError("met again in turn")

    with working_ahead([lambda: done.append(1), fail, lambda: done.append(2), last.set]):
        assert last.wait(30)
    assert done == [1, 2]


def test_leaving_waits_for_what_is_begun_and_begins_nothing_more():
    begun, may_end, done = threading.Event(), threading.Event(), []

    def first():
        begun.set()
        assert may_end.wait(30)
        done.append("first")

    with (
        pytest.raises(KeyboardInterrupt),
        working_ahead([first, lambda: done.append("second")]),
    ):
        assert begun.wait(30)
        threading.Timer(0.2, may_end.set).start()
        raise KeyboardInterrupt
    assert done == ["first"]


def test_nothing_to_do_is_no_work():
    with working_ahead([]):
        pass
