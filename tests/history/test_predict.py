"""Predictions with a checkout: those of the run's own scoring, and one line for whatever cannot be used."""

import json
import shutil

import pytest

from codyra.engine.config import load_config
from codyra.errors import UserError
from codyra.history.checkout import checkout
from codyra.history.predict import predict
from codyra.streams import build_stream


def tasks_of(run):
    config = load_config(run / "config.yaml")
    return build_stream(config.stream, seed=config.seed, default_prompt="{}")


def inputs_of(task):
    return [example if isinstance(example, str) else example.name for example in task.test.inputs]


def num_right(guesses, task):
    pairs = [(task.name, task.class_names[label]) for label in task.test.labels]
    return sum(pair in first.classes for (first, *_), pair in zip(guesses, pairs, strict=True))


@pytest.mark.parametrize("name", ["codyra", "cumulative", "bf16", "text"])
def test_all_test_examples_give_the_counts_of_the_run(runs, checkouts, name):
    tasks = tasks_of(runs[name])
    last = sorted((runs[name] / "tasks").glob("*/scores.json"))[-1]
    for task, score in zip(tasks, json.loads(last.read_text())["tasks"], strict=True):
        inputs = inputs_of(task)
        assert num_right(predict(checkouts[name], inputs, "all"), task) == score["correct"]
        assert num_right(predict(checkouts[name], inputs, task.name), task) == score["correct_task"]


def test_an_earlier_checkout_predicts_as_the_run_did_then(runs, tmp_path):
    run = runs["codyra"]
    checkout(run, tmp_path / "one", after=1)
    scores = json.loads((run / "tasks/01-warm/scores.json").read_text())["tasks"]
    for task, score in zip(tasks_of(run), scores, strict=True):
        assert num_right(predict(tmp_path / "one", inputs_of(task)), task) == score["correct"]


def test_scores_are_percent_of_the_label_space_best_first(checkouts, runs):
    (picture, *_) = inputs_of(tasks_of(runs["codyra"])[0])
    for space, count in (("all", 6), ("learnt", 6), ("warm", 2), (None, 6)):
        (guesses,) = predict(checkouts["codyra"], [picture], space)
        assert len(guesses) == count
        percents = [guess.percent for guess in guesses]
        assert sum(percents) == pytest.approx(100, abs=1e-3)
        assert percents == sorted(percents, reverse=True)
    (top,) = predict(checkouts["codyra"], [picture], top=2)
    assert top == predict(checkouts["codyra"], [picture])[0][:2]
    assert predict(checkouts["codyra"], []) == []


def test_what_was_learnt_is_a_label_space(runs, tmp_path):
    (picture, *_) = inputs_of(tasks_of(runs["codyra"])[0])
    checkout(runs["codyra"], tmp_path / "one", after=1)
    (guesses,) = predict(tmp_path / "one", [picture], "learnt")
    assert {name for guess in guesses for _, name in guess.classes} == {"red", "green"}
    checkout(runs["codyra"], tmp_path / "base", after=0)
    with pytest.raises(UserError, match="has learnt no task"):
        predict(tmp_path / "base", [picture], "learnt")


def test_a_run_scored_within_each_task_asks_for_one(checkouts):
    with pytest.raises(UserError, match=r"--label-space TASK \(pets, tones\)"):
        predict(checkouts["text"], ["a cat"])
    with pytest.raises(UserError, match="no such task; give all, learnt or one of pets, tones"):
        predict(checkouts["text"], ["a cat"], "plants")


def test_a_text_that_looks_like_a_file_is_a_text(checkouts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.txt").write_text("dog")
    assert len(predict(checkouts["text"], ["cat.txt", "", "-"], "pets")) == 3


def test_classes_of_one_prompt_make_one_guess(checkouts, tmp_path, runs):
    folder = shutil.copytree(checkouts["codyra"], tmp_path / "shared")
    about = json.loads((folder / "codyra.json").read_text())
    about["tasks"][1]["prompts"][0] = about["tasks"][0]["prompts"][0]
    (folder / "codyra.json").write_text(json.dumps(about))
    (picture, *_) = inputs_of(tasks_of(runs["codyra"])[0])
    (guesses,) = predict(folder, [picture])
    assert len(guesses) == 5
    assert (("warm", "green"), ("cool", "blue")) in [guess.classes for guess in guesses]


def test_pictures_that_cannot_be_read_are_named(checkouts, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.png: there is no such file"):
        predict(checkouts["codyra"], [str(tmp_path / "nowhere.png")])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"broken\.png"):
        predict(checkouts["codyra"], [str(tmp_path / "broken.png")])
    with pytest.raises(UserError, match="not UTF-8"):
        predict(checkouts["text"], ["caf\udce9"], "pets")


def change(**entries):
    return lambda about: about | entries


def with_prompt(prompt):
    def mutate(about):
        about["tasks"][0]["prompts"][0] = prompt
        return about

    return mutate


HOSTILE = {
    "no object": (lambda about: [], "top level"),
    "another format": (change(format=2), "checkout format 2"),
    "no format": (change(format=None), "checkout format None"),
    "a huge format": (change(format="9" * 5000), "checkout format"),
    "no tasks": (change(tasks=[]), "no tasks"),
    "tasks of another shape": (change(tasks=[{"name": 3}]), "tasks.0"),
    "no classes": (lambda about: change(tasks=[about["tasks"][0] | {"classes": []}])(about), "0 classes"),
    "a dtype that is none": (
        lambda about: change(base=about["base"] | {"dtype": "__import__"})(about),
        "base.dtype",
    ),
    "a prompt beyond the context": (with_prompt("word " * 500), "tokens but the model reads"),
    "a prompt that is no text": (with_prompt(["a"]), "prompts.0"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_codyra_json_is_one_line(checkouts, runs, tmp_path, case):
    mutate, words = HOSTILE[case]
    folder = shutil.copytree(checkouts["codyra"], tmp_path / "hostile")
    about = json.loads((folder / "codyra.json").read_text())
    (folder / "codyra.json").write_text(json.dumps(mutate(about)))
    (picture, *_) = inputs_of(tasks_of(runs["codyra"])[0])
    with pytest.raises(UserError) as caught:
        predict(folder, [picture])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 10**5, b"\xff\xfe", b'{"format": NaN}'])
def test_a_damaged_codyra_json_is_one_line(tmp_path, content):
    (tmp_path / "codyra.json").write_bytes(content)
    with pytest.raises(UserError, match=r"codyra\.json is damaged") as caught:
        predict(tmp_path, [])
    assert "\n" not in str(caught.value)


def test_what_is_no_checkout_is_refused(runs, tmp_path):
    for folder in (runs["codyra"], tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="is no checkout"):
            predict(folder, [])
