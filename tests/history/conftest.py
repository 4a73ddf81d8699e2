"""Finished runs of every kind of update, a sentence encoder's run, and checkouts of them; each made once."""

from pathlib import Path

import numpy as np
import pytest

import codyra
from codyra.engine.progress import Narrator
from codyra.history.checkout import checkout
from conftest import colour_tasks
from families.tiny_encoders import WORDS, save_bert, save_clip

# On a model of two blocks; options of --set.
METHODS = {
    "cumulative": ["method.name=lora", "method.r=2", "method.carry=continue"],
    "full": ["method.name=full", "train.lr=1e-5"],
    "bf16": ["method.name=codyra", "method.r=4", "model.dtype=bfloat16"],
    "zero_shot": ["method.name=zero_shot"],
}


def learn(config: dict, out: Path, *overrides: str) -> Path:
    return codyra.run(config, out, overrides=overrides, narrator=Narrator(quiet=True)).folder


def write_table(folder: Path, classes: list[str], seed: int) -> Path:
    """Texts of four words, the first of which is the label."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for split, count in (("train", 6), ("test", 5)):
        rows = [f"{name} {' '.join(rng.choice(WORDS, 3))},{name}" for name in classes for _ in range(count)]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory, pictures) -> dict[str, Path]:
    """`codyra` and METHODS: three tasks of two colours; `text`: two tasks of words, scored within each."""
    folder = tmp_path_factory.mktemp("history")
    images = {
        "model": {"name": "builtin:tiny-clip"},
        "method": {"name": "codyra", "r": 4},
        "train": {"steps": 4, "batch_size": 6, "lr": 1e-3},
        "stream": {"tasks": colour_tasks(pictures)},
    }
    tables = {"pets": ["cat", "dog", "bird"], "tones": ["red", "blue"]}
    texts = {
        "model": {"name": str(save_bert(folder / "tiny-bert"))},
        "method": {"name": "codyra", "r": 4},
        "train": {"steps": 4, "batch_size": 6, "lr": 1e-3},
        "stream": {
            "label_space": "task",
            "tasks": [
                {"name": name, "data": f"csv:{write_table(folder / 'tables' / name, classes, seed)}"}
                for seed, (name, classes) in enumerate(tables.items())
            ],
        },
    }
    tiny = f"model.name={save_clip(folder / 'tiny-clip')}"
    return {
        "codyra": learn(images, folder / "codyra"),
        "text": learn(texts, folder / "text"),
        **{name: learn(images, folder / name, tiny, *options) for name, options in METHODS.items()},
    }


@pytest.fixture(scope="session")
def checkouts(runs, tmp_path_factory) -> dict[str, Path]:
    """The final model of every run."""
    folder = tmp_path_factory.mktemp("checkouts")
    for name, run in runs.items():
        checkout(run, folder / name)
    return {name: folder / name for name in runs}
