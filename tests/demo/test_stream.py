import hashlib
from pathlib import Path

import pytest
from PIL import Image

from codyra.demo.stream import COUNTS, TASKS, write_stream
from codyra.demo.styles import SIDE
from codyra.engine.config import load_config


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.png"))
    }


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    write_stream(folder, seed=4)
    return folder


def test_layout_and_counts(stream):
    for task in TASKS:
        for split, count in COUNTS.items():
            folder = stream / task.name / split
            assert {path.name for path in folder.iterdir()} == set(task.classes)
            assert all(len(list((folder / name).glob("*.png"))) == count for name in task.classes)


def test_the_preset_learns_these_tasks():
    specs = load_config("demo").stream.tasks
    assert [(spec.name, spec.prompt) for spec in specs] == [(task.name, task.prompt) for task in TASKS]
    assert [spec.data for spec in specs] == [f"imagefolder:${{data_dir}}/{task.name}" for task in TASKS]
    assert all(spec.shots <= COUNTS["train"] for spec in specs)


def test_pictures_are_48_pixels_and_rgb(stream):
    for task in TASKS:
        with Image.open(stream / task.name / "test" / task.classes[0] / "000.png") as image:
            assert image.size == (SIDE, SIDE)
            assert image.mode == "RGB"


def test_no_two_pictures_are_equal_and_so_train_and_test_share_none(stream):
    seen = digests(stream)
    assert len(set(seen.values())) == len(seen) == sum(len(t.classes) for t in TASKS) * sum(COUNTS.values())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_class_is_the_same_for_the_same_seed_only(task):
    first, again, other = ([i.tobytes() for i in task.pictures(seed, "train", 1)] for seed in (4, 4, 5))
    assert first == again
    assert first != other


def test_prompts_of_the_stream_are_all_different():
    prompts = [task.prompt.format(name) for task in TASKS for name in task.classes]
    assert len(set(prompts)) == len(prompts)
