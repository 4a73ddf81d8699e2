"""What several rooms test on: small coloured pictures in an image folder, and the command as a user types it."""

import os
import sys
from pathlib import Path

# Tiny models are fastest on one thread, and two test processes that spin on the same cores crawl. Before torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

COLOURS = {
    "red": (200, 40, 40),
    "green": (40, 180, 40),
    "blue": (40, 40, 200),
    "grey": (128, 128, 128),
    "black": (20, 20, 20),
    "white": (235, 235, 235),
}
TASKS = {"warm": ["red", "green"], "cool": ["blue", "grey"], "plain": ["black", "white"]}


def write_pictures(folder: Path, classes: list[str], train: int = 8, test: int = 6) -> Path:
    """An image folder of noisy colours: FOLDER/{train,test}/<class>/<n>.png."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for name in classes:
            directory = folder / split / name
            directory.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(np.array(COLOURS[name]) + rng.normal(0, 45, (20, 24, 3)), 0, 255)
                Image.fromarray(pixels.astype("uint8")).save(directory / f"{number}.png")
    return folder


@pytest.fixture(scope="session", autouse=True)
def small_layers_are_fused():
    """The networks of the tests are tiny, and it is the step of the large ones that is to be tested."""
    from codyra.tuner import GatedLinear

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(GatedLinear, "smallest_fused", 0)
        yield


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Caches of this process and its children lie here, never in the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("CODYRA_CACHE_DIR", str(folder))
        patch.delenv("CODYRA_CACHE_GIB", raising=False)
        yield folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """The image folders of TASKS, one per task; not to be written into."""
    folder = tmp_path_factory.mktemp("pictures")
    for task, classes in TASKS.items():
        write_pictures(folder / task, classes)
    return folder


def colour_tasks(pictures: Path) -> list[dict]:
    """The tasks of a config that learns all of TASKS."""
    return [
        {"name": name, "data": f"imagefolder:{pictures / name}", "prompt": "a {} picture.", "shots": 4}
        for name in TASKS
    ]


@pytest.fixture
def config(pictures) -> dict:
    """Three tasks of two classes for the built-in model; a run takes about two seconds."""
    return {
        "model": {"name": "builtin:tiny-clip"},
        "method": {"name": "codyra", "r": 4},
        "train": {"steps": 12, "batch_size": 6, "lr": 1e-3},
        "stream": {"tasks": colour_tasks(pictures)},
    }


@pytest.fixture(scope="session")
def coop_tree(tmp_path_factory) -> tuple[Path, dict]:
    """(folder, what is true of it): all of X-TAIL as CoOp lays it out; not to be written into."""
    from miniatures import write_coop

    folder = tmp_path_factory.mktemp("coop")
    return folder, write_coop(folder, train=2)


@pytest.fixture(scope="session")
def torchvision_tree(tmp_path_factory) -> tuple[Path, dict]:
    """(folder, what is true of it): all of MTIL as torchvision downloads it; not to be written into."""
    from miniatures import write_torchvision

    folder = tmp_path_factory.mktemp("torchvision")
    return folder, write_torchvision(folder, per_class=4)


@pytest.fixture(scope="session")
def trace_tree(tmp_path_factory) -> tuple[Path, dict]:
    """(folder, what is true of it): all of TRACE, a few records per task; not to be written into."""
    from miniatures_trace import write_trace

    folder = tmp_path_factory.mktemp("trace")
    return folder, write_trace(folder)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> Path:
    """A CLIP with random weights that scores a thousand prompts in half a second; not to be written into."""
    from families.tiny_encoders import save_clip

    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def command(capfd, monkeypatch):
    """Run `codyra ARGS...` in this process; gives (exit code, stdout, stderr)."""
    from codyra.cli import main

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["codyra", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        code = stopped.value.code
        return (0 if code is None else int(code)), out, err

    return run
