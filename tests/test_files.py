"""Atomic writes: the old file or the new one, whatever fails in between."""

import errno

import pytest

from codyra import files
from codyra.errors import UserError


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "deep/er/file.txt"
    files.write_text(path, "one\n")
    files.write_text(path, "zwei ü\n")
    assert path.read_bytes() == "zwei ü\n".encode()
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("broken", ["os.fsync", "Path.replace"])
def test_a_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch, broken):
    path = tmp_path / "file.txt"
    files.write_text(path, "old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"codyra.files.{broken}", fail)
        with pytest.raises(UserError, match=r"file\.txt: No space left on device"):
            files.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x.json", {"score": float("nan")})
    assert not (tmp_path / "x.json").exists()
