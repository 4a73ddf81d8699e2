"""Runs whose tasks leave a head behind, through the command: nothing that is done with such a run loses the head."""

import json
import re
import shutil
from functools import partial

import pytest
import torch
import yaml

import codyra
from codyra import files
from codyra.engine.folder_reader import read_run
from codyra.engine.progress import Narrator
from codyra.errors import UserError
from codyra.history.about import read_about
from codyra.history.append import append
from codyra.history.predict import predict
from codyra.history.revert import revert
from codyra.history.verify import verify
from conftest import colour_tasks
from engine.faults import FaultyFiles, Killed, contents
from families.tiny_encoders import save_bert, save_clip
from families.tiny_lms import save_llama
from history.conftest import write_table
from history.test_predict import inputs_of, num_right, tasks_of

QUIET = Narrator(quiet=True)
RUNS = {("rail_primal", "image"), ("rail_dual", "image"), ("rail_primal", "text"), ("rail_dual", "text")}
HIDDEN = 64


def figures(folder):
    return {name: content for name, content in contents(folder).items() if not name.startswith("archive/")}


@pytest.fixture(scope="module")
def place(tmp_path_factory, pictures):
    """Config files of three tasks, of the first two, and of the third alone, for pictures and for texts."""
    folder = tmp_path_factory.mktemp("heads")
    words = {"pets": ["cat", "dog", "bird"], "tones": ["red", "blue"], "shapes": ["square", "circle", "red"]}
    tasks = {
        "image": colour_tasks(pictures),
        "text": [
            {"name": name, "data": f"csv:{write_table(folder / name, classes, seed)}"}
            for seed, (name, classes) in enumerate(words.items())
        ],
    }
    models = {"image": save_clip(folder / "clip"), "text": save_bert(folder / "bert")}
    for kind, listed in tasks.items():
        shared = {"name": kind, "model": {"name": str(models[kind])}, "train": {"batch_size": 5}}
        for part, chosen in (("whole", listed), ("first", listed[:2])):
            config = shared | {"method": {"name": "zero_shot"}, "stream": {"tasks": chosen}}
            (folder / f"{kind}-{part}.yaml").write_text(yaml.safe_dump(config))
        (folder / f"{kind}-more.yaml").write_text(yaml.safe_dump({"stream": {"tasks": listed[2:]}}))
    return folder


def options(method):
    return [f"method.name={method}", *([f"method.hidden={HIDDEN}"] if method == "rail_primal" else [])]


def learn(place, out, method, kind, part="whole"):
    config = place / f"{kind}-{part}.yaml"
    return codyra.run(config, out, overrides=options(method), narrator=QUIET).folder


