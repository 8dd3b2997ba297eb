"""Files and directories: whole on disk, or not there."""

import errno
import hashlib
import json
import math
import os
import resource
import time
from pathlib import Path

import pytest
import torch

from guided_diffusion.files import atomic_directory, atomic_write, file_sha256, locked, remove_leftovers, write_json


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_a_file_takes_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file"
    with atomic_write(path) as file:
        file.write(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(bytes([1 // 0]))
    assert path.read_bytes() == b"old"
    assert names(path.parent) == ["file"]


def test_a_directory_takes_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder"
    with pytest.raises(TypeError), atomic_directory(path) as folder:
        (folder / "part").write_text(None)  # opens the file, then fails
    assert names(path.parent) == []
    (path.parent / ".partial-folder").mkdir()  # left by a process that was killed
    with atomic_directory(path) as folder:
        assert names(folder) == []
        assert not path.exists()
        (folder / "whole").write_text("whole")
    assert names(path.parent) == ["folder"]
    assert names(path) == ["whole"]


def test_a_directory_that_exists_is_refused_or_replaced_as_asked(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(FileExistsError, match="folder is there already; remove it"), atomic_directory(path):
        pass
    with atomic_directory(path, replace=True) as folder:
        (folder / "new").touch()
        assert names(path) == ["old"]
    assert names(path) == ["new"]
    assert names(tmp_path) == ["folder"]


def test_a_directory_that_another_process_made_meanwhile_is_kept_and_named(tmp_path):
    path = tmp_path / "folder"
    with pytest.raises(FileExistsError, match="folder is there already; remove it"), atomic_directory(path):
        (path / "theirs").mkdir(parents=True)
    assert names(path) == ["theirs"]
    assert names(tmp_path) == ["folder"]


def test_json_is_written_whole_and_never_with_a_nan(tmp_path):
    write_json(tmp_path / "record.json", {"value": 1.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "record.json", {"value": math.nan})
    assert json.loads((tmp_path / "record.json").read_text()) == {"value": 1.5}
    assert names(tmp_path) == ["record.json"]


def test_the_hash_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_file_is_hashed_once_in_a_process_until_it_changes(tmp_path, monkeypatch):
    read, path = [], tmp_path / "weights"
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: read.append(file.name) or digest(file, name))
    path.write_bytes(b"ab")
    first = file_sha256(path)
    assert len(read) == 1
    path.write_bytes(b"cd")  # within one tick of the clock, and of the same size
    assert file_sha256(path) == hashlib.sha256(b"cd").hexdigest() != first
    monkeypatch.setattr(time, "time_ns", lambda now=time.time_ns: now() + 10**10)
    for _ in range(3):
        assert file_sha256(path) == hashlib.sha256(b"cd").hexdigest()
    assert len(read) == 3
    os.utime(path, ns=(0, 0))
    file_sha256(path)
    assert len(read) == 4


def test_hidden_files_of_a_user_are_no_leftovers(tmp_path):
    own = [".notes.tmp", ".partial-thesis"]
    for name in own:
        (tmp_path / name).write_text("mine")
    remove_leftovers(tmp_path)
    with locked(tmp_path, work="test"):
        pass
    assert names(tmp_path) == own


def test_what_a_killed_process_left_goes_with_the_next_write_and_what_a_living_one_writes_stays(tmp_path):
    path, other = tmp_path / "shard [1].npz", tmp_path / "other"
    orphans = [tmp_path / f".{path.name}.123.tmp", tmp_path / ".partial-other.123"]
    orphans[0].write_bytes(b"cut")
    (orphans[1] / "inner").mkdir(parents=True)
    with atomic_write(path) as file, atomic_directory(other) as folder:
        file.write(b"whole")
        assert not any(orphan.exists() for orphan in orphans)
        remove_leftovers(tmp_path)  # as the next process would
        assert folder.exists()
    assert path.read_bytes() == b"whole"
    assert names(tmp_path) == ["other", path.name]


def test_a_full_disk_names_the_file(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    for write in (atomic_write, atomic_directory):
        with pytest.raises(OSError, match=r"No space left on device: '.*wanted'"), write(tmp_path / "wanted"):
            raise full
        full.filename = None
    assert names(tmp_path) == []


def test_a_full_disk_names_the_file_also_behind_an_error_of_torch(tmp_path):
    """torch.save ends a failed archive, which fails again, with an error of its own."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with (
            pytest.raises(OSError, match=r"File too large: '.*wanted.pt'"),
            atomic_write(tmp_path / "wanted.pt") as file,
        ):
            torch.save({"weight": torch.zeros(100_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == []


def test_a_directory_is_locked_for_one_process_at_a_time(tmp_path):
    refusal = f"another preparation is at work in {tmp_path / 'out'}; wait for it, or choose another --out"
    with (
        locked(tmp_path / "out", work="preparation"),
        pytest.raises(ValueError, match=refusal),
        locked(tmp_path / "out", work="preparation"),
    ):
        pass
    with locked(tmp_path / "out", work="preparation"):
        pass


def test_a_worker_that_outlives_a_killed_process_does_not_hold_its_lock_or_its_temporary_files(tmp_path):
    path, (reading, writing) = tmp_path / "file", os.pipe()
    if (killed := os.fork()) == 0:
        with locked(tmp_path, work="training"), atomic_write(path):
            if os.fork() == 0:
                os.close(writing)
                os.read(reading, 1)  # lives until the test is over
            os._exit(0)
    os.waitpid(killed, 0)
    os.close(reading)
    assert names(tmp_path) == [f".file.{killed}.tmp", ".lock"]
    with locked(tmp_path, work="training"):
        assert names(tmp_path) == [".lock"]
    assert names(tmp_path) == []
    os.close(writing)
