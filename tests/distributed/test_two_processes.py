"""Two gloo processes learn what one process learns at the same global batch, and survive a kill as one does."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from engine.faults import contents


@pytest.fixture
def two(tmp_path):
    """Start `codyra ARGS...` as two processes."""
    script = tmp_path / "entry.py"
    script.write_text("from codyra.cli import main\nmain()\n")

    def launch(*arguments):
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
                *map(str, (script, *arguments)),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return launch


def kill_all(script):
    """Launcher and workers, which it gives sessions of their own."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if script in (folder / "cmdline").read_text():
                os.kill(int(folder.name), signal.SIGKILL)


def finish(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


@pytest.mark.slow
def test_two_processes_are_one_process(config, command, two, tmp_path):
    path = tmp_path / "stream.yaml"
    path.write_text(yaml.safe_dump(config))
    assert command("run", path, "--out", tmp_path / "one")[0] == 0
    assert finish(two("run", path, "--out", tmp_path / "two")).count("report: ") == 1
    single, double = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert json.loads((tmp_path / "two/manifest.json").read_text())["processes"] == 2
    assert double["update_norm"] == pytest.approx(single["update_norm"], rel=1e-4)
    assert double["mean_rank"] == single["mean_rank"]
    assert (tmp_path / "one/accuracy.csv").read_text() == (tmp_path / "two/accuracy.csv").read_text()


@pytest.mark.slow
def test_two_killed_processes_continue_as_two(config, command, two, tmp_path):
    """Dropout: each process has a generator of its own, and the checkpoint holds both."""
    config["method"] = {"name": "lora", "r": 4, "dropout": 0.3}
    config["train"] |= {"steps": 40, "checkpoint_steps": 5}
    path = tmp_path / "stream.yaml"
    path.write_text(yaml.safe_dump(config))
    finish(two("run", path, "--out", tmp_path / "whole"))
    killed = two("run", path, "--out", tmp_path / "killed")
    checkpoint = tmp_path / "killed/tasks/02-cool/checkpoint/state.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.is_file() and time.monotonic() < deadline:
        time.sleep(0.005)
    kill_all(str(tmp_path / "entry.py"))
    killed.communicate()
    assert checkpoint.is_file()
    assert not (tmp_path / "killed/tasks/02-cool/ranks.json").exists()
    out = finish(two("run", path, "--out", tmp_path / "killed"))
    assert "task 2/3 cool: continuing after" in out
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
