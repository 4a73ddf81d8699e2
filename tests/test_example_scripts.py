"""The scripts in examples/ run as a user runs them, on a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from codyra import TaskUpdate
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
