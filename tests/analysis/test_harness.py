"""codyra eval: a run of a tiny Llama, scored on a task of lm-evaluation-harness that is defined here."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

import codyra
from codyra.analysis import harness
from codyra.analysis.harness import score_general_ability
from codyra.engine.folder_reader import read_run
from codyra.errors import UserError
from codyra.history.checkout import checkout
from codyra.history.revert import revert
from codyra.history.verify import verify
from families.tiny_lms import save_llama

COLOURS = [
    {"question": f"what colour is number {n}?", "choices": ["blue", "green", "a cat"], "answer": n % 3}
    for n in range(12)
]


def define(folder: Path, name: str, records: list[dict] = COLOURS, **definition) -> None:
    """A task of multiple choice, or of whatever kind `definition` says."""
    (folder / f"{name}.json").write_text(json.dumps(records))
    content = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.json")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}} Answer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content | definition))


@pytest.fixture(scope="module")
def definitions(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("definitions")
    define(folder, "colours")
    define(
        folder,
        "words",
        output_type="generate_until",
        doc_to_choice=None,
        doc_to_target="{{choices[answer]}}",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 3},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    define(folder, "code", unsafe_code=True)
    define(folder, "torn", output_type="generate_until")  # would answer in more tokens than fit
    define(folder, "hollow", doc_to_text="{{nothing}}")
    both = {"group": "both", "task": ["colours", "words"], "aggregate_metric_list": [{"metric": "acc"}]}
    (folder / "both.yaml").write_text(yaml.safe_dump(both))
    loose = {"group": "loose", "task": ["colours", "words"]}
    (folder / "loose.yaml").write_text(yaml.safe_dump(loose))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Two tasks learnt so eagerly that the answers change; not to be written into."""
    folder = tmp_path_factory.mktemp("harness")
    tasks = []
    for name, answer in (("sky", "blue"), ("grass", "green")):
        (folder / name).mkdir()
        lines = [json.dumps({"prompt": f"Question: {n}? Answer:", "answer": answer}) for n in range(16)]
        for part in ("train", "test"):
            (folder / name / f"{part}.jsonl").write_text("\n".join(lines[: 16 if part == "train" else 4]))
        tasks.append({"name": name, "data": f"json:{folder / name}"})
    config = {
        "model": {"name": str(save_llama(folder / "llama"))},
        "method": {"name": "codyra", "r": 4},
        "train": {"steps": 10, "batch_size": 8, "lr": 0.05},
        "stream": {"tasks": tasks, "max_prompt_tokens": 32, "max_answer_tokens": 4},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return codyra.run(folder / "config.yaml", out=folder / "run").folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(autouse=True)
def _own_tasks_only(monkeypatch):
    """The harness takes seconds to look through its thousands of definitions."""
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))


