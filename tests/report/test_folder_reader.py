"""What is there comes back, what is missing is None, what is damaged is named in one line."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from codyra.engine.folder_reader import RunView, read_run
from codyra.errors import UserError
from codyra.report import render

NewRun = Callable[..., Path]


def test_a_finished_run_comes_back_whole(two_runs: Sequence[RunView]) -> None:
    run = two_runs[0]
    assert run.finished
    assert run.name == "codyra"
    assert run.accuracy.tasks == ("circles", "squares", "digits", "fruit", "road signs")
    assert len(run.accuracy.rows) == 5
    assert run.accuracy_task is not None
    assert [task.number for task in run.tasks] == [1, 2, 3, 4, 5]
    ranks = run.tasks[1].ranks
    assert ranks is not None
    assert len(ranks.modules) == 24
    assert ranks.modules["text_model.encoder.layers.1.mlp.fc2"].r == 16
    assert [step.step for step in run.tasks[0].steps] == list(range(60))
    assert [run.tasks[0].steps[index].kept is None for index in (8, 9)] == [True, False]
    image = run.samples[0].examples[0].image
    assert image is not None
    assert image.startswith(b"\x89PNG")
    assert run.metrics is not None
    last = run.metrics.per_task["fruit"].last
    assert last is not None
    assert last.score == run.accuracy.rows[-1][3]
    assert run.config["train"]["steps"] == 60


def test_an_unfinished_run_has_fewer_rows_and_no_metrics(new_run: NewRun) -> None:
    run = read_run(new_run("half", learned=2))
    assert not run.finished
    assert run.metrics is None
    assert len(run.accuracy.rows) == 2
    assert run.tasks[2].ranks is None
    assert [step.step for step in run.tasks[2].steps] == [0]  # the second line was cut off


def test_a_run_that_has_only_begun(new_run: NewRun) -> None:
    folder = new_run("begun", learned=0)
    for name in ("accuracy.csv", "accuracy_task.csv", "samples.json"):
        (folder / name).unlink()
    run = read_run(folder)
    assert run.accuracy.zero_shot is None
    assert run.accuracy.rows == ()
    assert run.samples == ()


def test_empty_cells_are_none_and_true_zeros_are_zero(new_run: NewRun) -> None:
    folder = new_run("cells", tasks=("a", "b"))
    (folder / "accuracy.csv").write_text("after,a,b\nzero-shot,0.0,\na,50.0,\nb,0,100\n")
    table = read_run(folder).accuracy
    assert table.zero_shot == (0.0, None)
    assert table.rows == ((50.0, None), (0.0, 100.0))


def test_names_with_commas_and_quotes_come_back(new_run: NewRun) -> None:
    table = read_run(new_run("names", tasks=("no. 1", 'comma, "quote"'))).accuracy
    assert table.tasks == ("no. 1", 'comma, "quote"')


def test_what_is_not_the_runs_is_ignored(new_run: NewRun) -> None:
    folder = new_run("run", tasks=("a", "b"))
    whole = read_run(folder)
    (folder / "tasks/03-c").mkdir()
    (folder / "tasks/01-other").mkdir()
    (folder / "tasks/.DS_Store").write_bytes(b"x")
    (folder / "archive").mkdir()
    assert read_run(folder) == whole


def test_a_missing_picture_is_shown_as_missing(new_run: NewRun) -> None:
    folder = new_run("run", tasks=("a", "b"))
    (folder / "samples/01-0.png").unlink()
    run = read_run(folder)
    assert [example.image is None for example in run.samples[0].examples[:2]] == [True, False]
    assert render([run]).count("(picture missing)") == 1


def _edit(file: str, change: Callable[[dict[str, object]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return apply


def _write(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(content) and None


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "manifest is cut off": (_write("manifest.json", b'{"format": 1, '), "manifest.json is damaged: not JSON"),
    "manifest is no object": (_write("manifest.json", b"[]"), "manifest.json is damaged: top level"),
    "manifest is no text": (_write("manifest.json", b"\xff\xfe\x00"), "manifest.json is damaged"),
    "newer format": (_edit("manifest.json", lambda m: m.update(format=2)), "format 2, this codyra reads 1"),
    "no method": (
        _edit("manifest.json", lambda m: m.pop("method") and None),
        "manifest.json is damaged: method",
    ),
    "benchmark without name": (
        _edit("manifest.json", lambda m: m.update(benchmark={"title": "X-TAIL"})),
        "manifest.json is damaged: benchmark.name",
    ),
    "NaN": (_write("metrics.json", b'{"transfer": NaN}'), "NaN is not a number"),
    "metric is text": (_write("metrics.json", b'{"transfer": "good"}'), "metrics.json is damaged: transfer"),
    "a task is gone": (
        lambda folder: shutil.rmtree(folder / "tasks/02-b"),
        "tasks/02-b/ranks.json is damaged: missing although",
    ),
    "all tasks are gone": (
        lambda folder: shutil.rmtree(folder / "tasks"),
        "tasks/01-a/ranks.json is damaged",
    ),
    "no metrics": (lambda folder: (folder / "metrics.json").unlink(), "metrics.json is damaged: missing"),
    "no accuracy": (
        lambda folder: (folder / "accuracy.csv").unlink(),
        "accuracy.csv is damaged: rows are missing",
    ),
    "no config": (lambda folder: (folder / "config.yaml").unlink(), "config.yaml is missing"),
    "config is no YAML": (_write("config.yaml", b"a: [\n\n"), "config.yaml is damaged: not YAML"),
    "config is a list": (_write("config.yaml", b"- a"), "config.yaml is damaged: not a mapping"),
    "foreign header": (_write("accuracy.csv", b"after,x\n"), "accuracy.csv is damaged: its header"),
    "short row": (
        _write("accuracy.csv", b"after,a,b\nzero-shot,1\n"),
        "row 'zero-shot' has 2 cells, the header 3",
    ),
    "score is text": (_write("accuracy.csv", b"after,a,b\nzero-shot,1,x\n"), "row 'zero-shot'"),
    "score is NaN": (_write("accuracy.csv", b"after,a,b\nzero-shot,1,nan\n"), "nan is no score"),
    "more rows than tasks": (
        _write("accuracy.csv", b"after,a,b\nzero-shot,1,1\na,1,1\nb,1,1\nc,1,1\n"),
        "it has more rows",
    ),
    "rows in disorder": (_write("accuracy.csv", b"after,a,b\nzero-shot,1,2\nb,1,2\n"), "its rows are not"),
    "log is cut off": (_write("tasks/01-a/train.jsonl", b'{"step": 0}\n{"st'), "train.jsonl is damaged"),
    "log without step": (
        _write("tasks/01-a/train.jsonl", b'{"loss": 1}\n'),
        "train.jsonl is damaged: 0.step",
    ),
    "ranks without kind": (
        _write("tasks/02-b/ranks.json", b'{"modules": {}}'),
        "ranks.json is damaged: kind",
    ),
    "picture is no picture": (_write("samples/01-0.png", b"<svg onload=x>"), "neither PNG nor JPEG"),
    "picture from elsewhere": (
        _write(
            "samples.json",
            b'[{"task": "a", "prompt": "{}", "examples": [{"label": "l", "image": "../x.png"}]}]',
        ),
        "../x.png lies outside",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_in_one_line(new_run: NewRun, case: str) -> None:
    folder = new_run("run", tasks=("a", "b"))
    (folder.parent / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    damage, message = DAMAGE[case]
    damage(folder)
    with pytest.raises(UserError) as caught:
        read_run(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_run_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match="is no run folder"):
            read_run(path)
