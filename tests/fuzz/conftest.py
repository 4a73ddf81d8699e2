"""A small finished run for the tests of hostile folders."""

from pathlib import Path

import pytest
import torch

from codyra import TaskUpdate, run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, pictures) -> Path:
    """A small finished run; not to be left changed."""
    tasks = [
        {"name": name, "data": f"imagefolder:{pictures / name}", "shots": 4} for name in ("warm", "cool")
    ]
    config = {
        "model": {"name": "builtin:tiny-clip"},
        "method": {"name": "codyra", "r": 2, "targets": ["layers.0.self_attn.q_proj"]},
        "train": {"steps": 6, "batch_size": 4},
        "stream": {"tasks": tasks},
    }
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    run(config, out=folder)
    # A stray folder, as far as the run is concerned, so that its files are damaged too.
    TaskUpdate("dense", tensors={"bias": torch.ones(8)}).save(folder / "tasks/03-dense")
    return folder
