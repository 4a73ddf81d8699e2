"""The scripts in examples/ run as a user runs them, on a tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from codyra import TaskUpdate
from codyra.engine.folder_reader import read_run
from families.tiny_lms import save_llama

pytestmark = pytest.mark.slow  # each imports torch anew
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


def example(script: str, *arguments: object) -> str:
    command = [sys.executable, EXAMPLES / script, *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def two_files(folder: Path, row) -> list[Path]:
    files = [folder / "monday.jsonl", folder / "tuesday.jsonl"]
    for number, file in enumerate(files):
        file.write_text("".join(json.dumps(row(number, n)) + "\n" for n in range(32)))
    return files


def check(folder: Path, printed: str) -> None:
    for task in ("01-monday", "02-tuesday"):
        update = TaskUpdate.load(folder / task)
        assert f"{sum(update.ranks.values())} of {sum(update.full_ranks.values())} ranks kept" in printed


def test_trl_sft(llama, tmp_path):
    files = two_files(
        tmp_path, lambda task, n: {"prompt": f"Question: {n}?", "completion": f" {n + task} it is"}
    )
    out = tmp_path / "out"
    check(out, example("trl_sft.py", llama, *files, "--out", out, "--steps", 6, "--rank", 4, "--cpu"))
    AutoModelForCausalLM.from_pretrained(out / "model")


def test_trainer(llama, tmp_path):
    files = two_files(tmp_path, lambda task, n: {"text": f"number {n}", "label": (n + task) % 3})
    out = tmp_path / "out"
    check(out, example("trainer.py", llama, *files, "--labels", 3, "--out", out, "--steps", 6, "--cpu"))
    assert AutoModelForSequenceClassification.from_pretrained(out / "model").num_labels == 3


def test_a_session_of_weeks(llama, tmp_path):
    pytest.importorskip("lm_eval")
    (tmp_path / "codyra").write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'from codyra.cli import main; main()' \"$@\"\n"
    )
    (tmp_path / "codyra").chmod(0o755)
    path = os.pathsep.join((str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]))
    session = tmp_path / "session"
    done = subprocess.run(
        ["bash", EXAMPLES / "weekly/session.sh", llama, session],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "[exit code" not in done.stdout, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert read_run(session / "desk").accuracy.tasks == ("week-31",)  # the second was taken back
    assert len(read_run(session / "guarded").tasks) == 1
    AutoModelForCausalLM.from_pretrained(session / "model")
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), session / "adapter-32")
    assert adapted.peft_config["default"].peft_type == "LORA"


def test_the_config_of_a_week_has_five_lines():
    assert len((EXAMPLES / "weekly/weekly.yaml").read_text().splitlines()) == 5