@pytest.fixture(scope="module")
def runs(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("head-runs")
    return {pair: learn(place, folder / "-".join(pair), *pair) for pair in sorted(RUNS)}


@pytest.fixture(params=sorted(RUNS), ids="-".join)
def done(request, runs):
    return (*request.param, runs[request.param])


def test_the_command_learns_and_says_what_it_cost(place, tmp_path, command, runs):
    sets = [part for option in options("rail_primal") for part in ("--set", option)]
    code, out, _ = command("run", place / "text-whole.yaml", "--out", tmp_path / "run", *sets)
    assert code == 0
    assert "3 tasks x 0 steps" in out
    assert contents(tmp_path / "run") == contents(runs["rail_primal", "text"])
    assert f"{8 * HIDDEN**2 * 3 / 1e6 + 2:.1f} MB of disk" in out


def test_figures_of_a_run(done):
    method, _, folder = done
    run, view = codyra.run(folder / "config.yaml", folder, narrator=QUIET), read_run(folder)
    found = run.metrics
    assert [update.kind for update in run.updates] == ["head"] * 3
    assert found["trainable_parameters"] == 0
    assert found["drift"] == found["update_norm"] == [0.0] * 3
    known = [sum(entry.classes for entry in view.manifest.data[: n + 1]) for n in range(3)]
    seen = [sum(entry.train for entry in view.manifest.data[: n + 1]) for n in range(3)]
    features = run.head().num_features
    if method == "rail_primal":
        assert found["memory_bytes"] == [8 * HIDDEN**2] * 3
        assert found["extra_parameters"] == [features * HIDDEN + HIDDEN * count for count in known]
    else:
        assert found["memory_bytes"] == [rows * (4 * features + 8) for rows in seen]
        assert found["extra_parameters"] == [
            rows * (features + count) for rows, count in zip(seen, known, strict=True)
        ]
    # The file holds the bytes that are reported, behind a header of names and shapes.
    for task, size in zip(sorted((folder / "tasks").iterdir()), found["memory_bytes"], strict=True):
        content = (task / "memory.safetensors").read_bytes()
        assert len(content) - 8 - int.from_bytes(content[:8], "little") == size
    assert [task.ranks.head.classes for task in view.tasks] == known
    assert run.head(after=0) is None
    assert run.head(after=1).num_classes == known[0]
    assert view.manifest.method.extra_inference is True


def test_learning_helps_and_unseen_tasks_keep_their_winner_rule(runs):
    run = codyra.run(runs["rail_dual", "image"] / "config.yaml", runs["rail_dual", "image"], narrator=QUIET)
    assert run.metrics["own_label_space"]["last"] > sum(run.zero_shot) / 3


def test_killed_between_two_writes_and_continued_is_the_same_run(place, runs, tmp_path, monkeypatch):
    expected = contents(runs["rail_primal", "text"])
    counting = FaultyFiles(-1, "")
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", counting)
        learn(place, tmp_path / "count", "rail_primal", "text")
    for at, file in enumerate(counting.written):
        if file.parent.name.startswith("02-") and file.suffix in (".safetensors", ".json"):
            with monkeypatch.context() as patch:
                patch.setattr(files, "write_atomic", FaultyFiles(at, "killed after"))
                with pytest.raises(Killed):
                    learn(place, tmp_path / str(at), "rail_primal", "text")
            assert contents(learn(place, tmp_path / str(at), "rail_primal", "text")) == expected


def test_appended_and_reverted_is_the_same_as_planned(place, done, tmp_path):
    method, kind, whole = done
    folder = learn(place, tmp_path / "run", method, kind, "first")
    append(folder, place / f"{kind}-more.yaml", QUIET)
    assert figures(folder) == contents(whole)
    copy = shutil.copytree(whole, tmp_path / "copy")
    revert(copy, 1)
    assert all(finding.ok is not False for finding in verify(copy))
    more = yaml.safe_load((place / f"{kind}-whole.yaml").read_text())["stream"]["tasks"][1:]
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"stream": {"tasks": more}}))
    append(copy, tmp_path / "more.yaml", QUIET)
    assert figures(copy) == contents(whole)


@pytest.fixture(scope="module")
def checkouts(runs, tmp_path_factory):
    from codyra.history.checkout import checkout

    folder = tmp_path_factory.mktemp("head-checkouts")
    for pair, run in runs.items():
        checkout(run, folder / "-".join(pair))
        checkout(run, folder / "-".join([*pair, "2"]), after=2)
    return folder


@pytest.mark.parametrize("after", [2, 3])
def test_a_checkout_predicts_as_the_run_was_scored(done, checkouts, after):
    method, kind, folder = done
    model = checkouts / "-".join([method, kind, *(["2"] if after == 2 else [])])
    row = json.loads(sorted((folder / "tasks").glob("*/scores.json"))[after - 1].read_text())["tasks"]
    for task, score in zip(tasks_of(folder), row, strict=True):
        inputs = inputs_of(task)
        assert num_right(predict(model, inputs, "all"), task) == score["correct"]
        assert num_right(predict(model, inputs, task.name), task) == score["correct_task"]


def test_guesses_are_the_candidates_alone(runs, checkouts):
    model = checkouts / "rail_primal-image-2"
    inputs = [name for task in tasks_of(runs["rail_primal", "image"]) for name in inputs_of(task)]
    counts = set()
    for guesses in predict(model, inputs, "all"):
        tasks = {task for guess in guesses for task, _ in guess.classes}
        counts.add(len(guesses))
        assert tasks == {"warm", "cool"} if len(guesses) == 4 else {"warm", "cool", "plain"}
        percents = [guess.percent for guess in guesses]
        assert percents == sorted(percents, reverse=True)
    assert counts <= {4, 6}


def test_the_card_shows_how_to_use_the_head(done, checkouts, monkeypatch):
    method, kind, folder = done
    model = checkouts / f"{method}-{kind}"
    card = (model / "README.md").read_text()
    assert "unchanged, and beside it in `head.safetensors` a head that learnt" in card
    assert ("the features of all" in card) == (method == "rail_dual")
    assert "`tasks/*/memory.safetensors`: what the method keeps of the data" in card
    monkeypatch.chdir(model)
    shown: dict = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL)), shown)
    head = codyra.run(folder / "config.yaml", folder, narrator=QUIET).head()
    torch.testing.assert_close(head.scores(shown["features"]), shown["scores"], rtol=1e-4, atol=1e-4)


