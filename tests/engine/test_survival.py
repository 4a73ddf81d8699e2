"""A run that was stopped anywhere and continued is, byte for byte, the run that was never stopped."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from codyra import files
from codyra.demo.stream import write_stream
from codyra.engine import trainer
from codyra.engine.config import load_config
from codyra.engine.progress import Narrator
from codyra.engine.run import run
from codyra.errors import UserError
from engine.faults import FaultyFiles, Killed, contents

QUIET = Narrator(quiet=True)
COMMAND = [sys.executable, "-c", "from codyra.cli import main; main()"]


def learn(config, out, *overrides):
    return run(config, out, overrides=overrides, narrator=QUIET).folder


@pytest.fixture
def small(config):
    """Two tasks of six steps with a checkpoint after every second one."""
    config["train"] |= {"steps": 6, "checkpoint_steps": 2}
    config["stream"]["tasks"] = config["stream"]["tasks"][:2]
    return config


METHODS = {
    "codyra": [],
    "official": ["method.schedule=official", "method.operator=official", "method.levels=3"],
    "lora": ["method.name=lora", "method.dropout=0.3"],
    "continue": ["method.name=lora", "method.carry=continue"],
    "full": ["method.name=full", "train.clip=0.5"],
}


@pytest.mark.parametrize(
    "method",
    [
        "codyra",
        "lora",
        "full",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("official", "continue")),
    ],
)
def test_stopped_inside_a_task_and_continued_is_the_same_run(small, tmp_path, monkeypatch, method):
    whole = learn(small, tmp_path / "whole", *METHODS[method])
    assert not list(whole.rglob("checkpoint"))
    steps = []
    real = trainer.lr_factor

    def stop_in_task_two(step, *rest):
        steps.append(step)
        if len(steps) == stop_at:
            raise Killed
        return real(step, *rest)

    stop_at = 6 + 5  # the fifth step of task 2
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "lr_factor", stop_in_task_two)
        with pytest.raises(Killed):
            learn(small, tmp_path / "run", *METHODS[method])
    assert (tmp_path / "run/tasks/02-cool/checkpoint/state.safetensors").is_file()
    steps.clear()
    stop_at = None
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "lr_factor", stop_in_task_two)
        continued = learn(small, tmp_path / "run", *METHODS[method])
    assert steps == [4, 5], "the steps before the checkpoint are not taken again"
    assert contents(continued) == contents(whole)


@pytest.fixture(scope="module")
def whole(request, tmp_path_factory, pictures):
    """A run that nothing disturbed: its config, its files, and the names it wrote in their order."""
    config = {
        "model": {"name": "builtin:tiny-clip"},
        "method": {"name": "codyra", "r": 2},
        "train": {"steps": 4, "checkpoint_steps": 2, "batch_size": 4},
        "stream": {
            "tasks": [
                {"name": name, "data": f"imagefolder:{pictures / name}", "shots": 2}
                for name in ("warm", "cool")
            ]
        },
        "guard": {"data": f"imagefolder:{pictures / 'plain'}", "tolerance": 100},
    }
    counting = FaultyFiles(-1, "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write_atomic", counting)
        folder = learn(config, tmp_path_factory.mktemp("whole") / "run")
    return config, contents(folder), [file.name for file in counting.written]


def disturb_and_continue(whole, out, at, mode, monkeypatch):
    config, expected, _ = whole
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", FaultyFiles(at, mode))
        with pytest.raises(UserError if mode == "failed" else Killed) as stopped:
            learn(config, out)
    if mode == "failed":
        assert "No space left on device; free some disk space" in str(stopped.value)
    assert contents(learn(config, out)) == expected


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("config.yaml", "truncated"),
        ("state.safetensors", "killed after"),
        ("ranks.json", "killed before"),
        ("scores.json", "failed"),
    ],
)
def test_a_write_that_goes_wrong_costs_nothing(whole, tmp_path, monkeypatch, name, mode):
    disturb_and_continue(whole, tmp_path / "run", whole[2].index(name), mode, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("mode", FaultyFiles.MODES)
def test_any_write_that_goes_wrong_costs_nothing(whole, tmp_path, monkeypatch, mode):
    for at in range(len(whole[2])):
        disturb_and_continue(whole, tmp_path / str(at), at, mode, monkeypatch)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def damage_and_continue(stopped, expected, config, tmp_path, names):
    """Flip a byte: the continued run names the file, or ends with the bytes that it would have had."""
    for name in names:
        folder = shutil.copytree(stopped, tmp_path / name.replace("/", "-"))
        flip(folder / name)
        try:
            learn(config, folder)
            refusal = None
        except UserError as error:
            refusal = str(error)
        healed = refusal is None and contents(folder) == expected
        assert healed or Path(name).name in str(refusal), (name, refusal)


def stopped_in_task_two(config, out, monkeypatch):
    """A run that was killed two steps after the checkpoint of its second task."""
    real, steps = trainer.lr_factor, []

    def stop(step, *rest):
        steps.append(step)
        if len(steps) == 4 + 3:
            raise Killed
        return real(step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "lr_factor", stop)
        with pytest.raises(Killed):
            learn(config, out)
    assert (out / "tasks/02-cool/checkpoint/state.safetensors").is_file()
    return out


@pytest.mark.parametrize(
    "some",
    [
        (
            "tasks/02-cool/shots.json",
            "tasks/02-cool/train.jsonl",
            "zero_shot.json",
            "tasks/01-warm/scores.json",
        ),
        pytest.param(None, marks=pytest.mark.slow),
    ],
    ids=["some files", "every file"],
)
def test_damage_in_a_stopped_run_is_named_or_healed(whole, tmp_path, monkeypatch, some):
    config, expected, _ = whole
    stopped = stopped_in_task_two(config, tmp_path / "stopped", monkeypatch)
    damage_and_continue(stopped, expected, config, tmp_path, some or contents(stopped))


def test_what_is_missing_in_a_stopped_run_is_named(whole, tmp_path, monkeypatch):
    config = whole[0]
    stopped = stopped_in_task_two(config, tmp_path / "stopped", monkeypatch)
    (stopped / "tasks/01-warm/train.jsonl").unlink()
    with pytest.raises(UserError, match=r"01-warm/train\.jsonl is missing"):
        learn(config, stopped)


def command_of(config_file: Path, out: Path) -> list[str]:
    return [*COMMAND, "run", str(config_file), "--out", str(out)]


def finish(config_file: Path, out: Path) -> dict[str, bytes]:
    """What `codyra run` leaves in `out`, by a process of its own, as those that are killed."""
    done = subprocess.run(command_of(config_file, out), capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return contents(out)


def storm(config_file: Path, out: Path, kills: int, spread: float, rng: random.Random) -> list[float]:
    """Kill `codyra run` again and again, at random moments after it began to write.

    Returns:
        Seconds after the first write of every kill that hit a process which held the lock, and so left it behind.
    """
    command = command_of(config_file, out)
    hits: list[float] = []
    while len(hits) < kills:
        delay = rng.uniform(0, spread)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            while process.poll() is None and not (out / "lock.json").is_file():
                time.sleep(0.01)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        if not (out / "lock.json").is_file():
            # The process may have been there still, but the run was done.
            assert (out / "report.html").is_file(), "a process killed in the middle leaves its lock behind"
            break
        hits.append(delay)
    return hits


def test_three_kills_of_the_real_command(small, tmp_path):
    small["train"] |= {"steps": 60}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(small))
    hits = storm(path, tmp_path / "killed", 3, 2.5, random.Random(3))
    assert len(hits) == 3
    assert finish(path, tmp_path / "killed") == finish(path, tmp_path / "whole")


@pytest.mark.slow
def test_a_kill_storm_over_a_demo_sized_run(tmp_path):
    """Twenty kills and more, spread over loading, zero-shot scoring, training, merging, scoring and writing."""
    write_stream(tmp_path / "data", seed=8)
    path = tmp_path / "demo.yaml"
    config = load_config("demo", [f"data_dir={tmp_path / 'data'}", "train.checkpoint_steps=7"])
    path.write_text(config.to_yaml())
    hits = storm(path, tmp_path / "killed", 25, 9.0, random.Random(25))
    assert len(hits) >= 20
    assert finish(path, tmp_path / "killed") == finish(path, tmp_path / "whole")


def test_what_follows_from_the_scores_is_written_again(small, tmp_path):
    folder = learn(small, tmp_path / "run")
    whole = contents(folder)
    for name in ("accuracy.csv", "metrics.json"):
        (folder / name).unlink()
    assert contents(learn(small, folder)) == whole
