"""Files are written completely or not at all."""

import errno
import os

import pytest

from cdmaa_jax import disk
from cdmaa_jax.disk import FileError


@pytest.mark.parametrize("letter", ["x", "ß", "写"])
def test_names_are_cut_to_what_file_systems_take(tmp_path, letter):
    name = disk.file_name(letter * 300, "-1.png")
    assert name.endswith(letter + "-1.png")
    disk.write_whole(tmp_path / name, b"")
    assert disk.is_too_long(letter + name) and disk.file_name("a", ".png") == "a.png"
    with pytest.raises(FileError, match="name is too long"):
        disk.stage(tmp_path / (letter + name), b"")
    assert os.listdir(tmp_path) == [name]


def test_a_folder_is_one_run_s_at_a_time(tmp_path):
    with disk.locked(tmp_path):
        with pytest.raises(FileError, match="another run"), disk.locked(tmp_path):
            pass
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == []
    with pytest.raises(ZeroDivisionError), disk.locked(tmp_path):
        raise ZeroDivisionError
    with disk.locked(tmp_path):
        disk.discard_unfinished()
    assert os.listdir(tmp_path) == []


def test_a_link_in_the_lock_s_place_is_told_of(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    (tmp_path / disk._LOCK_FILE).symlink_to("photo.jpg")
    with pytest.raises(FileError, match="lock: it is a link"), disk.locked(tmp_path):
        pass
    assert (tmp_path / "photo.jpg").read_bytes() == b"precious"


def test_a_folder_in_the_lock_s_place_is_told_of(tmp_path):
    (tmp_path / disk._LOCK_FILE).mkdir()
    with pytest.raises(FileError, match="lock: it is a folder"), disk.locked(tmp_path):
        pass


def test_what_killed_runs_left_is_removed_by_whoever_locks_the_folder(tmp_path):
    kept = [".a.part", "a-0123456789abcdef.part", ".a-0123456789abcdef.png", ".a-download.part"]
    for name in (".a-0123456789abcdef.part", ".a b-fedcba9876543210.part", *kept):
        (tmp_path / name).write_bytes(b"")
    for name in ("c.png", "写" * 60, "d" * disk._LONGEST_NAME):
        disk._UNFINISHED.discard(disk.stage(tmp_path / name, b"").temporary)
    ours = disk.stage(tmp_path / "b", b"b")
    with disk.locked(tmp_path) as is_locked:
        assert is_locked and {*kept, ours.temporary.name} < set(os.listdir(tmp_path))
    disk.discard([ours])
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_folder_without_locks_is_written_to(tmp_path, monkeypatch, number):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    staged = ".a-0123456789abcdef.part"
    (tmp_path / staged).write_bytes(b"")  # perhaps of a run that still writes
    with disk.locked(tmp_path) as is_locked:
        disk.write_whole(tmp_path / "a", b"")
    assert not is_locked and sorted(os.listdir(tmp_path)) == [staged, "a"]


def test_a_lock_that_the_disk_has_no_room_for(tmp_path, monkeypatch):
    def full(lock):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.FileLock, "acquire", full)
    with pytest.raises(FileError, match="the disk is full"), disk.locked(tmp_path):
        pass


def test_the_lock_of_another_user_and_its_lack(tmp_path, monkeypatch):
    def refuse(lock):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(disk.FileLock, "acquire", refuse)
    with pytest.raises(FileError, match=r"0: no permission"), disk.locked(tmp_path):
        pass
    (tmp_path / ".cdmaa.lock").touch()
    message = r"\.cdmaa\.lock: it is the lock of another user's run; wait for that, or choose"
    with pytest.raises(FileError, match=message), disk.locked(tmp_path):
        pass


