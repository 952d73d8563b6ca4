"""Photos that are read and copied in threads, beside each other and beside the attack."""

import dataclasses
import os
import threading

import numpy as np
import pytest
from PIL import Image

from cdmaa_jax import photos
from cdmaa_jax.attack.config import Config
from cdmaa_jax.disk import FileError
from cdmaa_jax.images import files
from cdmaa_jax.photos import protecting
from cdmaa_jax.photos.workers import Workers
from tests.tiny import save_photo

PIXELS = 40 * 48  # of a test photo
PATIENCE = 60  # seconds until a test that waits for another thread fails


@pytest.fixture
def sources(tmp_path):
    return [save_photo(tmp_path / f"{i}.png", i) for i in range(6)]


@pytest.fixture
def job(ensemble, tmp_path):
    return photos.Job(ensemble, tmp_path / "out", Config(steps=1), canonical_size=32, batch_size=2)


class Diary:
    """What was done, in order; others can wait for it."""

    def __init__(self):
        self.entries, self._written = [], threading.Condition()

    def write(self, *entry):
        with self._written:
            self.entries.append(entry)
            self._written.notify_all()

    def wait_for(self, *entries):
        with self._written:
            return self._written.wait_for(lambda: set(entries) <= set(self.entries), PATIENCE)


@pytest.fixture
def diary(monkeypatch):
    """Of the photos that are seen and copied."""
    diary = Diary()
    see, copy = protecting._see_photo, protecting._make_copy

    def see_and_write(task, job):
        seen = see(task, job)
        diary.write("seen", task.source.stem)
        return seen

    def copy_and_write(seen, *rest):
        made = copy(seen, *rest)
        diary.write("copied", seen.task.source.stem)
        return made

    monkeypatch.setattr(protecting, "_see_photo", see_and_write)
    monkeypatch.setattr(protecting, "_make_copy", copy_and_write)
    return diary


def brighter(job, images, labels, size):
    return images + np.float32(0.03)


def brighter_once(diary, error):
    """An attack that fails the second time, when the copies of the first batch are made."""
    calls = []

    def attack(job, images, labels, size):
        calls.append(size)
        if len(calls) == 1:
            return brighter(job, images, labels, size)
        assert diary.wait_for(("copied", "0"), ("copied", "1"))
        raise error

    return attack


def on_accelerator(monkeypatch):
    monkeypatch.setattr(protecting, "_host_is_device", lambda: False)


def test_an_accelerator_attacks_while_photos_are_read_and_copied(job, sources, diary, monkeypatch):
    on_accelerator(monkeypatch)
    batches = iter(range(3))

    def attack(job, images, labels, size):
        """Ends only once the next batch was read and the copies of the last one were made."""
        first = 2 * next(batches)
        following = [("seen", str(i)) for i in (first + 2, first + 3) if i < 6]
        before = [("copied", str(i)) for i in (first - 2, first - 1) if i >= 0]
        assert diary.wait_for(*following, *before)
        return brighter(job, images, labels, size)

    outcomes = list(photos.protect_photos(sources, dataclasses.replace(job, attack=attack)))
    assert [(one.source, one.status) for one in outcomes] == [(s, "done") for s in sources]
    assert next(batches, None) is None


def test_during_an_attack_on_a_cpu_nothing_else_is_done(job, sources, diary):
    def attack(job, images, labels, size):
        diary.write("attack")
        return brighter(job, images, labels, size)

    list(photos.protect_photos(sources, dataclasses.replace(job, attack=attack)))
    done = [(name, *(sorted(photo))) for name, *photo in diary.entries]
    first, second, third = [i for i, entry in enumerate(done) if entry == ("attack",)]
    assert sorted(done[:first]) == [("seen", "0"), ("seen", "1")]
    between = [("copied", "0"), ("copied", "1"), ("seen", "2"), ("seen", "3")]
    assert sorted(done[first + 1 : second]) == between
    assert sorted(done[third + 1 :]) == [("copied", "4"), ("copied", "5")]


def test_the_files_are_the_same_either_way(job, sources, tmp_path, monkeypatch):
    sources[3].write_bytes(b"no picture")

    def made(folder):
        asked = dataclasses.replace(job, out=tmp_path / folder, attack=brighter)
        outcomes = list(photos.protect_photos(sources, asked))
        contents = {path.name: path.read_bytes() for path in asked.out.glob("*.png")}
        return {one.source: one.status for one in outcomes}, contents

    there = made("cpu")
    on_accelerator(monkeypatch)
    assert made("gpu") == there
    assert there[0] == dict.fromkeys(sources, "done") | {sources[3]: "failed"}


