"""The command as several processes of gloo."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

ENTRY = """
import os
from codyra import files

def refuse(path, *args, **kwargs):
    raise AssertionError(f"process {os.environ['RANK']} writes {path}")

if os.environ["RANK"] != "0":
    files.write_atomic = refuse
from codyra.cli import main
main()
"""
"""The installed command, but a process that is not the first may write nothing into a run folder."""


class Launcher:
    """Starts `codyra ARGS...` as several processes, and ends them when a test is over."""

    def __init__(self, entry: Path) -> None:
        self.entry = entry

    def start(self, *arguments, processes=2, **environment):
        launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone")
        return subprocess.Popen(
            [*launcher, "--nproc-per-node", str(processes), *map(str, (self.entry, *arguments))],
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments, **options):
        """What it said, once it is done."""
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        return out

    def kill_when(self, wanted: Path, *arguments):
        """Kill all processes as soon as a file is there."""
        process = self.start(*arguments)
        deadline = time.monotonic() + 120
        while not wanted.is_file() and time.monotonic() < deadline:
            time.sleep(0.005)
        self.kill()
        process.communicate()
        assert wanted.is_file()

    def kill(self):
        """Launcher and workers, which it gives sessions of their own."""
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(self.entry) in (folder / "cmdline").read_text():
                    os.kill(int(folder.name), signal.SIGKILL)


@pytest.fixture
def launch(tmp_path):
    """See `Launcher`."""
    entry = tmp_path / "entry.py"
    entry.write_text(ENTRY)
    launcher = Launcher(entry)
    yield launcher
    launcher.kill()