@torch.no_grad()
def likeliest(directory: Path) -> list[int]:
    """The choice with the largest sum of log-probabilities for every question, one forward pass each."""
    net, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    picks = []
    for record in COLOURS:
        prompt = tokenizer(f"Question: {record['question']} Answer:").input_ids
        sums = []
        for choice in record["choices"]:
            answer = tokenizer(f" {choice}", add_special_tokens=False).input_ids
            scores = net(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            sums.append(sum(scores[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer)))
        picks.append(sums.index(max(sums)))
    return picks


def scores(results, metric="acc") -> dict[int, float]:
    (result,) = results
    return {state.after: state.scores[metric].value for state in result.states}


def test_scores_are_those_of_the_checkouts(run, definitions, tmp_path):
    found = scores(score_general_ability(run, ["colours"], after=[2, 0, 1], include_path=definitions))
    assert list(found) == [0, 1, 2]
    for after, accuracy in found.items():
        checkout(run, tmp_path / str(after), after=after)
        picks = likeliest(tmp_path / str(after))
        right = sum(pick == record["answer"] for pick, record in zip(picks, COLOURS, strict=True))
        assert accuracy == right / len(COLOURS)
    assert all(finding.ok is not False for finding in verify(run))


def test_what_was_scored_is_not_scored_again(run, definitions, monkeypatch):
    first = score_general_ability(run, ["colours", "words"], include_path=definitions)
    before = (run / "harness.json").read_bytes()
    monkeypatch.setattr(harness, "load_base", None)
    assert score_general_ability(run, ["colours", "words"], include_path=definitions) == first
    assert (run / "harness.json").read_bytes() == before
    monkeypatch.undo()


def test_other_settings_and_changed_tasks_stand_beside(run, tmp_path):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    define(tasks, "colours")
    one_state = {"after": [2], "include_path": tasks}
    score_general_ability(run, ["colours"], **one_state)
    (limited,) = score_general_ability(run, ["colours"], limit=3, num_fewshot=1, **one_state)
    assert (limited.examples, limited.limit, limited.num_fewshot) == (3, 3, 1)
    define(tasks, "colours", COLOURS[:6])
    (changed,) = score_general_ability(run, ["colours"], **one_state)
    assert (changed.examples, changed.limit) == (6, None)
    assert [result.examples for result in read_run(run).harness] == [12, 3, 6]


def test_groups(run, definitions):
    (both,) = score_general_ability(run, ["both"], after=[0], include_path=definitions)
    assert (both.task, both.examples) == ("both", 24)
    loose = score_general_ability(run, ["loose"], after=[0], include_path=definitions)
    assert [result.task for result in loose] == ["colours", "words"]


def test_a_revert_takes_the_scores_of_later_models_along(run, definitions):
    score_general_ability(run, ["colours"], after=[0, 2], include_path=definitions)
    score_general_ability(run, ["words"], after=[2], include_path=definitions)
    archive = revert(run, to=1)
    (left,) = read_run(run).harness
    assert (left.task, [state.after for state in left.states]) == ("colours", [0])
    assert len(json.loads((archive / "harness.json").read_text())) == 2
    assert all(finding.ok is not False for finding in verify(run))


def test_command(run, definitions, command):
    options = ("--harness", "colours, words", "--include-path", definitions, "--limit", 6)
    code, out, err = command("eval", run, *options)
    assert (code, err) == (0, "")
    assert "base model: colours (" in out
    assert "after 2 (grass)" in out
    assert "acc ↑" in out
    assert "General ability" in (run / "report.html").read_text()
    code, out, _ = command("eval", run, *options)
    assert code == 0
    assert out.count("2 of 2 scored before") == 2


def test_interrupted(run, definitions, command, monkeypatch):
    evaluate, calls = harness._evaluate, []

    def interrupt(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(arguments)
        return evaluate(*arguments)

    monkeypatch.setattr(harness, "_evaluate", interrupt)
    options = ("--harness", "colours,words", "--include-path", definitions)
    code, _, err = command("eval", run, *options)
    assert code == 130
    assert f"scores are kept; continue with: codyra eval {run} --harness colours,words" in err
    (kept,) = read_run(run).harness
    assert (kept.task, [state.after for state in kept.states]) == ("colours", [0])
    assert all(finding.ok is not False for finding in verify(run))


class TestMistakes:
    @pytest.mark.parametrize(
        ("tasks", "words"),
        [
            ("colour", "has no task 'colour'; near: colours"),
            ("colours,,words", "give names of tasks with commas"),
            ("code", "executes code that the model writes"),
            (
                "torn",
                "'torn' of lm-evaluation-harness cannot be scored: Invalid configuration: requested max tokens",
            ),
            ("hollow", "'hollow' of lm-evaluation-harness cannot be loaded: 'nothing' is undefined"),
        ],
    )
    def test_tasks(self, finished, definitions, command, tasks, words):
        code, _, err = command("eval", finished, "--harness", tasks, "--include-path", definitions)
        assert (code, err.count("\n")) == (2, 1)
        assert words in err

    def test_a_state_that_is_not_there(self, finished, definitions):
        with pytest.raises(UserError, match="task 3 is not learnt"):
            score_general_ability(finished, ["colours"], after=[3], include_path=definitions)

    def test_no_folder_of_tasks(self, finished, tmp_path):
        with pytest.raises(UserError, match="is no folder"):
            score_general_ability(finished, ["colours"], include_path=tmp_path / "nowhere")

    def test_nothing_learnt(self, run):
        manifest = json.loads((run / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps(manifest | {"status": "unfinished"}))
        (run / "tasks/01-sky/ranks.json").unlink()
        with pytest.raises(UserError, match=r"no task is learnt yet.*--after 0"):
            score_general_ability(run, ["colours"])

    def test_the_extra_is_missing(self, finished, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UserError, match=r'pip install "codyra\[harness\]"'):
            score_general_ability(finished, ["colours"])

    def test_a_model_of_pictures(self, config, tmp_path):
        config["stream"]["tasks"] = config["stream"]["tasks"][:1]
        config["train"]["steps"] = 4
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        run = codyra.run(tmp_path / "config.yaml", out=tmp_path / "run").folder
        with pytest.raises(UserError, match=r"its model \(clip\) is no causal language model"):
            score_general_ability(run, ["colours"])

    def test_damaged(self, run, definitions):
        score_general_ability(run, ["colours"], after=[1], include_path=definitions)
        file = run / "harness.json"
        file.write_text(file.read_text().replace('"after": 1', '"after": 7'))
        with pytest.raises(UserError, match=r"harness.json.*a run of 2 tasks"):
            read_run(run)