def fail_with(monkeypatch, name, number):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk.os, name, refuse)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "what"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only")]
)
def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch, call, number, what):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    fail_with(monkeypatch, call, number)
    with pytest.raises(FileError, match=what):
        disk.write_whole(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.png"]


def test_staged_files_appear_together_or_not_at_all(tmp_path):
    staged = [disk.stage(tmp_path / name, name.encode()) for name in ("a", "b")]
    assert not (tmp_path / "a").exists() and staged[0].temporary.read_bytes() == b"a"
    disk.commit(staged)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    disk.stage(tmp_path / "c", b"c")
    disk.discard_unfinished()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_of_files_that_are_written_together_one_that_fails_leaves_none(tmp_path):
    with pytest.raises(FileError, match="name is too long"):
        disk.write_together({tmp_path / "a": b"a", tmp_path / ("b" * 300): b"b"})
    assert os.listdir(tmp_path) == []
    disk.write_together({tmp_path / name: name.encode() for name in ("a", "b")})
    assert sorted(os.listdir(tmp_path)) == ["a", "b"] and (tmp_path / "b").read_bytes() == b"b"


def test_written_files_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        disk.write_whole(tmp_path / "a", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_the_umask_of_the_process_is_left_alone(tmp_path, monkeypatch):
    """It is all threads': files that others create meanwhile would be anyone's to write."""

    def refuse(mask):
        raise AssertionError(f"the umask was set to {mask:o}")

    monkeypatch.setattr(disk.os, "umask", refuse)
    disk.write_whole(tmp_path / "a", b"")
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_that_has_the_name_of_a_staged_one_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(disk.secrets, "token_hex", lambda count: "0")
    staged = disk.stage(tmp_path / "a", b"ours")
    with pytest.raises(FileError):
        disk.stage(tmp_path / "a", b"theirs")
    disk.commit([staged])
    assert (tmp_path / "a").read_bytes() == b"ours" and os.listdir(tmp_path) == ["a"]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(FileError, match="a pipe or a device, not a file"):
        disk.sha256_of(tmp_path / "a")


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        for write in (disk.write_whole, disk.stage, lambda path, data: disk.check_place(path)):
            with pytest.raises(FileError, match="a pipe or a device, not a file; choose another"):
                write(path, b"")
    assert pipe.is_fifo() and link.is_symlink() and len(os.listdir(tmp_path)) == 2


def test_what_a_link_leads_to_is_left_alone(tmp_path):
    """Another user may have put it where one's own file was to be."""
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to("file")
    for content in (None, b"theirs"):  # at first it leads nowhere
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(FileError, match="it is a link; name the file that it leads to"):
            disk.check_place(link)
    disk.write_whole(link, b"ours")
    assert file.read_bytes() == b"theirs" and link.read_bytes() == b"ours"


def test_a_place_that_cannot_be_written_to_is_told_of_early(tmp_path, monkeypatch):
    cases = {
        tmp_path / "none" / "a": f"there is no folder {tmp_path / 'none'}; make it, or give it",
        tmp_path: "it is a folder; give it",
        tmp_path / ("a" * 300): "its name is too long; give it",
    }
    for path, message in cases.items():
        with pytest.raises(FileError) as caught:
            disk.check_place(path, "give it")
        assert str(caught.value) == f"{path}: {message}"
    disk.check_place(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_folders(tmp_path):
    disk.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError, match="a file, not a folder"):
        disk.make_folder(tmp_path / "file")
    with pytest.raises(FileError, match="a file, not a folder"):
        disk.make_folder(tmp_path / "file" / "b")


@pytest.mark.parametrize("target", ["loop", "nothing"])
def test_a_link_that_leads_nowhere_is_no_folder(tmp_path, target):
    (tmp_path / "loop").symlink_to(target)
    with pytest.raises(FileError, match="loop: it is a link that leads nowhere; choose another"):
        disk.make_folder(tmp_path / "loop")


def test_a_folder_that_cannot_be_written_into(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(disk.tempfile, "TemporaryFile", refuse)
    with pytest.raises(FileError, match="no permission"):
        disk.make_folder(tmp_path)
