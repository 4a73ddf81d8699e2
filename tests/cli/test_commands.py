"""The commands a user types, from start to interrupted to continued to reported."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest
import yaml


def spawn(*arguments, cwd):
    """The installed command as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    code = "from codyra.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_help_answers_without_loading_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['codyra', '--help']\n"
        "from codyra.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("demo", "run", "report", "history", "checkout", "export", "predict"):
        assert name in done.stdout


def test_interrupted_and_continued(config, command, tmp_path):
    path, out = tmp_path / "stream.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump({**config, "train": {**config["train"], "steps": 60}}))
    process = spawn("run", path, "--out", out, cwd=tmp_path)
    deadline = time.monotonic() + 90
    while not (out / "tasks/01-warm/scores.json").is_file():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"continue with: codyra run {path} --out {out}" in err
    assert "Traceback" not in err
    code, said, _ = command("run", path, "--out", out)
    assert code == 0
    assert "continuing after task" in said
    whole = tmp_path / "whole"
    assert command("run", path, "--out", whole)[0] == 0
    assert (out / "accuracy.csv").read_text() == (whole / "accuracy.csv").read_text()


def test_run_report_and_history(config, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stream.yaml").write_text(yaml.safe_dump(config))
    code, said, _ = command("run", "stream.yaml", "--set", "method.name=lora", "--set", "method.r=2")
    assert code == 0
    assert "zero-shot" in said
    assert "Transfer" in said
    first = tmp_path / "runs/stream-1"
    assert json.loads((first / "manifest.json").read_text())["status"] == "finished"
    assert command("run", "stream.yaml")[0] == 0
    second = tmp_path / "runs/stream-2"

    code, said, _ = command("history", second)
    assert code == 0
    for name in ("warm", "cool", "plain"):
        assert name in said

    code, said, _ = command("report", first, second, "--out", "compare.html")
    assert code == 0
    page = (tmp_path / "compare.html").read_text()
    HTMLParser().feed(page)
    for word in ("warm", "cool", "plain", "Transfer", "lora", "codyra"):
        assert word in page


def test_interrupted_before_anything_was_learnt(config, tmp_path):
    path = tmp_path / "it's a stream.yaml"
    path.write_text(yaml.safe_dump(config))
    process = spawn("run", path, "--set", "stream.tasks.0.prompt=a {} here", cwd=tmp_path)
    time.sleep(3)  # within imports or checks
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    words = shlex.split(err.split("continue with: ")[1])
    assert words[:3] == ["codyra", "run", str(path)]
    assert words[-1] == "stream.tasks.0.prompt=a {} here"


def test_a_demo_does_not_overwrite_a_run(config, command, tmp_path):
    path, out = tmp_path / "stream.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump({**config, "method": {"name": "zero_shot"}}))
    assert command("run", path, "--out", out)[0] == 0
    before = (out / "report.html").read_bytes()
    code, _, err = command("demo", "--out", out)
    assert code == 2
    assert "is a run folder" in err
    assert (out / "report.html").read_bytes() == before
    assert not (out / "data").exists()


@pytest.mark.slow
def test_demo(command, tmp_path):
    started = time.monotonic()
    code, said, _ = command("demo", "--out", tmp_path / "demo")
    assert code == 0
    assert time.monotonic() - started < 180
    for name in ("codyra", "lora"):
        figures = json.loads((tmp_path / "demo" / name / "metrics.json").read_text())
        assert figures["zero_shot"] is not None
        # Learning is to be seen: right after learning, tasks are well above where they started.
        assert figures["learning_accuracy"] > figures["zero_shot"] + 5
        assert name in said
    assert (tmp_path / "demo/report.html").stat().st_size > 50_000
