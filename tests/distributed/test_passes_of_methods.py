"""Passes over a task's examples are the same on every process: so is what methods keep and do with them."""

import json

import pytest
import yaml


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inflora", "gpm", "ewc", "a_gem"])
def test_two_processes_keep_what_one_keeps(config, command, launch, tmp_path, name):
    config["method"] = {"name": name, "r": 2, "targets": ["q_proj", "v_proj"]}
    config["train"]["steps"] = 6
    path = tmp_path / "stream.yaml"
    path.write_text(yaml.safe_dump(config))
    assert command("run", path, "--out", tmp_path / "one")[0] == 0
    assert launch("run", path, "--out", tmp_path / "two").count("report: ") == 1
    single, double = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("one", "two"))
    assert double["memory_bytes"] == single["memory_bytes"]
    assert double["update_norm"] == pytest.approx(single["update_norm"], rel=1e-3)
    assert (tmp_path / "one/accuracy.csv").read_text() == (tmp_path / "two/accuracy.csv").read_text()