def test_verify_history_report_and_table(done, command):
    method, _, folder = done
    code, out, _ = command("verify", folder)
    assert code == 0
    assert "heads: 3, each with a column for every class learnt so far" in out
    assert "merge: 3 states merged anew, bit-identical" in out
    code, out, _ = command("history", folder)
    assert f"{codyra.run(folder / 'config.yaml', folder, narrator=QUIET).head().num_parameters:,}" in out
    page = (folder / "report.html").read_text()
    assert "it scores with a head beside the network" in page
    code, out, _ = command("table", folder)
    assert f"{method}: no gradient steps." in out


def test_a_changed_head_is_not_what_was_scored(runs, tmp_path):
    from codyra.update import TaskUpdate

    folder = shutil.copytree(runs["rail_primal", "text"], tmp_path / "run")
    task = folder / "tasks/03-shapes"
    tensors = TaskUpdate.load(task).tensors
    TaskUpdate("head", tensors=tensors | {"W": tensors["W"] + 1}).save(task)
    faults = [finding.text for finding in verify(folder) if finding.ok is False]
    assert any("are not the weights that were scored" in fault for fault in faults)


def test_what_a_head_cannot(done, command, tmp_path):
    *_, folder = done
    for args, message in (
        (
            ("export", folder, "--task", 2, "--out", tmp_path / "e"),
            "task 2 left a head behind, which no adapter holds",
        ),
        (("ablate", folder, "--out", tmp_path / "a"), "changed nothing in the network"),
        (("analyse", folder, "--out", tmp_path / "s"), "its tasks left heads behind"),
    ):
        code, _, err = command(*args)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
    code, out, _ = command("checkout", folder, "--tasks", "1,3", "--out", tmp_path / "c")
    assert code == 0
    assert "The head of task 3 knows the classes of tasks 1 to 3 and cannot be split" in re.sub(
        r"\s+", " ", out
    )
    assert read_about(tmp_path / "c").head
    command("checkout", folder, "--after", 0, "--out", tmp_path / "base")
    assert not read_about(tmp_path / "base").head
    assert not (tmp_path / "base/head.safetensors").exists()


def test_a_head_that_is_gone_or_strange_is_named(checkouts, tmp_path):
    other = checkouts / "rail_primal-image"
    model = shutil.copytree(checkouts / "rail_primal-text", tmp_path / "model")
    refused = partial(pytest.raises, UserError)
    (model / "head.safetensors").unlink()
    with refused(match=r"head\.safetensors"):
        predict(model, ["a cat"], "pets")
    shutil.copy(checkouts / "rail_primal-text-2/head.safetensors", model)
    with refused(match="scores 5 classes, the tasks that are learnt have 8"):
        predict(model, ["a cat"], "pets")
    shutil.copy(other / "model.safetensors", model / "head.safetensors")
    with refused(match="are no head"):
        predict(model, ["a cat"], "pets")


def test_a_run_from_a_checkout_says_that_the_head_stays_behind(place, checkouts, tmp_path, command):
    model = checkouts / "rail_dual-text"
    args = ["--set", f"model.name={model}", "--set", "method.name=zero_shot", "--dry-run"]
    code, out, _ = command("run", place / "text-whole.yaml", "--out", tmp_path / "run", *args)
    assert code == 0
    assert "a run starts from its network alone" in re.sub(r"\s+", " ", out)


@pytest.mark.parametrize("method", ["rail_primal", "rail_dual"])
def test_refused_where_there_are_no_features_or_a_guard(place, tmp_path, pictures, method):
    (tmp_path / "t").mkdir()
    for split in ("train", "test"):
        (tmp_path / f"t/{split}.jsonl").write_text('{"prompt": "a", "answer": "b"}\n' * 3)
    answers = {
        "model": {"name": str(save_llama(tmp_path / "llama"))},
        "method": {"name": method},
        "stream": {"tasks": [{"name": "one", "data": f"json:{tmp_path / 't'}"}]},
    }
    with pytest.raises(
        UserError, match=rf"{method} is for models of images or texts; a llama model reads prompts"
    ):
        codyra.run(answers, tmp_path / "lm", narrator=QUIET)
    guarded = yaml.safe_load((place / "image-whole.yaml").read_text())
    guarded["guard"] = {"data": f"imagefolder:{pictures / 'warm'}", "tolerance": 1}
    with pytest.raises(UserError, match="of an update that the guard may refuse"):
        codyra.run(guarded, tmp_path / "guarded", overrides=[f"method.name={method}"], narrator=QUIET)
