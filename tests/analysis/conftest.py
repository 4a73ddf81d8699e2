"""One stream of three tasks, learnt by several methods; each run is made once."""

from pathlib import Path

import pytest

import codyra
from codyra.engine.progress import Narrator
from conftest import colour_tasks
from families.tiny_encoders import save_clip

QUIET = Narrator(quiet=True)
# So many are pruned that some kinds of module have no rank left.
PRUNED = ["method.r=1", "method.kappa_total=1.5"]
# On a model of two blocks; options of --set.
METHODS = {
    "cumulative": ["method.name=lora", "method.r=2", "method.carry=continue"],
    "full": ["method.name=full", "train.lr=1e-5"],
    "zero_shot": ["method.name=zero_shot"],
}


@pytest.fixture(scope="session")
def stream(pictures) -> dict:
    """A config for the built-in model with a guard that accepts everything; a run takes about two seconds."""
    return {
        "model": {"name": "builtin:tiny-clip"},
        "method": {"name": "codyra", "r": 4},
        "train": {"steps": 4, "batch_size": 6, "lr": 5e-3},
        "stream": {"tasks": colour_tasks(pictures)},
        "guard": {"data": f"imagefolder:{pictures / 'plain'}", "tolerance": 100},
    }


@pytest.fixture(scope="session")
def runs(tmp_path_factory, stream) -> dict[str, Path]:
    """`codyra` and METHODS, finished; not to be written into."""
    folder = tmp_path_factory.mktemp("analysed")
    tiny = f"model.name={save_clip(folder / 'tiny-clip')}"
    options = {"codyra": PRUNED, **{name: [tiny, *options] for name, options in METHODS.items()}}
    return {
        name: codyra.run(stream, folder / name, overrides=overrides, narrator=QUIET).folder
        for name, overrides in options.items()
    }
