"""`codyra table` on folders of real runs."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

import codyra
from codyra.engine.progress import Narrator
from conftest import colour_tasks
from engine.faults import reseal

ESCAPE = "\x1b]0;owned\x07\x1b[2J"


@pytest.fixture(scope="session")
def repeats(tmp_path_factory, pictures) -> list[Path]:
    """One configuration with two seeds; not to be written into."""
    folder = tmp_path_factory.mktemp("repeats")
    config = {
        "model": {"name": "builtin:tiny-clip"},
        "method": {"name": "codyra", "r": 2, "targets": ["layers.0.self_attn.q_proj"]},
        "train": {"steps": 4, "batch_size": 4},
        "stream": {"tasks": colour_tasks(pictures)},
    }
    return [
        codyra.run({**config, "seed": seed}, folder / f"seed-{seed}", narrator=Narrator(quiet=True)).folder
        for seed in (1, 2)
    ]


@pytest.fixture
def marked(repeats, tmp_path) -> Path:
    """A copy that claims to be a part of X-TAIL."""
    folder = tmp_path / "marked"
    shutil.copytree(repeats[0], folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["benchmark"] = {
        "name": "xtail",
        "title": "X-TAIL",
        "order": 1,
        "shots": 16,
        "prompts": "default",
        "label_space": "all",
        "tasks": ["warm", "cool", "plain", "fourth"],
        "marks": [f"partial: 3 of 4 data sets {ESCAPE}"],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics |= {key: manifest["benchmark"][of] for key, of in (("benchmark", "title"), ("marks", "marks"))}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    reseal(folder)
    return folder


def test_seeds_become_one_row(repeats, command):
    code, out, _ = command("table", *repeats, "--format", "csv")
    assert code == 0
    lines = list(csv.DictReader(io.StringIO(out)))
    lasts = {
        line["data_set"]: line for line in lines if (line["metric"], line["method"]) == ("last", "codyra")
    }
    scores = [json.loads((folder / "metrics.json").read_text())["last"] for folder in repeats]
    assert float(lasts[""]["value"]) == pytest.approx(sum(scores) / 2)
    assert float(lasts[""]["std"]) == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
    assert {line["n"] for line in lasts.values()} == {"2"}
    assert list(lasts) == ["warm", "cool", "plain", ""]


def test_text_is_the_default_and_needs_no_wide_terminal(repeats, command):
    code, out, _ = command("table", *repeats)
    assert code == 0
    assert "measured, n = 2" in out
    assert "over seeds 1, 2" in out
    assert next(line for line in out.splitlines() if line.startswith(" Last")).split()[-1] == "mean"


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (["--out", "t.tex"], "% Needs"),
        (["--out", "t.md"], "### 3 tasks"),
        (["--out", "t.CSV"], "table,title"),
        (["--out", "t.txt"], "3 tasks, warm to plain"),
        (["--out", "t.txt", "--format", "latex"], "% Needs"),
    ],
)
def test_the_ending_of_the_file_names_the_format(repeats, command, tmp_path, monkeypatch, options, first):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("table", repeats[0], *options)
    assert (code, out) == (0, f"table: {options[1]}\n")
    assert (tmp_path / options[1]).read_text().startswith(first)


def test_what_is_printed_is_what_is_written(repeats, command, tmp_path):
    for name in ("text", "csv", "markdown", "latex"):
        _, printed, _ = command("table", repeats[0], "--format", name)
        command("table", repeats[0], "--format", name, "--out", tmp_path / "table")
        assert printed == (tmp_path / "table").read_text()


def test_marks_are_shown_and_never_obeyed(marked, command, tmp_path):
    for name in ("text", "csv", "markdown", "latex"):
        code, out, _ = command("table", marked, "--format", name)
        assert code == 0
        assert "partial: 3 of 4 data sets" in out
        assert "\x1b" not in out
    assert command("verify", marked)[0] == 0
    assert command("report", marked, "--out", tmp_path / "report.html")[0] == 0
    page = (tmp_path / "report.html").read_text()
    assert "Beside published figures" in page
    assert "Not the benchmark: partial: 3 of 4 data sets" in page


def test_one_metric(repeats, command):
    code, out, _ = command("table", repeats[0], "--metric", "forgetting_max", "--metric", "last")
    assert code == 0
    assert "Forgetting, from the best" in out
    assert "Transfer" not in out
    assert "Further figures" not in out


def test_a_table_never_lands_in_a_run(marked, command):
    before = (marked / "accuracy.csv").read_bytes()
    code, _, err = command("table", marked, "--out", marked / "tasks" / ".." / "accuracy.csv")
    assert code == 2
    assert "choose another place" in err
    assert (marked / "accuracy.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "tex"], "there is no 'tex'; there are text, csv, markdown, latex"),
        (["--out", "table.html"], "end it in .txt, .csv, .md, .tex, or say --format"),
        (["--metric", "forgetting"], "forgetting_"),
        (["--metric", "bwt"], "'bwt' has no value per data set"),
        (["no-such-run"], "is no run folder"),
        (["--out", "no-such-run.csv/x/y.csv"], "cannot"),
    ],
)
def test_mistakes_end_in_one_line(repeats, command, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no-such-run.csv").write_text("a file")
    code, out, err = command("table", repeats[0], *options)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1
