"""What is known before the first step, and that finding it out changes nothing."""

import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from codyra.engine import run as engine
from codyra.engine.config import load_config
from codyra.engine.plan import estimate, make_plan
from codyra.engine.progress import Narrator, duration, size
from codyra.errors import UserError
from families.tiny_encoders import save_bert


@pytest.mark.parametrize("method", ["codyra", "lora", "full", "zero_shot"])
def test_an_estimate_leaves_the_model_as_it_was(config, method):
    plan = make_plan(load_config(config, [f"method.name={method}"]), {}, Narrator(quiet=True))
    before = {name: weight.clone() for name, weight in plan.family.net.state_dict().items()}
    cost = estimate(plan, len(plan.tasks))
    after = plan.family.net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in plan.family.net.parameters())
    assert cost.seconds > 0
    assert cost.memory_bytes > 1e6
    assert (cost.disk_bytes > 2_000_000) == (method != "zero_shot")


def test_processes_that_do_not_find_each_other_are_refused(config, monkeypatch):
    """As on an accelerator that does not train in several processes: every one would take itself for the only one."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with pytest.raises(
        UserError, match=r"2 processes were launched, but this one finds 1; set ACCELERATE_USE_CPU=1"
    ):
        make_plan(load_config(config), {}, Narrator(quiet=True))


@pytest.mark.parametrize("first", [True, False], ids=["first run", "second run"])
def test_the_check_counts_every_image_that_is_used(config, pictures, first):
    """Tasks that share images, and the guard's held-out set, whose training images are never read."""
    tasks = config["stream"]["tasks"]
    config["stream"]["tasks"] = [*tasks, {**tasks[0], "name": "again", "prompt": "{}"}]
    config["guard"] = {"data": tasks[1]["data"], "tolerance": 5}
    config["seed"] = 4  # shots that no other test has checked
    told = []

    class Recorder(Narrator):
        @contextmanager
        def work(self, label, total, first=0):
            told.append((label, total, more := []))
            yield more.append

    make_plan(load_config(config), {}, Recorder(quiet=True))
    ((label, total, more),) = told
    assert label == "checking images"
    assert total == sum(more) == (4 + 1) * 12 + 4 * 2 * 4


def test_an_estimate_leaves_no_shortened_test_set_behind(tmp_path):
    """Texts are tokenised once per task: a run must score all of them, not the few that were timed."""
    for split, rows in (("train", 4), ("test", 150)):
        lines = [
            f"the {'red bird' if row % 2 else 'green dog'},{'bird' if row % 2 else 'dog'}"
            for row in range(rows)
        ]
        (tmp_path / f"{split}.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    config = {
        "model": {"name": str(save_bert(tmp_path / "bert"))},
        "method": {"name": "zero_shot"},
        "stream": {"tasks": [{"name": "animals", "data": f"csv:{tmp_path}"}]},
    }
    quiet = Narrator(quiet=True)
    plan = make_plan(load_config(config), {}, quiet)
    (direct,) = plan.family.score(plan.tasks)
    (stored,) = engine.run(config, tmp_path / "run", narrator=quiet).zero_shot
    assert stored == 100 * direct.correct / 150


def test_durations_and_sizes_are_for_people():
    shown = [duration(seconds) for seconds in (0.2, 42, 200, 7500, 273_600)]
    assert shown == ["1 s", "42 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"]
    assert [size(count) for count in (10, 9_300_000, 1_240_000_000)] == ["0.1 kB", "9.3 MB", "1.2 GB"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the trap is Linux's")
def test_peak_memory_is_not_that_of_whoever_started_the_process():
    ask = "from codyra.engine.plan import peak_memory; print(peak_memory())"
    large = f"import subprocess, sys; kept = b'x' * 1_500_000_000; subprocess.run([sys.executable, '-c', {ask!r}])"
    done = subprocess.run([sys.executable, "-c", large], capture_output=True, text=True, check=True)
    assert 100_000_000 < int(done.stdout) < 1_400_000_000
