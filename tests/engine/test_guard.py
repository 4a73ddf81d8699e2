"""The guard: what costs too much on a held-out set is not committed."""

import json
import shutil
from importlib import resources
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from codyra.engine.config import GuardConfig, load_config
from codyra.engine.guard import judge, largest_factor
from codyra.engine.progress import Narrator
from codyra.engine.run import run
from codyra.errors import GuardRefused, UserError
from codyra.families import load_family
from codyra.streams import StreamSpec, build_stream
from codyra.update import TaskUpdate
from engine.faults import contents

QUIET = Narrator(quiet=True)


def guard(**options):
    return GuardConfig(data="imagefolder:x", **options)


@given(st.floats(0.004, 1.0))
def test_the_largest_factor_is_found_where_scores_fall_steadily(limit):
    factor = largest_factor(lambda factor: factor <= limit)
    assert factor <= limit < factor + 1 / 256 or (limit >= 255 / 256 and factor == 255 / 256)


@given(st.sets(st.integers(1, 255)))
def test_the_factor_holds_and_the_next_one_does_not(holding):
    factor = largest_factor(lambda factor: round(256 * factor) in holding) * 256
    assert factor == 0 or factor in holding
    assert factor + 1 == 256 or factor + 1 not in holding


def test_a_loss_within_the_tolerance_is_accepted():
    verdict = judge(guard(tolerance=2), 50.0, lambda factor: 48.0)
    assert verdict.accepted
    assert verdict.factor == 1.0
    assert verdict.after == 48.0
    assert verdict.lost == 2.0


def test_a_larger_loss_is_refused():
    verdict = judge(guard(tolerance=2), 50.0, lambda factor: 47.9)
    assert not verdict.accepted
    assert verdict.factor == 1.0


def test_or_the_update_is_shrunk_until_it_fits():
    verdict = judge(guard(tolerance=2, on_violation="shrink"), 50.0, lambda factor: 50 - 10 * factor)
    assert verdict.accepted
    assert verdict.factor == 51 / 256
    assert verdict.after >= 48.0
    assert verdict.candidate == 40.0


def test_down_to_nothing_where_no_part_of_it_fits():
    verdict = judge(
        guard(tolerance=2, on_violation="shrink"), 50.0, lambda factor: 50.0 if factor == 0 else 0.0
    )
    assert verdict.accepted
    assert verdict.factor == 0.0
    assert verdict.after == 50.0


@pytest.fixture
def guarded(config, pictures, tmp_path):
    """The second task calls red pictures green and green ones red; the guard knows better."""
    for split in ("train", "test"):
        shutil.copytree(pictures / "warm" / split / "red", tmp_path / "swapped" / split / "green")
        shutil.copytree(pictures / "warm" / split / "green", tmp_path / "swapped" / split / "red")
    cool = config["stream"]["tasks"][1]
    config["stream"]["tasks"] = [
        cool,
        {**cool, "name": "swapped", "data": f"imagefolder:{tmp_path / 'swapped'}"},
    ]
    config["train"] |= {"steps": 20, "lr": 3e-3}
    config["guard"] = {"data": f"imagefolder:{pictures / 'warm'}", "prompt": "a {} picture.", "tolerance": 10}
    return config


def learn(config, out, *overrides):
    return run(config, out, overrides=overrides, narrator=QUIET)


def refused(config, out):
    with pytest.raises(GuardRefused) as stopped:
        learn(config, out)
    return str(stopped.value)


def test_refused_kept_aside_and_continued(guarded, tmp_path, command):
    path, out = tmp_path / "config.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(guarded))
    code, _, err = command("run", path, "--out", out)
    assert code == 3
    assert "the guard refused task 2 (swapped)" in err
    assert err.count("\n") == 1
    folder = out / "tasks/02-swapped"
    candidate = TaskUpdate.load(folder / "candidate")
    assert not candidate.no_change
    assert not (folder / "ranks.json").exists()
    assert not (folder / "scores.json").exists()
    verdict = json.loads((folder / "guard.json").read_text())
    assert verdict["before"] - verdict["candidate"] > 10
    assert not verdict["accepted"]
    # The same again is the same refusal, without training again.
    before = contents(out)
    assert command("run", path, "--out", out)[0] == 3
    assert contents(out) == before
    # Shrinking goes on from the candidate, and ends as if it had been asked for at once.
    shrink = ["--set", "guard.on_violation=shrink"]
    assert command("run", path, "--out", out, *shrink)[0] == 0
    assert command("run", path, "--out", tmp_path / "whole", *shrink)[0] == 0
    assert contents(out) == contents(tmp_path / "whole")
    verdict = json.loads((folder / "guard.json").read_text())
    assert verdict["accepted"]
    assert 0 <= verdict["factor"] < 1
    assert verdict["before"] - verdict["after"] <= 10
    committed = TaskUpdate.load(folder)
    assert committed.norm() == pytest.approx(verdict["factor"] * candidate.norm(), rel=1e-6)


