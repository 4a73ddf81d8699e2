"""Two gloo processes learn what one process learns at the same global batch."""

import json
import os
import subprocess
import sys

import pytest
import yaml


@pytest.mark.slow
def test_two_processes_are_one_process(config, command, tmp_path):
    path = tmp_path / "stream.yaml"
    path.write_text(yaml.safe_dump(config))
    assert command("run", path, "--out", tmp_path / "one")[0] == 0
    script = tmp_path / "entry.py"
    script.write_text("from codyra.cli import main\nmain()\n")
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(script, "run", path, "--out", tmp_path / "two"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("report: ") == 1
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert json.loads((tmp_path / "two/manifest.json").read_text())["processes"] == 2
    assert two["update_norm"] == pytest.approx(one["update_norm"], rel=1e-4)
    assert two["mean_rank"] == one["mean_rank"]
    assert (tmp_path / "one/accuracy.csv").read_text() == (tmp_path / "two/accuracy.csv").read_text()
