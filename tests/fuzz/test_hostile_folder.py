"""Hostile run folders through the real command: exit code 2, one line that names the place, nothing obeyed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x1b[31m\u202e"
TASK = "tasks/01-warm"


def edit(name: str, change: Callable[..., object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return apply


def task_name(name: str) -> Callable[[Path], None]:
    return edit("manifest.json", lambda manifest: manifest["data"][0].update(task=name))


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def link(name: str, target: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        place = folder / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        place.symlink_to(target)

    return apply


def pipe(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return apply


def sparse(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        with (folder / name).open("wb") as stream:
            stream.truncate(10**12)

    return apply


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "traversal in a task name": (task_name("../../../etc"), "manifest.json is damaged: data.0.task"),
    "absolute task name": (task_name("/etc"), "manifest.json is damaged: data.0.task"),
    "escape sequences in a task name": (task_name(ESCAPE), "\\x1b[2J"),
    "one task twice": (task_name("cool"), "two tasks are named 'cool' and 'cool'"),
    "one folder for two tasks": (task_name("COOL"), "two tasks are named 'cool' and 'COOL'"),
    "no task": (
        edit("manifest.json", lambda manifest: manifest.update(data=[])),
        "manifest.json is damaged: data",
    ),
    "a million tasks": (
        edit("manifest.json", lambda manifest: manifest.update(data=manifest["data"] * 20_000)),
        "manifest.json is damaged: data",
    ),
    "task folder that leads out": (link(TASK, "/etc"), f"{TASK} lies outside"),
    "tasks that lead out": (link("tasks", "/"), f"{TASK} lies outside"),
    "log that leads out": (link(f"{TASK}/train.jsonl", "/etc/passwd"), "train.jsonl lies outside"),
    "manifest that leads out": (link("manifest.json", "/etc/passwd"), "manifest.json lies outside"),
    "config that leads out": (link("config.yaml", "/dev/zero"), "config.yaml lies outside"),
    "pictures that lead out": (link("samples", "/usr"), "lies outside"),
    "picture with a path out": (
        edit("samples.json", lambda samples: samples[0]["examples"][0].update(image="../../secret.png")),
        "secret.png lies outside",
    ),
    "link in a circle": (link("metrics.json", "metrics.json"), "metrics.json"),
    "pipe": (pipe("accuracy.csv"), "accuracy.csv is damaged: not a regular file"),
    "pipe for a picture": (pipe("samples/01-0.png"), "01-0.png is damaged: not a regular file"),
    "terabyte manifest": (sparse("manifest.json"), "manifest.json is damaged: 1000000000000 bytes"),
    "terabyte log": (sparse(f"{TASK}/train.jsonl"), "train.jsonl is damaged: 1000000000000 bytes"),
    "terabyte config": (sparse("config.yaml"), "config.yaml is damaged: 1000000000000 bytes"),
    "terabyte picture": (sparse("samples/01-0.png"), "01-0.png is damaged: 1000000000000 bytes"),
    "deep JSON": (text("manifest.json", "[" * 1_000_000), "manifest.json is damaged: not JSON"),
    "deep YAML": (text("config.yaml", "[" * 100_000), "config.yaml is damaged: not YAML"),
    "YAML that runs code": (
        text("config.yaml", "!!python/object/apply:os.system ['touch owned']"),
        "config.yaml is damaged: not YAML",
    ),
    "YAML that multiplies": (
        text(
            "config.yaml",
            "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]" for n in range(1, 12)),
        ),
        "aliases written out",
    ),
    "cells without end": (
        text("accuracy.csv", "after,warm,cool\n" + "\n" * 10**6),
        "accuracy.csv is damaged",
    ),
    "one long cell": (text("accuracy.csv", "a" * 10**6), "accuracy.csv is damaged: not CSV"),
    "key with escape sequences": (
        edit("metrics.json", lambda metrics: metrics["per_task"].update({ESCAPE: 3})),
        "\\x1b[2J",
    ),
    "figure beyond all sense": (
        edit("metrics.json", lambda metrics: metrics.update(transfer=1e300)),
        "metrics.json is damaged: transfer",
    ),
    "half a surrogate pair": (
        edit("samples.json", lambda samples: samples[0].update(prompt="\ud800")),
        "samples.json is damaged: not JSON",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_folder_is_one_line(command, run_folder, tmp_path, case):
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    (tmp_path / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    harm, message = CASES[case]
    harm(folder)
    commands = (("history", folder), ("table", folder), ("report", folder, "--out", tmp_path / "report.html"))
    for arguments in commands:
        code, out, err = command(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("codyra: ")
        assert err.endswith("\n")
        assert err[:-1].isprintable(), err
        assert str(folder) in err
        assert message in err
    assert not (tmp_path / "report.html").exists()


def test_names_are_shown_and_not_obeyed(command, run_folder, tmp_path):
    folder = tmp_path / f"run{ESCAPE}"
    shutil.copytree(run_folder, folder)
    edit("manifest.json", lambda manifest: manifest["method"].update(name=ESCAPE))(folder)
    edit("manifest.json", lambda manifest: manifest["base"].update(name=f"[bold]{ESCAPE}"))(folder)
    for arguments in (("history", folder), ("table", folder), ("report", folder)):
        code, out, err = command(*arguments)
        assert (code, err) == (0, "")
        assert "\\x1b[2J" in out
        assert all(line.isprintable() for line in out.split("\n")), out
    code, _, err = command("history", tmp_path / f"nothing{ESCAPE}")
    assert code == 2
    assert err[:-1].isprintable()
    assert "\\x1b[2J" in err


def test_a_report_replaces_a_link_and_not_what_it_points_to(command, run_folder, tmp_path):
    folder, other = tmp_path / "run", tmp_path / "precious"
    shutil.copytree(run_folder, folder)
    other.write_text("precious")
    (folder / "report.html").unlink(missing_ok=True)
    (folder / "report.html").symlink_to(other)
    assert command("report", folder)[0] == 0
    assert other.read_text() == "precious"
    assert "<html" in (folder / "report.html").read_text()
