"""Runs of a causal language model: the same loop, folder and history as for classes."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml

from codyra import metrics
from codyra.engine import trainer
from codyra.engine.config import load_config
from codyra.engine.folder import RunFolder
from codyra.engine.folder_reader import read_run
from codyra.engine.progress import Narrator
from codyra.engine.run import dry_run, run
from codyra.errors import GuardRefused, UserError
from codyra.families.family import AnswerScore
from codyra.history.answer import answer
from codyra.history.append import append
from codyra.history.checkout import checkout
from codyra.history.revert import revert
from codyra.history.verify import verify
from engine.answer_tasks import TASKS, TEST, TRAIN, write_task
from engine.faults import Killed, contents

QUIET = Narrator(quiet=True)


def config_of(place):
    """Three tasks of prompts and answers; a run takes about three seconds."""
    return {
        "model": {"name": str(place / "llama")},
        "method": {"name": "lora", "r": 8},
        "train": {"steps": 12, "batch_size": 6, "lr": 1e-2, "schedule": "constant"},
        "stream": {
            "max_answer_tokens": 4,
            "tasks": [{"name": name, "data": f"json:{place / name}"} for name in TASKS],
        },
    }


@pytest.fixture
def answers_config(place):
    return config_of(place)


def learn(config, out, *overrides):
    return run(config, out, overrides=overrides, narrator=QUIET)


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    """One finished run, not to be written into."""
    return learn(config_of(place), tmp_path_factory.mktemp("finished") / "run")


def test_each_task_is_learnt_and_the_ones_before_are_forgotten(finished):
    R = finished.accuracy
    assert [R[task][task] for task in range(3)] == [100.0] * 3
    assert R[2][0] < 100
    assert finished.zero_shot == [0.0] * 3
    figures = finished.metrics
    for name in ("overall_performance", "bwt", "bwt_trace", "bwt_clipped", "transfer"):
        assert figures[name] == metrics.METRICS[name](R)
    assert figures["label_space"] is None
    assert figures["own_label_space"] is None
    last = figures["per_task"]["numbers"]["last"]
    assert last == {"score": 100.0, "standard_error": 0.0}
    assert figures["per_task"]["numbers"]["metric"] == "accuracy"


def test_what_was_answered_is_kept_beside_the_scores(finished):
    for name, scores in (
        ("tasks/03-numbers/predictions.jsonl", "tasks/03-numbers/scores.json"),
        ("zero_shot_predictions.jsonl", "zero_shot.json"),
    ):
        lines = [json.loads(line) for line in (finished.folder / name).read_text().splitlines()]
        assert [(line["task"], line["position"]) for line in lines] == [
            (task, position) for task in TASKS for position in range(TEST)
        ]
        stored = json.loads((finished.folder / scores).read_text())["tasks"]
        for entry in stored:
            assert entry["total"] == sum(line["score"] for line in lines if line["task"] == entry["name"])
            assert entry["metric"] == "accuracy"
            assert "answers" not in entry
    assert {line["prediction"].strip() for line in lines[-TEST:]} != {"7"}


def test_the_folder_of_answers(finished):
    folder = finished.folder
    assert not (folder / "accuracy_task.csv").exists()
    assert not (folder / "labels.json").exists()
    stored = json.loads((folder / "answers.json").read_text())
    assert stored["settings"]["max_answer_tokens"] == 4
    assert [task["name"] for task in stored["tasks"]] == list(TASKS)
    view = read_run(folder)
    assert view.manifest.base.modality == "answers"
    assert [entry.metric for entry in view.manifest.data] == ["accuracy"] * 3
    findings = list(verify(folder))
    assert all(finding.ok for finding in findings), findings
    assert "true class" not in (folder / "report.html").read_text()


def test_a_finished_run_is_shown_and_another_config_refused(finished, answers_config):
    assert learn(answers_config, finished.folder).accuracy == finished.accuracy
    with pytest.raises(UserError, match=r"holds another run \(stream.max_answer_tokens"):
        learn(answers_config, finished.folder, "stream.max_answer_tokens=5")


@pytest.mark.parametrize("method", ["codyra", "full", "zero_shot"])
def test_other_methods(answers_config, tmp_path, method):
    done = learn(answers_config, tmp_path / "run", f"method.name={method}", "train.lr=5e-3")
    assert len(done.accuracy) == 3
    assert all(finding.ok for finding in verify(done.folder))
    if method == "zero_shot":
        assert done.accuracy == [done.zero_shot] * 3


def test_only_what_was_seen_is_scored(answers_config, tmp_path):
    done = learn(answers_config, tmp_path / "run", "stream.score=seen")
    assert [[cell is not None for cell in row] for row in done.accuracy] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    assert done.metrics["transfer"] is None
    assert done.metrics["overall_performance"] == metrics.overall_performance(done.accuracy)
    assert all(finding.ok for finding in verify(done.folder))


def test_a_task_that_changes_nothing_is_scored_once(answers_config, tmp_path, monkeypatch):
    from codyra.families.causal_lm import CausalLM

    scored = []
    real = CausalLM.score

    def score(self, tasks, *args, **options):
        scored.append([task.name for task in tasks])
        return real(self, tasks, *args, **options)

    monkeypatch.setattr(CausalLM, "score", score)
    overrides = ["method.name=zero_shot", "stream.score=seen"]
    done = learn(answers_config, tmp_path / "run", *overrides)
    assert done.accuracy[2] == done.zero_shot
    answered = (done.folder / "zero_shot_predictions.jsonl").read_bytes()
    assert (done.folder / "tasks/03-numbers/predictions.jsonl").read_bytes() == answered
    assert next(names for names in scored if len(names) == 3) == list(TASKS)


def test_parts_of_a_batch_are_the_batch(answers_config, tmp_path):
    """Accumulation and recomputed activations change nothing but rounding; dropout of the adapter is off here."""
    whole = learn(
        answers_config, tmp_path / "whole", "model.dtype=float64", "stream.only=[animals]", "train.steps=5"
    )
    parts = learn(
        answers_config,
        tmp_path / "parts",
        *("model.dtype=float64", "stream.only=[animals]", "train.steps=5"),
        *("train.micro_batch_size=4", "train.gradient_checkpointing=true"),
    )
    expected = dict(whole.model().named_parameters())
    for name, weight in parts.model().named_parameters():
        torch.testing.assert_close(weight, expected[name], atol=1e-9, rtol=1e-9)
    logs = [
        [json.loads(line)["loss"] for line in (done.folder / "tasks/01-animals/train.jsonl").open()]
        for done in (whole, parts)
    ]
    assert logs[0] == pytest.approx(logs[1], abs=1e-9)


def test_epochs_by_task_show_every_example_as_often(answers_config, tmp_path, monkeypatch):
    seen = {}
    real = trainer.batches

    def batches(num_examples, batch_size, rng, epochs=None):
        plan = list(real(num_examples, batch_size, rng, epochs))
        seen[len(seen)] = plan
        return iter(plan)

    monkeypatch.setattr(trainer, "batches", batches)
    answers_config["train"] = {"batch_size": 5, "epochs": {"animals": 2, "others": 1.5}, "lr": 1e-3}
    learn(answers_config, tmp_path / "run")
    assert [len(plan) for plan in seen.values()] == [5, 4, 4]
    counts = [sorted(position for batch in plan for position in batch) for plan in seen.values()]
    assert counts[0] == sorted([*range(TRAIN)] * 2)
    assert len(counts[1]) == 18


def test_killed_inside_a_task_and_continued_is_the_same_run(answers_config, tmp_path, monkeypatch):
    answers_config["train"] |= {"steps": 6, "checkpoint_steps": 2, "micro_batch_size": 4}
    answers_config["method"]["dropout"] = 0.2
    whole = learn(answers_config, tmp_path / "whole").folder
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        real, calls = trainer._backward, []

        def backward(*args):
            calls.append(None)
            if len(calls) == 11:  # in the fifth step of the second task
                raise Killed
            return real(*args)

        patch.setattr(trainer, "_backward", backward)
        with pytest.raises(Killed):
            learn(answers_config, out)
    assert (out / "tasks/02-colours/checkpoint/state.safetensors").is_file()
    learn(answers_config, out)
    assert contents(out) == contents(whole)


def test_append_scores_old_states_on_the_new_task_alone(
    answers_config, finished, place, tmp_path, monkeypatch
):
    from codyra.families.causal_lm import CausalLM

    out = tmp_path / "run"
    shutil.copytree(finished.folder, out)
    write_task(tmp_path / "letters", "letters", "B")
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump({"stream": {"tasks": [{"name": "letters", "data": "json:letters"}]}}))
    scored = []
    real = CausalLM.score

    def score(self, tasks, batch_size=64, ties="shared", progress=None, limit=None):
        if limit is None:
            scored.append([task.name for task in tasks])
        return real(self, tasks, batch_size, ties, progress, limit)

    monkeypatch.setattr(CausalLM, "score", score)
    grown = append(out, more, QUIET)
    assert scored == [["letters"]] * 4 + [[*TASKS, "letters"]]
    assert [row[:3] for row in grown.accuracy[:3]] == finished.accuracy
    assert grown.accuracy[3][3] == 100.0
    lines = (out / "tasks/01-animals/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["task"] for line in lines] == [
        name for name in (*TASKS, "letters") for _ in range(TEST)
    ]
    assert all(finding.ok for finding in verify(out))

    whole = json.loads(json.dumps(answers_config))
    whole["stream"]["tasks"].append({"name": "letters", "data": f"json:{tmp_path / 'letters'}"})
    at_once = learn(whole, tmp_path / "at-once")
    assert at_once.accuracy == grown.accuracy
    assert (at_once.folder / "metrics.json").read_bytes() == (out / "metrics.json").read_bytes()

    revert(out, 2)
    assert [task["name"] for task in json.loads((out / "answers.json").read_text())["tasks"]] == [
        "animals",
        "colours",
    ]
    assert all(finding.ok for finding in verify(out))


def test_answers_may_hold_any_character(tmp_path):
    folder = RunFolder(tmp_path)
    answers = tuple((f"one{character}two", 0.0) for character in "\n\r\x0b\x85\u2028\ud7ff")
    early, late = (AnswerScore(name, 6, "accuracy", 0.0, 0.0, 0, 0, answers) for name in ("early", "late"))
    folder.write_row(0, ["early"], [early])
    folder.write_row(0, ["early", "late"], [replace(early, answers=()), late])  # as after an append
    lines = (tmp_path / "zero_shot_predictions.jsonl").read_text("utf-8").split("\n")
    stored = [json.loads(line) for line in lines if line]
    assert [(line["task"], line["prediction"]) for line in stored] == [
        (name, answer) for name in ("early", "late") for answer, _ in answers
    ]


def test_a_checkout_answers_as_the_run_was_scored(finished, tmp_path):
    checkout(finished.folder, tmp_path / "model", after=1)
    prompts = [f"animals: which one, test {number}? Answer:" for number in range(TEST)]
    lines = (finished.folder / "tasks/01-animals/predictions.jsonl").read_text().splitlines()
    expected = [json.loads(line)["prediction"] for line in lines][:TEST]
    assert answer(tmp_path / "model", prompts) == expected

    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    for name, weight in finished.model(after=1).named_parameters():
        assert torch.equal(plain.get_parameter(name), weight)


def test_predict_from_the_command(command, finished, tmp_path):
    checkout(finished.folder, tmp_path / "model")
    code, out, _ = command("predict", tmp_path / "model", "numbers: which one, test 0? Answer:", "--json")
    assert code == 0
    assert json.loads(out) == [{"input": "numbers: which one, test 0? Answer:", "answer": "7"}]
    code, out, _ = command(
        "predict", tmp_path / "model", "numbers: which one, test 0? Answer:", "--max-new-tokens", "1"
    )
    assert code == 0


def test_predict_as_one_of_the_tasks(place, answers_config, tmp_path):
    answers_config["stream"]["tasks"] = [
        {"name": "colours", "data": f"json:{place / 'colours'}", "prompt": "{} =", "choices": ["blue", "red"]}
    ]
    answers_config["train"] |= {"epochs": {"colours": 2, "others": 1}, "steps": None}
    done = learn(answers_config, tmp_path / "run")
    checkout(done.folder, tmp_path / "model")
    lines = (done.folder / "tasks/01-colours/predictions.jsonl").read_text().splitlines()
    asked = [f"colours: which one, test {number}? Answer:" for number in range(TEST)]
    expected = [json.loads(line)["prediction"] for line in lines]
    assert answer(tmp_path / "model", asked, task="colours") == expected
    with pytest.raises(UserError, match=r"no such task, did you mean 'colours'"):
        answer(tmp_path / "model", asked, task="colour")

    more = tmp_path / "more.yaml"
    tasks = [{"name": "animals", "data": f"json:{place / 'animals'}"}]
    more.write_text(yaml.safe_dump({"stream": {"tasks": tasks}}))
    assert append(done.folder, more, QUIET).task_names == ["colours", "animals"]
    steps = (done.folder / "tasks/02-animals/train.jsonl").read_text().splitlines()
    assert len(steps) == 2, "one epoch of twelve, six at a time: what `others` says"


def test_a_held_out_set_of_answers_guards(answers_config, place, tmp_path):
    answers_config["guard"] = {"data": f"json:{place / 'animals'}", "tolerance": 10}
    answers_config["stream"]["only"] = ["animals", "colours"]
    answers_config["guard"]["against"] = "previous"
    with pytest.raises(GuardRefused, match=r"task 2 \(colours\): the held-out score fell 100.0 points"):
        learn(answers_config, tmp_path / "run")
    kept = learn(answers_config, tmp_path / "run", "guard.on_violation=shrink")
    verdict = read_run(kept.folder).tasks[1].guard
    assert verdict.accepted
    assert verdict.before - verdict.after <= 10


def test_a_dry_run_writes_nothing(answers_config, tmp_path):
    dry_run(load_config(answers_config), tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()