def test_a_damaged_candidate_is_not_committed(guarded, tmp_path):
    refused(guarded, tmp_path / "run")
    candidate = tmp_path / "run/tasks/02-swapped/candidate/adapter_model.safetensors"
    assert not (tmp_path / "run/tasks/02-swapped/checkpoint").exists()
    content = bytearray(candidate.read_bytes())
    content[-3] ^= 1
    candidate.write_bytes(content)
    with pytest.raises(UserError, match=r"candidate/adapter_model\.safetensors is damaged"):
        learn(guarded, tmp_path / "run", "guard.tolerance=100")


def test_the_score_is_that_of_the_held_out_set(guarded, pictures, tmp_path):
    guarded["guard"]["tolerance"] = 100
    finished = learn(guarded, tmp_path / "run")
    config = load_config(guarded)
    (task,) = build_stream(
        StreamSpec(tasks=[config.guard.task]), seed=0, default_prompt="{}", data_dir=None, root=Path()
    )
    model = resources.files("codyra") / "demo/tiny_clip"
    family = load_family(config.model.model_copy(update={"name": str(model)}))
    for after in (0, 1, 2):
        family.net = finished.model(after=after)
        expected = 100 * family.score([task])[0].correct_task / 12
        if after == 0:
            assert json.loads((finished.folder / "guard.json").read_text())["score"] == expected
        else:
            stored = json.loads(next((finished.folder / "tasks").glob(f"0{after}-*/guard.json")).read_text())
            assert stored["after"] == stored["candidate"] == expected


def test_against_the_previous_model(guarded, tmp_path):
    guarded["guard"] |= {"tolerance": 100, "against": "previous"}
    out = learn(guarded, tmp_path / "run").folder
    first, second = (
        json.loads((out / f"tasks/{name}/guard.json").read_text()) for name in ("01-cool", "02-swapped")
    )
    assert second["before"] == first["after"]
    assert first["before"] == json.loads((out / "guard.json").read_text())["score"]


def test_a_guard_that_accepts_changes_nothing(guarded, tmp_path):
    guarded["guard"]["tolerance"] = 100
    with_guard = contents(learn(guarded, tmp_path / "with").folder)
    del guarded["guard"]
    without = contents(learn(guarded, tmp_path / "without").folder)
    own = {"config.yaml", "report.html"} | {name for name in with_guard if name.endswith("guard.json")}
    assert {name: with_guard[name] for name in with_guard if name not in own} == {
        name: without[name] for name in without if name not in own
    }


def test_the_held_out_set_may_not_change(guarded, pictures, tmp_path):
    refused(guarded, tmp_path / "run")
    guarded["guard"]["data"] = f"imagefolder:{pictures / 'plain'}"
    with pytest.raises(UserError, match=r"guard\.data is .* there"):
        learn(guarded, tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": "imagefolder:none", "tolerance": 1}, "task 'guard': no folder"),
        ({"data": "nothing", "tolerance": 1}, "guard: data 'nothing' must be SOURCE:PLACE"),
        ({"data": "imagefolder:x"}, "guard.tolerance: Field required"),
        ({"data": "imagefolder:x", "tolerance": -1}, "guard.tolerance"),
        ({"data": "imagefolder:x", "tolerance": 1, "tolerate": 2}, "did you mean tolerance?"),
    ],
)
def test_a_bad_guard_is_one_line(config, tmp_path, command, options, words):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**config, "guard": options}))
    code, _, err = command("run", path, "--out", tmp_path / "run")
    assert (code, err.count("\n")) == (2, 1), err
    assert words in err


def test_what_is_carried_on_cannot_be_shrunk(config):
    config["method"] = {"name": "lora", "carry": "continue"}
    config["guard"] = {"data": "imagefolder:x", "tolerance": 1, "on_violation": "shrink"}
    with pytest.raises(UserError, match="use refuse"):
        load_config(config)
