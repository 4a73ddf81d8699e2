"""Checkouts: opened without codyra they are base + adapters, bit for bit, and they say what they are."""

import json
import os
import shutil
import subprocess
import sys
from itertools import chain

import pytest
import torch
import yaml
from safetensors.torch import load_file

from codyra.engine.config import load_config, model_path
from codyra.engine.folder_reader import read_run
from codyra.engine.models import load_base
from codyra.errors import UserError
from codyra.families import load_family
from codyra.history.about import read_about
from codyra.history.checkout import checkout
from codyra.history.predict import predict
from codyra.update import TaskUpdate, compose

STRANGER = """
import contextlib, io, json, os, sys
sys.modules["codyra"] = None  # importing it fails
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor, CLIPModel
printed = {}
for name, folder in json.loads(sys.argv[1]).items():
    os.chdir(folder)
    if name == "text":
        net = AutoModel.from_pretrained(".")
    else:
        net = CLIPModel.from_pretrained(".")
        AutoProcessor.from_pretrained(".")
    save_file(dict(net.named_parameters()), f"{sys.argv[2]}/{name}.safetensors")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(open("README.md").read().split("```python\\n")[1].split("```")[0], {})
    printed[name] = said.getvalue().splitlines()
print(json.dumps(printed))
"""


@pytest.fixture(scope="module")
def stranger(checkouts, tmp_path_factory):
    """What a process without codyra sees of every checkout: its parameters, and what the card's code prints."""
    folder = tmp_path_factory.mktemp("stranger")
    folders = json.dumps({name: str(path) for name, path in checkouts.items()})
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, folders, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    return {name: (load_file(folder / f"{name}.safetensors"), printed[name]) for name in checkouts}


def base_plus(run, numbers):
    """What the weights must be, from the files of the run alone."""
    family = load_family(model_path(load_config(run / "config.yaml")))
    base = {name: weight.detach().clone() for name, weight in family.net.named_parameters()}
    folders = [next((run / "tasks").glob(f"{number:02d}-*")) for number in numbers]
    return compose(family.net, base, [TaskUpdate.load(folder) for folder in folders])


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(found, expected):
    return all(torch.equal(found[name], weight) for name, weight in expected.items())


def different(found, expected):
    return not same(found, expected)


@pytest.mark.parametrize("method", ["codyra", "cumulative", "full", "bf16", "zero_shot", "text"])
def test_plain_transformers_opens_base_plus_adapters(runs, stranger, method):
    seen, _ = stranger[method]
    expected = base_plus(runs[method], [1, 2] if method == "text" else [1, 2, 3])
    assert seen.keys() == expected.keys()
    assert same(seen, expected)
    assert same(seen, base_plus(runs[method], [])) == (method == "zero_shot")


def test_a_sentence_encoder_keeps_its_sentence_transformers_files(runs, checkouts):
    folder = checkouts["text"]
    expected = base_plus(runs["text"], [1, 2])
    assert same(weights(folder), expected)
    assert json.loads((folder / "modules.json").read_text())
    assert (folder / "1_Pooling/config.json").is_file()


@pytest.mark.parametrize("method", ["codyra", "cumulative", "full", "zero_shot", "text"])
def test_after_0_is_the_base_model(runs, tmp_path, method):
    selection = checkout(runs[method], tmp_path / "base", after=0)
    assert selection.merged == ()
    assert same(weights(tmp_path / "base"), base_plus(runs[method], []))
    assert not any(task.learnt for task in read_about(tmp_path / "base").tasks)


def test_earlier_states_and_sums_of_some_tasks(runs, tmp_path):
    run = runs["codyra"]
    checkout(run, tmp_path / "two", after=2)
    assert same(weights(tmp_path / "two"), base_plus(run, [1, 2]))
    assert [task.learnt for task in read_about(tmp_path / "two").tasks] == [True, True, False]
    selection = checkout(run, tmp_path / "some", tasks=[1, 3])
    assert same(weights(tmp_path / "some"), base_plus(run, [1, 3]))
    assert different(weights(tmp_path / "some"), base_plus(run, [1, 2, 3]))
    assert [task.learnt for task in read_about(tmp_path / "some").tasks] == [True, False, True]
    (note,) = selection.notes()
    assert "never scored" in note
    card = (tmp_path / "some/README.md").read_text()
    assert "This state has no scores." in card
    assert note in card


def test_a_cumulative_adapter_holds_the_tasks_before_it(runs, tmp_path):
    selection = checkout(runs["cumulative"], tmp_path / "some", tasks=[1, 3])
    assert same(weights(tmp_path / "some"), base_plus(runs["cumulative"], [3]))
    about = read_about(tmp_path / "some")
    assert about.merged == (3,)
    assert all(task.learnt for task in about.tasks)
    (note,) = selection.notes()
    assert "holds tasks 1 to 3" in note
    assert note in (tmp_path / "some/README.md").read_text()


def test_what_codyra_json_says(runs, checkouts):
    about, labels = read_about(checkouts["codyra"]), json.loads((runs["codyra"] / "labels.json").read_text())
    assert about.scored_in == labels["scored_in"] == "all"
    assert [(task.name, task.prompt, list(task.classes), list(task.prompts)) for task in about.tasks] == [
        (task["name"], task["prompt"], task["classes"], task["prompts"]) for task in labels["tasks"]
    ]
    assert about.base.sha256 == read_run(runs["codyra"]).manifest.base.sha256
    assert read_about(checkouts["text"]).scored_in == "task"


