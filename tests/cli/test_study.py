"""probe, ablate and analyse as a user types them."""

import pytest
import yaml

from conftest import colour_tasks


@pytest.fixture(scope="module")
def place(tmp_path_factory, pictures):
    """A folder with stream.yaml, whose run takes about a second."""
    folder = tmp_path_factory.mktemp("study")
    config = {
        "model": {"name": "builtin:tiny-clip"},
        "method": {"name": "codyra", "r": 2},
        "train": {"steps": 4, "batch_size": 4},
        "stream": {"tasks": colour_tasks(pictures)},
    }
    (folder / "stream.yaml").write_text(yaml.safe_dump(config))
    return folder


def refused(result, *words):
    code, out, err = result
    assert (code, err.count("\n")) == (2, 1), (out, err)
    for word in words:
        assert word in err


def test_probe(place, command, monkeypatch):
    monkeypatch.chdir(place)
    options = ("--ranks", "1, 2", "--placements", "text,attention", "--task", "cool")
    code, out, err = command("probe", "stream.yaml", *options)
    assert (code, err) == (0, "")
    assert "4 of 4 points x 4 steps on cool" in out
    assert "mean of warm, plain, which are not learnt" in out
    files = sorted(file.name for file in (place / "runs/stream-probe").iterdir())
    assert files == ["measured", "probe.csv", "probe.svg", "settings.json"]
    code, out, _ = command("probe", "stream.yaml", *options)
    assert code == 0
    assert "all 4 points are measured" in out
    refused(command("probe", "stream.yaml", "--set", "seed=9", "--task", "cool"), "seed is 8 there, 9 here")
    refused(command("probe", "stream.yaml", "--ranks", "1,b"), "--ranks 1,b: give whole numbers from 1")
    refused(command("probe", "stream.yaml", "--ranks", "0,4"), "--ranks 0,4: give whole numbers from 1")
    refused(command("probe", "stream.yaml", "--ranks", "1" * 5000), "give whole numbers from 1")
    refused(command("probe", "stream.yaml", "--placements", "heads"), "--placements: there is no 'heads'")
    refused(
        command("probe", "stream.yaml", "--task", "\x1b[31m"), "the stream has no task", "warm, cool, plain"
    )
    refused(command("probe", "nowhere.yaml"), "there is no such file")


def test_ctrl_c_in_a_probe_says_how_to_go_on(place, command, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(place)
    monkeypatch.setattr("codyra.analysis.probe.learn_task", interrupt)
    code, _, err = command("probe", "stream.yaml", "--ranks", "1", "--placements", "mlp", "--out", "p")
    assert code == 130
    assert "continue with: codyra probe stream.yaml --ranks 1 --placements mlp --out p" in err
    assert (place / "p/measured/zero-shot.json").is_file()
    assert not (place / "p/lock.json").exists()


def test_ablate_and_analyse(place, command, monkeypatch):
    monkeypatch.chdir(place)
    assert command("run", "stream.yaml", "--out", "run")[0] == 0
    code, out, err = command("ablate", "run", "--by", "layer")
    assert (code, err) == (0, "")
    assert "vision layer 3" in out
    assert "all updates" in out
    assert "--after N leaves some unseen" in out
    code, out, _ = command("ablate", "run", "--after", 1, "--by", "kind", "--out", "elsewhere")
    assert code == 0
    assert "text q_proj" in out
    assert "--after N" not in out
    code, out, err = command("analyse", "run")
    assert (code, err) == (0, "")
    assert "run-analysis: ranks.csv, rank-heatmap.svg, magnitude.csv, drift.csv, drift.svg" in out
    assert command("verify", "run")[0] == 0
    refused(command("ablate", "run", "--after", 9), "task 4 is not learnt")
    refused(command("ablate", "run", "--out", "run/x"), "lies in the run folder")
    refused(command("ablate", "elsewhere"), "is no run folder")
    refused(command("analyse", "stream.yaml"), "is no run folder")