def test_a_batch_is_kept_if_the_next_attack_fails(job, sources, diary, monkeypatch):
    on_accelerator(monkeypatch)
    attack = brighter_once(diary, ValueError("the attack does not fit"))
    seen = []
    with pytest.raises(ValueError, match="does not fit"):
        for outcome in photos.protect_photos(sources, dataclasses.replace(job, attack=attack)):
            seen.append(outcome.source)
    assert seen == sources[:2]
    assert sorted(os.listdir(job.out)) == ["0.png", "1.png", "report.json"]


def test_a_batch_is_kept_if_the_next_cannot_be_read(job, sources, diary, monkeypatch):
    on_accelerator(monkeypatch)
    see = protecting._see_photo

    def see_first(task, job):
        if task.source in sources[:2]:
            return see(task, job)
        raise RuntimeError("not foreseen")

    monkeypatch.setattr(protecting, "_see_photo", see_first)
    seen = []
    with pytest.raises(RuntimeError, match="not foreseen"):
        for outcome in photos.protect_photos(sources, dataclasses.replace(job, attack=brighter)):
            seen.append(outcome.source)
    assert seen == sources[:2]
    assert sorted(os.listdir(job.out)) == ["0.png", "1.png", "report.json"]


def test_whoever_stops_at_a_bad_photo_keeps_the_batch_before(job, sources, monkeypatch):
    on_accelerator(monkeypatch)
    sources[2].write_bytes(b"no picture")
    outcomes = photos.protect_photos(sources, dataclasses.replace(job, attack=brighter))
    assert next(outcomes).source == sources[2]
    outcomes.close()
    assert sorted(os.listdir(job.out)) == ["0.png", "1.png", "report.json"]


