"""One writer: who holds the lock is said, and the dead cannot hold it."""

import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codyra.engine import lock
from codyra.engine.lock import LOCK, only_writer
from codyra.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from codyra.engine.lock import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path / "run"`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_writer_is_told_who_holds_it(tmp_path, holder, config, command):
    held = f"process {holder.pid} on {platform.node()} is writing to this run"
    with pytest.raises(UserError, match=held), only_writer(tmp_path / "run"):
        pass
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    code, _, err = command("run", tmp_path / "config.yaml", "--out", tmp_path / "run")
    assert code == 2
    assert f"process {holder.pid}" in err
    assert err.count("\n") == 1
    assert [file.name for file in (tmp_path / "run").iterdir()] == [LOCK]


def test_deleting_the_file_does_not_free_the_lock(tmp_path, holder):
    (tmp_path / "run" / LOCK).unlink()
    with pytest.raises(UserError, match="is writing to this run"), only_writer(tmp_path / "run"):
        pass


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("elsewhere")])
def test_what_is_no_lock_file_is_named(tmp_path, make):
    make(tmp_path / LOCK)
    with pytest.raises(UserError, match=LOCK), only_writer(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / "run" / LOCK).is_file()
    with only_writer(tmp_path / "run") as gone:
        assert gone == f"process {holder.pid} on {platform.node()}"
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()


def test_nothing_is_left_behind(tmp_path):
    with only_writer(tmp_path / "new") as gone:
        assert gone is None
    assert not (tmp_path / "new").exists()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    with pytest.raises(KeyError), only_writer(tmp_path / "kept"):
        raise KeyError
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["file"]


def test_a_file_that_was_just_removed_is_no_lock(tmp_path, monkeypatch):
    """Between opening and locking the holder may let go, and a third process make a new file."""
    folder = tmp_path / "run"
    folder.mkdir()
    real, tried = lock._try_lock, []

    def swap_once(handle):
        tried.append(handle)
        if len(tried) == 2:  # the folder comes first
            (folder / LOCK).unlink()
            (folder / LOCK).touch()
        return real(handle)

    monkeypatch.setattr(lock, "_try_lock", swap_once)
    with only_writer(folder), (folder / LOCK).open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("pid", "host", "free"),
    [
        (os.getpid(), platform.node(), False),
        (2**22 + 1, platform.node(), True),  # beyond the largest pid of Linux
        (2**80, platform.node(), True),
        (2**22 + 1, "elsewhere", False),
    ],
    ids=["alive", "dead", "no pid at all", "on another host"],
)
def test_where_files_cannot_be_locked_the_content_decides(tmp_path, monkeypatch, pid, host, free):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    (tmp_path / LOCK).write_text(json.dumps({"pid": pid, "host": host, "since": ""}))
    if free:
        with only_writer(tmp_path) as gone:
            assert gone == f"process {pid} on {host}"
    else:
        with pytest.raises(UserError, match="is writing to this run"), only_writer(tmp_path):
            pass


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": "x", "host": 3}', "\0\0", "[" * 4000])
def test_a_lock_file_with_any_content_is_harmless(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with only_writer(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), only_writer(tmp_path / "file" / "run"):
        pass


def test_one_of_many_gets_it(tmp_path):
    """Six processes at once: never two inside together."""
    code = """
import sys, time
from pathlib import Path
from codyra.engine.lock import only_writer
from codyra.errors import UserError
folder = Path(sys.argv[1])
for _ in range(30):
    try:
        with only_writer(folder):
            inside = folder / "inside"
            inside.touch(exist_ok=False)
            time.sleep(0.002)
            inside.unlink()
    except UserError:
        time.sleep(0.001)
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")]) for _ in range(6)]
    started = time.monotonic()
    assert [process.wait() for process in processes] == [0] * 6
    assert time.monotonic() - started < 60
