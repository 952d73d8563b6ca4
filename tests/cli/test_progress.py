"""Progress where no bar is shown, as in a file or a pipe."""

from pathlib import Path

import pytest
from tqdm import tqdm

from cdmaa_jax.cli import progress
from cdmaa_jax.experiments.forecast import Work
from cdmaa_jax.experiments.reproduce import Request
from cdmaa_jax.photos import Outcome


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def said(capsys):
    return [line.removeprefix("cdmaa: ") for line in capsys.readouterr().err.splitlines()]


def test_a_line_a_minute_where_no_bar_is_shown(clock, capsys):
    def outcomes():
        for i in range(20):
            status = "skipped" if i < 10 else "done"
            clock[0] += 0 if status == "skipped" else 25
            yield Outcome(Path(f"{i}.png"), status, {"notes": []})

    assert len(progress.watched(lambda _: outcomes(), 20, "protecting")) == 20
    *lines, last = said(capsys)
    assert lines == [
        "protecting: 13 of 20 photos, about 3 min left",
        "protecting: 16 of 20 photos, about 2 min left",
        "protecting: 19 of 20 photos, about 25 s left",
    ]
    assert last.startswith("10 done in 250.0 s")


def test_the_first_photo_of_a_batch_does_not_stand_for_its_time(clock, capsys):
    def outcomes():
        for i in range(32):
            clock[0] += 0 if i % 8 else 80
            yield Outcome(Path(f"{i}.png"), "done", {"notes": []})

    progress.watched(lambda _: outcomes(), 32, "protecting")
    assert said(capsys)[:-1] == [
        "protecting: 1 of 32 photos",
        "protecting: 9 of 32 photos, about 3 min left",
        "protecting: 17 of 32 photos, about 80 s left",
        "protecting: 25 of 32 photos",
    ]


def test_a_bar_shows_all_photos_of_a_batch_while_the_next_is_attacked(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    shown = []

    def outcomes():
        for i in range(24):
            clock[0] += 0 if i % 8 else 80
            if i == 16:
                shown.append(capsys.readouterr().err.rpartition("\r")[2])
            yield Outcome(Path(f"{i}.png"), "done", {"notes": []})

    progress.watched(lambda _: outcomes(), 24, "protecting")
    assert "16/24" in shown[0] and "about 80 s left" in shown[0]


def test_lines_about_columns_that_an_earlier_run_began(clock, capsys, tmp_path):
    watch = progress.Watch(Request(("table3",), tmp_path, tmp_path, None, images=4))
    listener = watch.listener()
    for _ in range(4):
        clock[0] += 61
        listener.photo(None)
    listener.plan([Work("single", 4, 2, 1.0), Work("mgda", 4, 0, 3.0)])
    listener.begin("single")
    listener.progress(2)  # of the earlier run
    for name, piece in (("single", 1), ("single", 1), ("mgda", 2), ("mgda", 2)):
        clock[0] += 30
        listener.begin(name)
        listener.progress(piece)
    watch.close()
    lines = said(capsys)
    assert lines[:4] == [f"cropping: {i} of 4 photos" for i in (1, 2, 3, 4)]
    assert lines[4].startswith("columns to measure or tune: 2;")
    assert lines[5:] == [
        "single: 4 of 8 photos, about 6 min left",
        "mgda: 8 of 8 photos, about 0 s left",
    ]


def test_no_lines_beside_a_bar(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)

    def outcomes():
        clock[0] += 100
        yield Outcome(Path("a.png"), "done", {"notes": []})

    progress.watched(lambda _: outcomes(), 1, "protecting")
    shown = capsys.readouterr().err
    assert "1/1" in shown and "of 1 photos" not in shown


@pytest.mark.parametrize("is_shown", [False, True])
def test_faces_of_a_photo_that_takes_several_batches(is_shown, clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: is_shown, raising=False)

    set_text, texts = tqdm.set_postfix_str, []

    def listen(bar, text, *args, **options):
        texts.append(text)
        set_text(bar, text, *args, **options)

    monkeypatch.setattr(tqdm, "set_postfix_str", listen)

    def outcomes(partly):
        clock[0] += 61
        partly(Path("photos/gro\nup.png"), 8, 20)
        clock[0] += 20
        yield Outcome(Path("photos/alone.png"), "done", {"notes": []})
        clock[0] += 60
        partly(Path("photos/gro\nup.png"), 16, 20)
        yield Outcome(Path("photos/gro\nup.png"), "done", {"notes": []})

    progress.watched(outcomes, 2, "protecting")
    shown = capsys.readouterr().err
    first, second = (f"{faces} of 20 faces of gro\\nup.png" for faces in (8, 16))
    if is_shown:
        left = [f"about {seconds} s left" for seconds in (81, 21)]
        assert texts == [first, f"{first}, {left[0]}", f"{second}, {left[1]}", ""]
        assert all(text in shown for text in texts)
        assert "faces" not in shown.rpartition("2/2")[2]
    else:
        lines = [line.partition("photos, ")[2] for line in shown.splitlines()[:-1]]
        assert lines == [first, f"{second}, about 21 s left"]
