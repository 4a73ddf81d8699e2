"""The card of a model that answers prompts: its metrics and its prompts, nothing about classes."""

from types import SimpleNamespace

import pytest

from codyra.engine.folder_reader import AnswerRules, AnswerSpace, TaskAnswers, read_run
from codyra.history.about import FORMAT, About, Base, CheckoutTask
from codyra.history.card import model_card
from codyra.history.selection import Selection
from report.answer_runs import make_answers
from report.conftest import write_run

TASKS = {"stance": "accuracy", "meetings": "rouge_l", "sums": "accuracy"}


@pytest.fixture
def run(tmp_path):
    config = {
        "model": {"name": "org/llama"},
        "method": {"name": "codyra"},
        "stream": {"tasks": [{"name": name, "data": f"json:data/{name}"} for name in TASKS]},
    }
    folder = write_run(
        tmp_path / "run", tasks=tuple(TASKS), config=config, steps=2, images_per_task=0, num_layers=1
    )
    (folder / "zero_shot_predictions.jsonl").write_text("")
    return make_answers(folder, list(TASKS.values()), seen=True)


def test_card(run):
    view = read_run(run)
    templates = {"stance": "{}", "meetings": "Summarise: {}", "sums": "{}"}
    rules = AnswerRules(1024, 512, "keep_instruction", "greedy", False)
    tasks = [TaskAnswers(name, templates[name], metric, (), 64, ("", "")) for name, metric in TASKS.items()]
    about = About(
        format=FORMAT,
        codyra="0.1",
        run="run",
        method="codyra",
        base=Base("org/llama", None, "0" * 64, "float32"),
        merged=(1, 2, 3),
        scored_in="task",
        tasks=tuple(CheckoutTask(name, prompt, (), (), True) for name, prompt in templates.items()),
        answers=AnswerSpace(rules, tuple(tasks)),
    )
    family = SimpleNamespace(
        modality="answers",
        model_type="llama",
        library_name="transformers",
        pipeline_tag="text-generation",
        usage=lambda prompts: f"answer({prompts})",
    )
    card = model_card(run, view, family, Selection.of(view, [1, 2, 3]), about)
    assert "pipeline_tag: text-generation" in card
    assert "answer(['...', 'Summarise: ...'])" in card
    assert 'codyra predict . "a prompt"' in card
    assert "each task by its own metric" in card
    assert "| ROUGE-L (unique words) |" in card
    assert "backward transfer (TreeLoRA)" in card
    assert "zero_shot_predictions.jsonl" in card
    assert "with their answers" in card
    assert "class" not in card
