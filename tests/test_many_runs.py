"""The examples that map a list of runs: over a Slurm array (the scheduler is a stub) and over a Ray cluster of one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from codyra.engine.config import load_config
from engine.faults import contents

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

SBATCH = """#!/usr/bin/env bash
# As the scheduler: a copy of the script, run once per index; a task that is preempted is queued again.
range=${1#--array=}; cp "$2" spooled; shift 2
for SLURM_ARRAY_TASK_ID in $(seq "${range%-*}" "${range#*-}"); do
  export SLURM_ARRAY_TASK_ID SLURM_CPUS_PER_TASK=1
  if [ "$SLURM_ARRAY_TASK_ID" = 1 ]; then
    bash spooled "$@" & task=$!
    until [ -e "$PREEMPTED_AT" ]; do sleep 0.05; done
    kill -9 $task; wait $task; echo "task 1 was preempted"
  fi
  bash spooled "$@" || echo "task $SLURM_ARRAY_TASK_ID failed"
done
"""
MARK = "checkpoint/state.safetensors"
"""Where there is one, a task is half learnt."""


@pytest.fixture
def stream(config, tmp_path):
    """A folder with a stream, two equal runs and one that cannot be: (list of runs, file to wait for)."""
    config["train"] |= {"steps": 60, "checkpoint_steps": 5}
    (tmp_path / "stream.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "runs.txt").write_text(
        "# comment\nfirst stream.yaml --set seed=1\n\nagain stream.yaml --set seed=1\nwrong stream.yaml --set seed=x\n"
    )
    return tmp_path / "runs.txt", tmp_path / f"runs/first/tasks/02-cool/{MARK}"


def test_the_list_of_the_examples_is_what_codyra_run_takes(monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = [line.split() for line in (EXAMPLES / "runs.txt").read_text().splitlines() if line[:1] != "#"]
    configs = {name: load_config(source, words[1::2]) for name, source, *words in lines}
    assert len(configs) == len(lines)
    assert {(config.method.name, config.seed) for config in configs.values()} == {
        (method, seed) for method in ("codyra", "lora") for seed in (0, 1)
    }
    assert all(word == "--set" for _, _, *words in lines for word in words[::2])


@pytest.mark.slow
def test_slurm_array(stream, tmp_path):
    """The command in the script's head, a preemption in the middle of a task, and a run that fails alone."""
    runs, mark = stream
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "sbatch": SBATCH,
        "codyra": f'#!/bin/sh\nexec {sys.executable} -m codyra "$@"\n',
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    script = EXAMPLES / "slurm/array.sh"
    (typed,) = [line for line in script.read_text().splitlines() if "sbatch --array=1-" in line]
    typed = (
        typed.lstrip("# ")
        .replace("examples/slurm/array.sh", str(script))
        .replace("examples/runs.txt", str(runs))
    )
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PREEMPTED_AT": str(mark)}
    done = subprocess.run(
        ["bash", "-c", typed], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert "task 1 was preempted" in done.stdout, done.stderr
    assert "task 2/3 cool: continuing after" in done.stdout
    assert done.stdout.endswith("task 3 failed\n")
    assert "seed" in done.stderr
    assert contents(tmp_path / "runs/first") == contents(tmp_path / "runs/again")


def test_an_index_without_a_run_is_an_error(stream, tmp_path):
    done = subprocess.run(
        ["bash", EXAMPLES / "slurm/array.sh", stream[0], tmp_path / "runs"],
        env={**os.environ, "SLURM_ARRAY_TASK_ID": "4"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == f"{stream[0]} has no run 4; mend --array\n"


@pytest.mark.slow
def test_ray(stream, tmp_path):
    """Killed in the middle of a task, given again: the run goes on, and the one that cannot be is named."""
    pytest.importorskip("ray")
    runs, mark = stream
    command = [sys.executable, EXAMPLES / "ray/map_runs.py", runs, "--out", "runs"]
    options = {
        "cwd": tmp_path,
        "env": {**os.environ, "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    first = subprocess.Popen(command, **options)
    deadline = time.monotonic() + 120
    while not mark.is_file() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    first.communicate()
    assert mark.is_file()
    for lock in tmp_path.glob("runs/*/lock.json"):  # Ray ends what its workers have started
        while Path(f"/proc/{json.loads(lock.read_text())['pid']}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    again = subprocess.run(command, **options, timeout=300)
    assert again.returncode == 1, again.stderr
    assert "first: finished\n" in again.stdout
    assert "wrong: failed (2), see " in again.stdout
    assert again.stdout.endswith("2 of 3 runs finished; failed: wrong\n")
    assert "seed" in (tmp_path / "runs/wrong.log").read_text()
    assert "continuing after" in (tmp_path / "runs/first.log").read_text()
    assert contents(tmp_path / "runs/first") == contents(tmp_path / "runs/again")