def test_an_interrupt_during_an_attack_is_raised_at_once(job, sources, diary, monkeypatch):
    on_accelerator(monkeypatch)
    attack = brighter_once(diary, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        next(photos.protect_photos(sources, dataclasses.replace(job, attack=attack)))
    assert os.listdir(job.out) == []


def test_a_file_that_appears_during_an_attack_is_not_replaced(job, sources, diary, monkeypatch):
    on_accelerator(monkeypatch)
    calls = []

    def attack(job, images, labels, size):
        calls.append(size)
        if len(calls) == 2:
            assert diary.wait_for(("copied", "0"), ("copied", "1"))
            (job.out / "0.png").write_bytes(b"another program's")
        return brighter(job, images, labels, size)

    asked = dataclasses.replace(job, attack=attack)
    failures = [one for one in photos.protect_photos(sources, asked) if one.status == "failed"]
    assert [one.source for one in failures] == sources[:1]
    assert "made by another program" in str(failures[0].error)
    assert (job.out / "0.png").read_bytes() == b"another program's"
    told = photos.read_job_report(job)
    assert told is not None and "0.png" not in [row["protected"] for row in told["photos"]]
    assert sorted(os.listdir(job.out)) == [*(f"{i}.png" for i in range(6)), "report.json"]


def test_copies_are_removed_if_no_more_can_be_started(job, sources, monkeypatch):
    starts, start = [], Workers.start

    def start_three(self, work, *paths):
        starts.append(paths)
        if len(starts) == 4:  # the batch's two photos were read, and one was copied
            raise RuntimeError("can't start new thread")
        return start(self, work, *paths)

    monkeypatch.setattr(Workers, "start", start_three)
    with pytest.raises(RuntimeError, match="new thread"):
        list(photos.protect_photos(sources, dataclasses.replace(job, attack=brighter)))
    assert os.listdir(job.out) == []


def test_a_bad_photo_does_not_stay_in_memory(job, sources):
    for source in sources[:3]:
        whole = source.read_bytes()
        source.write_bytes(whole[: len(whole) // 2])
    pairs = [(sources[0], sources[1]), (sources[3], sources[0])]
    outcomes = [
        *photos.protect_photos(sources[:3], dataclasses.replace(job, attack=brighter)),
        *photos.evaluate_photos(pairs, job.ensemble),
    ]
    assert [one.status for one in outcomes] == ["failed"] * 5
    for outcome in outcomes:
        link, links = outcome.error, 0
        while link is not None:  # frames of the functions that failed hold what they had read
            assert link.__traceback__ is None
            link, links = link.__cause__ or link.__context__, links + 1
        assert links > 1


def test_an_attack_on_a_cpu_finds_no_memory_with_the_threads(job, sources, diary, monkeypatch):
    monkeypatch.setattr(protecting, "release_memory", lambda: diary.write("released"))

    def attack(job, images, labels, size):
        diary.write("attack")
        return brighter(job, images, labels, size)

    list(photos.protect_photos(sources, dataclasses.replace(job, attack=attack)))
    order = [name for name, *_ in diary.entries]
    assert order.count("attack") == 3
    assert all(order[i - 1] == "released" for i, name in enumerate(order) if name == "attack")


def test_copies_that_cannot_be_measured_are_removed(job, sources, monkeypatch):
    on_accelerator(monkeypatch)

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(protecting, "measure", fail)
    with pytest.raises(MemoryError):
        list(photos.protect_photos(sources, dataclasses.replace(job, attack=brighter)))
    assert os.listdir(job.out) == []


def test_whoever_stops_listening_leaves_whole_files(job, sources, monkeypatch):
    on_accelerator(monkeypatch)
    outcomes = photos.protect_photos(sources, dataclasses.replace(job, attack=brighter))
    assert next(outcomes).status == "done"
    outcomes.close()
    assert sorted(os.listdir(job.out)) == ["0.png", "1.png", "report.json"]


def test_photos_are_worked_on_at_once_as_far_as_there_is_room(tmp_path):
    sources = [save_photo(tmp_path / f"{i}.png", i) for i in range(6)]
    large = save_photo(tmp_path / "large.png", 0, 400, 480)
    inside, most, lock = [], [], threading.Lock()
    two = threading.Barrier(2, timeout=PATIENCE)

    def work(photo):
        with lock:
            inside.append(photo)
            most.append(list(inside))
        if photo != large:
            two.wait()  # two can be inside
        with lock:
            inside.remove(photo)

    with Workers(threads=8, pixels=2 * PIXELS) as workers:
        futures = [workers.start(lambda p=p: work(p), p) for p in [*sources, large]]
        for future in futures:
            future.result(PATIENCE)
    assert max(map(len, most)) == 2
    assert [large] in most and not any(large in now for now in most if len(now) > 1)


def test_a_photo_and_its_copy_take_the_room_of_the_larger(tmp_path):
    small, large = save_photo(tmp_path / "a.png"), save_photo(tmp_path / "b.png", 0, 400, 480)
    inside, lock = [], threading.Lock()

    def work():
        with lock:
            inside.append(None)
            assert len(inside) == 1
        threading.Event().wait(0.05)  # time for another to come in
        with lock:
            inside.pop()

    with Workers(threads=4, pixels=2 * PIXELS) as workers:
        for future in [workers.start(work, small, large) for _ in range(4)]:
            future.result(PATIENCE)


def test_a_photo_without_a_header_takes_no_room(tmp_path):
    def fail():
        raise FileError(tmp_path / "none.png", "it is missing", "look for it")

    with Workers(threads=1, pixels=1) as workers:
        future = workers.start(fail, tmp_path / "none.png")
        with pytest.raises(FileError, match="missing"):
            future.result(PATIENCE)


def test_pillows_limits_are_back_when_the_last_thread_has_left():
    before, inside, leave = Image.MAX_IMAGE_PIXELS, threading.Event(), threading.Event()

    def other():
        with files._UNLIMITED:
            inside.set()
            leave.wait(PATIENCE)

    thread = threading.Thread(target=other)
    with files._UNLIMITED:
        thread.start()
        assert inside.wait(PATIENCE)
    assert Image.MAX_IMAGE_PIXELS is None and before is not None
    leave.set()
    thread.join(PATIENCE)
    assert before == Image.MAX_IMAGE_PIXELS


def test_pixels_are_counted_by_the_header(tmp_path):
    photo = save_photo(tmp_path / "a.png")
    assert files.count_pixels(photo) == PIXELS
    photo.write_bytes(photo.read_bytes()[:60])
    assert files.count_pixels(photo) == PIXELS
    assert files.count_pixels(tmp_path / "none.png") == 0
    os.mkfifo(tmp_path / "pipe.png")
    assert files.count_pixels(tmp_path / "pipe.png") == 0


def test_a_bad_file_is_told_of_before_the_attack(job, sources):
    sources[0].write_bytes(b"no picture")

    def attack(*_):
        raise AssertionError("too late")

    outcomes = photos.protect_photos(sources, dataclasses.replace(job, attack=attack))
    assert next(outcomes).status == "failed"
    outcomes.close()
