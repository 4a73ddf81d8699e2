"""A directory that is there as a whole or not at all: kills, full disks, two at a time."""

import errno
import os
import resource
import signal
import subprocess
import sys

import pytest

from codyra.errors import UserError
from codyra.history.checkout import checkout
from codyra.history.directory import whole_directory

HOLD = """
import sys, time
from pathlib import Path
from codyra.history.directory import whole_directory
with whole_directory(Path(sys.argv[1])) as directory:
    (directory / "half").write_text("half of it")
    print("holding", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process in the middle of writing tmp_path/out."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "holding\n"
    yield process
    process.kill()
    process.communicate()


def test_appears_at_the_end_and_takes_an_empty_folder(tmp_path):
    (tmp_path / "out").mkdir()
    with whole_directory(tmp_path / "out") as directory:
        (directory / "file").write_text("whole")
        assert not list((tmp_path / "out").iterdir())
    assert (tmp_path / "out/file").read_text() == "whole"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, UserError, RuntimeError])
def test_a_failure_leaves_nothing(tmp_path, failure):
    def fail_half_way():
        with whole_directory(tmp_path / "out") as directory:
            (directory / "file").write_text("half")
            raise failure("stop")

    with pytest.raises(failure):
        fail_half_way()
    assert not list(tmp_path.iterdir())


def test_what_holds_something_is_refused_and_kept(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for target in ("out", "file"):
        with pytest.raises(UserError, match="is not an empty folder"), whole_directory(tmp_path / target):
            pass
    assert (tmp_path / "out/thesis.tex").read_text() == "years of work"


def test_the_leftover_of_a_killed_process_is_replaced(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".out.partial/half").exists()
    (tmp_path / ".out.partial/folder").mkdir()
    (tmp_path / ".out.partial/folder/link").symlink_to(tmp_path)
    with whole_directory(tmp_path / "out") as directory:
        assert not list(directory.iterdir())
    assert os.listdir(tmp_path) == ["out"]


def test_two_at_a_time_do_not_mix(tmp_path, holder):
    with pytest.raises(UserError, match="another process is writing"), whole_directory(tmp_path / "out"):
        pass
    assert (tmp_path / ".out.partial/half").read_text() == "half of it"
    assert holder.poll() is None


def test_a_full_disk_at_any_write_is_one_line_and_leaves_nothing(runs, tmp_path, monkeypatch):
    writes = []

    def fsync(descriptor):
        writes.append(descriptor)
        if len(writes) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("codyra.files.os.fsync", fsync)
    fails_at = 0
    checkout(runs["codyra"], tmp_path / "whole")
    total = len(writes)
    assert total >= 7
    for number in range(1, total + 1, 2):
        fails_at = number
        writes.clear()
        with pytest.raises(UserError, match="No space left") as caught:
            checkout(runs["codyra"], tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert os.listdir(tmp_path) == ["whole"]


def test_a_write_that_fails_inside_the_libraries_is_one_line(runs, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))  # less than the model
    try:
        with pytest.raises(UserError, match="cannot write the model") as caught:
            checkout(runs["codyra"], tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