def test_no_path_and_no_example_is_disclosed(runs, checkouts):
    for name, folder in checkouts.items():
        for file in chain(folder.rglob("*.json"), folder.rglob("*.md")):
            assert str(runs[name].parent.parent) not in file.read_text(), file
            assert not {"samples.json", "samples"} & {path.name for path in folder.iterdir()}


def test_another_base_model_is_refused(runs, tmp_path):
    run = shutil.copytree(runs["codyra"], tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["base"]["sha256"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        UserError, match=r"model 'builtin:tiny-clip' has other weights than when run run began"
    ):
        load_base(read_run(run))
    with pytest.raises(UserError, match="other weights"):
        checkout(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ({"after": 4}, "task 4 is not learnt; learnt so far: 1 .warm., 2 .cool., 3 .plain."),
        ({"after": -1}, "-1 is no number of tasks"),
        ({"tasks": [2, 4]}, "task 4 is not learnt"),
        ({"tasks": [0]}, "task 0 is not learnt"),
        ({"tasks": [3, 1]}, "in the order of the stream"),
        ({"tasks": [1, 1]}, "each task once"),
        ({"after": 1, "tasks": [1]}, "not both"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(runs, tmp_path, which, words):
    with pytest.raises(UserError, match=words) as caught:
        checkout(runs["codyra"], tmp_path / "out", **which)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_unfinished_run_gives_the_model_learnt_so_far(runs, tmp_path):
    run = shutil.copytree(runs["codyra"], tmp_path / "run")
    shutil.rmtree(run / "tasks/03-plain")
    for file in ("metrics.json", "report.html"):
        (run / file).unlink()
    manifest = json.loads((run / "manifest.json").read_text()) | {"status": "unfinished"}
    (run / "manifest.json").write_text(json.dumps(manifest))
    for file in ("accuracy.csv", "accuracy_task.csv"):
        # Killed after the scores of task 2 and before the tables: a row less than tasks learnt.
        (run / file).write_text("\n".join((run / file).read_text().splitlines()[:3]) + "\n")
    assert checkout(run, tmp_path / "out").merged == (1, 2)
    assert same(weights(tmp_path / "out"), base_plus(run, [1, 2]))
    assert "This state has no scores." in (tmp_path / "out/README.md").read_text()


def test_missing_labels_and_damaged_updates_are_one_line(runs, tmp_path):
    run = shutil.copytree(runs["codyra"], tmp_path / "run")
    (run / "labels.json").rename(run / "labels.away")
    with pytest.raises(UserError, match=r"labels\.json is missing"):
        checkout(run, tmp_path / "out")
    (run / "labels.away").rename(run / "labels.json")
    ranks = run / "tasks/02-cool/ranks.json"
    ranks.write_text(ranks.read_text().replace("vision_model", "wishing_model"))
    adapter = run / "tasks/02-cool/adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes().replace(b"vision_model", b"wishing_mode"))
    with pytest.raises(UserError):
        checkout(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_code_of_the_card_runs_as_printed_and_agrees_with_codyra(checkouts, stranger):
    for _, lines in stranger.values():
        assert len(lines) == 4
        assert sum(float(line.split(" %")[0]) for line in lines) == pytest.approx(100, abs=1)  # bfloat16
    (guesses,) = predict(checkouts["text"], ["a text of yours"], "all")
    percent = {guess.prompt: guess.percent for guess in guesses}
    _, lines = stranger["text"]
    total = sum(percent[line.split(" %  ")[1]] for line in lines)
    for line in lines:
        share, prompt = line.split(" %  ")
        assert float(share) == pytest.approx(100 * percent[prompt] / total, abs=0.06)


def test_the_card_tells_provenance_and_scores(runs, checkouts):
    card = (checkouts["codyra"] / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "zero-shot-image-classification"
    assert "base_model" not in metadata  # built in, hence not on the hub
    view = read_run(runs["codyra"])
    for entry in view.manifest.data:
        assert entry.fingerprint in card
        assert f"imagefolder:{entry.task}" in card
    assert f"{view.accuracy.rows[-1][0]:.2f}" in card
    assert view.manifest.base.sha256 in card
    assert "presupposes" in card
    for word in ("samples.json", "6 test pictures", "shots.json", "config.yaml"):
        assert word in card
    text_card = (checkouts["text"] / "README.md").read_text()
    assert yaml.safe_load(text_card.split("---\n")[1])["library_name"] == "sentence-transformers"
    assert "test examples as text" in text_card
    assert "where the base model lay" in text_card


def test_the_card_tells_the_factor_of_a_guard(runs, tmp_path):
    run = shutil.copytree(runs["codyra"], tmp_path / "run")
    verdict = {"before": 50, "candidate": 40, "after": 49, "tolerance": 1, "factor": 0.8125, "accepted": True}
    (run / "tasks/02-cool/guard.json").write_text(json.dumps(verdict))
    checkout(run, tmp_path / "out")
    assert "| 0.8125 |" in (tmp_path / "out/README.md").read_text()
