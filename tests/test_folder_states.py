"""A folder of protected photos over time: runs, interruptions, and what its user does meanwhile."""

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from unittest import mock

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cdmaa_jax import disk, photos
from cdmaa_jax.attack.config import Config
from cdmaa_jax.disk import FileError
from tests.tiny import instant_protect, save_photo

NAMES = st.sampled_from(["a.png", "b.png", "b.jpg", "sub/a.png"])
COPIES = st.sampled_from(["a.png", "b.png", "a-2.png", "b-2.png"])
SEEDS = st.integers(0, 2)


class Interrupted(BaseException):
    """What ends a run at once, like an interrupt."""


class Folder(RuleBasedStateMachine):
    """Photos in ``inputs``, copies in ``out``; ``foreign`` are files that a user put there."""

    ensemble = None

    @initialize()
    def create(self):
        self.root = Path(tempfile.mkdtemp())
        self.inputs, self.out = self.root / "in", self.root / "out"
        self.inputs.mkdir()
        self.originals: dict[Path, bytes] = {}
        self.foreign: dict[Path, bytes] = {}
        for name in ("a.png", "b.jpg"):
            self.add_or_change_a_photo(name, 0)

    def teardown(self):
        shutil.rmtree(self.root, ignore_errors=True)

    @rule(name=NAMES, seed=SEEDS)
    def add_or_change_a_photo(self, name, seed):
        seed += 3 * name.startswith("sub/")  # two photos alike with one name would be one photo
        path = save_photo(self.inputs / name, seed)
        self.originals[path] = path.read_bytes()

    @rule(name=NAMES)
    def damage_a_photo(self, name):
        if (path := self.inputs / name) in self.originals:
            path.write_bytes(self.originals[path][:99])
            self.originals[path] = path.read_bytes()

    @rule(name=NAMES)
    def remove_a_photo(self, name):
        if self.originals.pop(self.inputs / name, None) is not None:
            (self.inputs / name).unlink()

    @rule(name=COPIES, seed=SEEDS)
    def put_a_picture_among_the_copies(self, name, seed):
        if self.out.exists():
            path = save_photo(self.out / name, seed + 9)
            self.foreign[path] = path.read_bytes()

    @rule(name=COPIES | st.just("report.json"))
    def remove_from_the_copies(self, name):
        (self.out / name).unlink(missing_ok=True)
        self.foreign.pop(self.out / name, None)
        if name == "report.json":
            self._forget_copies()

    @rule()
    def damage_the_report(self):
        if (path := self.out / "report.json").exists():
            path.write_bytes(path.read_bytes()[:-9])
            self._forget_copies()

    @rule(seed=SEEDS, force=st.booleans())
    def run(self, seed, force):
        before = self._contents()
        try:
            outcomes = self._protect(seed, force)
        except FileError as error:  # the report is damaged, or of other settings
            assert str(self.out / "report.json") in str(error) and not force
            assert self._contents() == before
            return
        assert sorted(o.source for o in outcomes) == sorted(self.originals)
        for outcome in outcomes:
            if outcome.status == "failed":
                assert outcome.error is not None
                continue
            copy = self.out / outcome.entry["protected"]
            assert disk.sha256_of(copy) == outcome.entry["protected_sha256"]
            assert disk.sha256_of(outcome.source) == outcome.entry["sha256"]
            if force:
                self.foreign.pop(copy, None)
        self._check_report()
        failed = {o.source for o in outcomes if o.status == "failed"}
        if len(failed) < len(outcomes):  # else the report is not written, and may be as before
            self._check_that_nothing_is_left_to_do(seed, failed)

    @rule(seed=SEEDS, force=st.booleans(), left=st.integers(0, 4))
    def interrupt_a_run(self, seed, force, left):
        replace, moves = os.replace, iter(range(left))

        def move(source, target):
            if Path(target).parent == self.out and next(moves, None) is None:
                raise Interrupted
            replace(source, target)

        with mock.patch.object(os, "replace", move), suppress(FileError, Interrupted):
            self._protect(seed, force)
        if force:
            self.foreign = {p: b for p, b in self.foreign.items() if p.read_bytes() == b}
        self._check_report()

    @invariant()
    def nothing_of_the_user_is_changed(self):
        for path, content in (self.originals | self.foreign).items():
            assert path.read_bytes() == content

    @invariant()
    def nothing_is_half_written(self):
        assert not [name for name in self._contents() if name.startswith(".")]

    def _protect(self, seed, force):
        job = photos.Job(
            self.ensemble,
            self.out,
            Config(steps=1),
            canonical_size=16,
            seed=seed,
            force=force,
            aligned=True,
            batch_size=2,
            attack=lambda job, images, labels, size: instant_protect(images).images,
        )
        return list(photos.protect_photos(sorted(self.originals), job))

    def _check_that_nothing_is_left_to_do(self, seed, failed):
        copies = self._contents("*.png")
        again = self._protect(seed, force=False)
        assert {o.source for o in again if o.status == "failed"} == failed
        assert {o.status for o in again} == {"skipped", *(["failed"] if failed else [])}
        assert self._contents("*.png") == copies

    def _check_report(self):
        """Every copy is in the report."""
        listed = set()
        with suppress(FileNotFoundError, json.JSONDecodeError):  # then there may be no copy
            found = json.loads((self.out / "report.json").read_text())
            listed = {entry["protected"] for entry in [*found["photos"], *found["earlier"]]}
        copies = {path.name for path in self.out.glob("*.png") if path not in self.foreign}
        assert copies <= listed

    def _forget_copies(self):
        """Without a report, the copies might be any pictures."""
        self.foreign |= {path: path.read_bytes() for path in self.out.glob("*.png")}

    def _contents(self, pattern="*"):
        return {path.name: path.read_bytes() for path in self.out.glob(pattern)}


def test_no_course_of_events_loses_or_confuses_anything(ensemble):
    Folder.ensemble = ensemble
    settings = hypothesis.settings(max_examples=60, stateful_step_count=20)
    hypothesis.stateful.run_state_machine_as_test(Folder, settings=settings)
