"""checkout, export and predict as a user types them."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
import yaml

from families.tiny_encoders import save_bert


@pytest.fixture
def pictures_run(config, command, tmp_path):
    path = tmp_path / "stream.yaml"
    path.write_text(yaml.safe_dump({**config, "train": {**config["train"], "steps": 4}}))
    assert command("run", path, "--out", tmp_path / "run")[0] == 0
    return tmp_path / "run"


@pytest.fixture
def text_checkout(command, tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("text,label\na red bird,bird\na blue cat,cat\n")
    config = {
        "model": {"name": str(save_bert(tmp_path / "bert"))},
        "method": {"name": "zero_shot"},
        "stream": {"tasks": [{"name": "pets", "data": f"csv:{tmp_path}"}]},
    }
    (tmp_path / "texts.yaml").write_text(yaml.safe_dump(config))
    assert command("run", tmp_path / "texts.yaml", "--out", tmp_path / "run")[0] == 0
    assert command("checkout", tmp_path / "run", "--out", tmp_path / "model")[0] == 0
    return tmp_path / "model"


def refused(result, *words):
    code, out, err = result
    assert code == 2, (out, err)
    assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in out + err
    for word in words:
        assert word in err


def test_from_a_run_to_predictions(pictures_run, pictures, command, tmp_path):
    model = tmp_path / "model"
    code, out, err = command("checkout", pictures_run, "--out", model)
    assert (code, err) == (0, "")
    assert "base model plus tasks 1, 2, 3" in out
    picture = pictures / "warm/test/red/0.png"
    code, out, err = command("predict", model, picture, picture, "--top", 2)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 6
    assert lines[0] == lines[3] == str(picture)
    assert "%" in lines[1]
    code, out, _ = command("predict", model, picture, "--label-space", "cool", "--json")
    (record,) = json.loads(out)
    assert record["input"] == str(picture)
    assert {one["task"] for guess in record["guesses"] for one in guess["classes"]} == {"cool"}
    assert sum(guess["percent"] for guess in record["guesses"]) == pytest.approx(100, abs=1e-3)

    code, out, _ = command("checkout", pictures_run, "--tasks", "1,3", "--out", tmp_path / "some")
    assert code == 0
    assert "never scored" in out
    code, out, _ = command("export", pictures_run, "--task", 2, "--pad", "--out", tmp_path / "adapter")
    assert code == 0
    assert "--max-lora-rank" in out
    assert f"codyra checkout {pictures_run} --after 1 --out DIR" in out

    refused(command("checkout", pictures_run, "--out", model), "is not an empty folder")
    refused(command("checkout", pictures_run, "--after", 9, "--out", tmp_path / "x"), "task 4 is not learnt")
    refused(
        command("checkout", pictures_run, "--tasks", "1;3", "--out", tmp_path / "x"),
        "--tasks 1;3",
        "as in 1,3",
    )
    refused(
        command("checkout", pictures_run, "--tasks", "1", "--after", 1, "--out", tmp_path / "x"), "not both"
    )
    refused(command("export", pictures_run, "--task", 4, "--out", tmp_path / "x"), "task 4 is not learnt")
    refused(command("predict", model, "nowhere.png"), "nowhere.png: there is no such file")
    refused(command("predict", pictures_run, picture), "is no checkout", "codyra checkout")
    refused(command("predict", model, picture, "--label-space", "cold"), "no such task", "warm, cool, plain")
    assert not (tmp_path / "x").exists()


def test_texts_from_the_command_line_and_from_standard_input(text_checkout, command, monkeypatch):
    code, out, _ = command("predict", text_checkout, "a red bird")
    assert code == 0
    assert out.splitlines()[0] == "a red bird"
    content = b"a red bird\n\na [bold]cat[/bold]\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    code, out, _ = command("predict", text_checkout, "-", "--top", 1)
    assert code == 0
    assert out.splitlines()[::2] == ["a red bird", "a [bold]cat[/bold]"]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"caf\xe9\n")))
    refused(command("predict", text_checkout, "-"), "standard input is not UTF-8")


def test_ctrl_c_says_what_to_do(text_checkout, command, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("codyra.history.checkout.recompose", interrupt)
    code, _, err = command("checkout", tmp_path / "run", "--out", tmp_path / "other")
    assert code == 130
    assert "nothing was written; continue with: codyra checkout" in err
    assert not list(tmp_path.glob("*other*"))
