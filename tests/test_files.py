"""Files and directories: whole on disk, or not there."""

import json
import math
from pathlib import Path

import pytest

from guided_diffusion.files import atomic_directory, atomic_write, file_sha256, write_json


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


def test_json_is_written_whole_and_never_with_a_nan(tmp_path):
    write_json(tmp_path / "record.json", {"value": 1.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "record.json", {"value": math.nan})
    assert json.loads((tmp_path / "record.json").read_text()) == {"value": 1.5}
    assert names(tmp_path) == ["record.json"]


def test_the_hash_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
