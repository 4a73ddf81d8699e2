"""What bad records, models and settings of a language model get, through the real command: one clear line each."""

import json
import sys

import pytest
import yaml

from families.tiny_lms import save_llama

GOOD = [{"prompt": f"Question: which colour, {number}? Answer:", "answer": " green"} for number in range(8)]


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A tiny Llama with a window of 256 tokens and no chat template; not to be written into."""
    return save_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def desk(llama, tmp_path):
    """(config, its folder): one task of eight records."""
    for split in ("train", "test"):
        write(tmp_path / f"{split}.jsonl", GOOD)
    settings = {"max_prompt_tokens": 64, "max_answer_tokens": 4}
    config = {
        "model": {"name": str(llama)},
        "method": {"name": "codyra", "r": 4},
        "train": {"steps": 4, "batch_size": 4, "lr": 1e-3},
        "stream": {**settings, "tasks": [{"name": "desk", "data": f"json:{tmp_path}"}]},
    }
    return config, tmp_path


def write(file, records):
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def start(command, config, folder, *arguments):
    (folder / "stream.yaml").write_text(yaml.safe_dump(config))
    return command("run", folder / "stream.yaml", "--out", folder / "run", *arguments)


def refused(result, *words):
    code, out, err = result
    assert code == 2, (code, out, err)
    assert "Traceback" not in err + out
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    for word in words:
        assert word in lines[0], (word, lines[0])


def record(**fields):
    """A mutation that gives the fourth training record these fields; None takes one away."""

    def mutate(config, folder):
        changed = {key: value for key, value in {**GOOD[3], **fields}.items() if value is not None}
        write(folder / "train.jsonl", [*GOOD[:3], changed, *GOOD[4:]])

    return mutate


def lines(text):
    def mutate(config, folder):
        (folder / "train.jsonl").write_bytes(text)

    return mutate


def setting(section, key, value):
    def mutate(config, folder):
        config[section][key] = value

    return mutate


def of_task(**keys):
    def mutate(config, folder):
        config["stream"]["tasks"][0] |= keys

    return mutate


def same_ids(config, folder):
    write(folder / "test.jsonl", [{**one, "id": f"ticket-{number % 5}"} for number, one in enumerate(GOOD)])


def chats(config, folder):
    turns = [{"role": "user", "content": "Which colour?"}, {"role": "assistant", "content": "green"}]
    for split in ("train", "test"):
        write(folder / f"{split}.jsonl", [{"messages": turns}])


def chat_without_answer(config, folder):
    write(folder / "train.jsonl", [{"messages": [{"role": "user", "content": "Which colour?"}]}])


def no_end(config, folder):
    config["model"]["name"] = str(save_llama(folder / "endless", eos=None, pad=None))


def larger_than_the_window(config, folder):
    config["stream"]["max_prompt_tokens"] = 1024
    write(folder / "test.jsonl", [*GOOD, {"prompt": "a colour and " * 300, "answer": "green"}])


def classes(config, folder):
    for split in ("train", "test"):
        write(folder / f"{split}.jsonl", [{"text": "green grass", "label": "plant"}])


BAD = {
    "empty answer": (record(answer=""), ["train.jsonl, record 4", "the answer is empty"]),
    "answer of spaces": (record(answer="  "), ["train.jsonl, record 4", "the answer is empty"]),
    "answer of another type": (record(answer=["green"]), ["train.jsonl, record 4", "of type list"]),
    "no answer": (record(answer=None), ["train.jsonl, record 4", "no field 'answer'"]),
    "no prompt": (record(prompt=None), ["train.jsonl, record 4", "no field 'prompt'"]),
    "two records with one id": (same_ids, ["test.jsonl, record 6", "record 1 has the id 'ticket-0' too"]),
    "not UTF-8": (lines(b'{"prompt": "caf\xe9", "answer": "a"}\n'), ["train.jsonl", "not UTF-8", "byte 15"]),
    "not JSON": (lines(b'{"prompt": "a", "answer": "b"}\n{"prompt":\n'), ["train.jsonl, line 2"]),
    "empty file": (lines(b""), ["train.jsonl"]),
    "records of classes": (classes, ["train.jsonl", "no field 'prompt'", "columns:"]),
    "chats without a template": (chats, ["task 'desk'", "no chat template"]),
    "a chat without an answer": (chat_without_answer, ["train.jsonl, record 1", "end with the assistant"]),
    "chat_template without a template": (setting("stream", "chat_template", True), ["no chat template"]),
    "nothing ends an answer": (no_end, ["endless", "end-of-sequence"]),
    "longer than the window": (
        larger_than_the_window,
        ["'desk': a test prompt", "1028 tokens", "reads 256", "max_prompt_tokens"],
    ),
    "no such target": (setting("method", "targets", ["q_prj"]), ["q_prj", "q_proj"]),
    "no such part": (
        setting("method", "targets", "vision"),
        ["no vision tower", "all, all-linear, attention, mlp"],
    ),
    "unknown metric": (of_task(metric="rouge"), ["stream.tasks.0.metric", "did you mean 'rouge_l'?"]),
    "fp16 on a CPU": (setting("train", "precision", "fp16"), ["train.precision", "fp16 needs a GPU"]),
    "classes of an answer": (of_task(classes=["a", "b"]), ["classes"]),
    "one choice": (of_task(choices=["green"]), ["choices"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(command, desk, case):
    mutate, words = BAD[case]
    config, folder = desk
    mutate(config, folder)
    refused(start(command, config, folder), *words)
    assert not (folder / "run").exists()


@pytest.mark.parametrize(("metric", "package"), [("sari", "sacrebleu"), ("rouge_l_standard", "rouge_score")])
def test_a_metric_without_its_package(command, desk, monkeypatch, metric, package):
    config, folder = desk
    config["stream"]["tasks"][0]["metric"] = metric
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    refused(start(command, config, folder), package, 'pip install "codyra[llm]"')


def test_general_ability_without_the_harness(command, desk, monkeypatch):
    config, folder = desk
    assert start(command, config, folder, "--set", "method.name=zero_shot")[0] == 0
    monkeypatch.setattr("codyra.analysis.harness.importlib.util.find_spec", lambda name: None)
    refused(
        command("eval", folder / "run", "--harness", "arc_easy"),
        "lm-evaluation-harness is not installed",
        'pip install "codyra[harness]"',
    )


def test_what_is_cut_and_what_never_ends_is_counted_and_told(command, desk):
    config, folder = desk
    write(folder / "test.jsonl", [*GOOD, {"prompt": "a colour and " * 60, "answer": "green"}])
    untrained = save_llama(folder / "untrained", pad=None, seed=3)  # no pad token is no fault
    config |= {"model": {"name": str(untrained)}, "method": {"name": "zero_shot"}}
    code, out, err = start(command, config, folder)
    assert (code, err) == (0, "")
    assert "task 'desk': 1 of 9 test prompts are longer than allowed and were cut" in out
    assert "desk: 8 of 9 test prompts are also in train" in out
    code, out, err = command("history", folder / "run")
    assert "prompts that were cut: desk 1 of 9" in out
    assert "answers at the end that reached their longest length: desk 9 of 9" in out


def test_answers_that_are_no_choice_are_told(command, desk):
    config, folder = desk
    config["stream"]["tasks"][0]["choices"] = ["red", "blue"]
    code, out, err = start(command, config, folder, "--dry-run")
    assert (code, err) == (0, "")
    assert "desk: 8 of 8 test answers begin with none of the choices" in out
