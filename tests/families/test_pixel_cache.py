"""The cache of test images: the same pixels, decoded once per machine, whatever happens to the process or the files."""

import errno
import multiprocessing
import os
import shutil
import signal
import time
from collections import namedtuple
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codyra import cache
from codyra.errors import UserError
from codyra.families import evaluation
from codyra.families.evaluation import EvaluationImages
from codyra.families.images import ImageTransform
from families.tiny_encoders import Split, image_task

TRANSFORM = ImageTransform(8, None, (8, 8), Image.Resampling.BICUBIC, 1 / 255, (0.5,) * 3, (0.2,) * 3)
BYTES = 3 * 8 * 8
HEADER = 128


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The folder of the entries, empty."""
    monkeypatch.setenv("CODYRA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache/pixels"


def pictures(name="birds", seed=0, num_images=6):
    return image_task(name, ("bird",), per_class=num_images, seed=seed)


def expected(task) -> torch.Tensor:
    return torch.stack([TRANSFORM.evaluation_pixels(image.open()) for image in task.test.inputs])


def prepared(*tasks, transform=TRANSFORM):
    """Freshly prepared as in a new run; (images of each task, lines said, number of examples reported)."""
    images, lines, counted = EvaluationImages(transform), [], []
    images.prepare(tasks, counted.append, lines.append)
    return [images.of_task(task) for task in tasks], lines, sum(counted)


def pixels_of(images) -> torch.Tensor:
    return images.test(images.reading_order())["pixels"]


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the images that are decoded."""
    kind = type(pictures().test.inputs[0])
    names: list[str] = []
    decode = kind.open
    monkeypatch.setattr(kind, "open", lambda self: (names.append(self.name), decode(self))[1])
    return names


# --- what is kept


def test_the_pixels_are_those_of_the_images_and_are_decoded_once(folder, opened):
    task = pictures()
    for _ in range(3):
        (images,), lines, counted = prepared(task)
        assert pixels_of(images).dtype == torch.uint8
        assert torch.equal(images.test([4, 1])["pixels"], pixels_of(images)[[4, 1]])
        assert (lines, counted) == ([], 6)
    assert len(opened) == 6
    assert torch.equal(pixels_of(images), expected(task))
    (file,) = folder.iterdir()  # no lock, nothing unfinished
    assert np.array_equal(np.load(file, allow_pickle=False), pixels_of(images).numpy())
    (entry,) = cache.entries()
    assert (entry.name, cache.num_images(entry), entry.size) == ("birds", 6, HEADER + 6 * BYTES)


def test_the_entry_knows_neither_names_nor_prompts_nor_training_images(opened):
    task, other = pictures("one"), pictures("other", seed=1)
    prepared(task)
    opened.clear()
    prepared(replace(other, test=task.test, class_names=("x",), prompts=("y",)))
    assert opened == []
    assert len(cache.entries()) == 1


def test_other_images_another_order_and_other_pixels_are_other_entries(opened):
    task = pictures()
    prepared(task)
    changed = Split((*task.test.inputs[:5], pictures(seed=1).test.inputs[5]), task.test.labels)
    backwards = Split(task.test.inputs[::-1], task.test.labels)
    fewer = Split(task.test.inputs[:5], task.test.labels[:5])
    for number, split in enumerate((changed, backwards, fewer), start=2):
        (images,), _, _ = prepared(replace(task, test=split))
        assert torch.equal(pixels_of(images), expected(replace(task, test=split)))
        assert len(cache.entries()) == number
    prepared(task, transform=replace(TRANSFORM, resample=Image.Resampling.BILINEAR))
    prepared(task, transform=replace(TRANSFORM, shortest_edge=None, resize=(8, 8)))
    assert len(cache.entries()) == 6
    opened.clear()
    prepared(task, transform=replace(TRANSFORM, mean=(0.0,) * 3, std=(1.0,) * 3, scale=1.0))
    assert opened == []


def test_two_tasks_on_the_same_images_share_them_within_a_run(opened):
    _, lines, counted = prepared(pictures("one"), pictures("two"))
    assert (len(opened), lines, counted) == (6, [], 12)


def test_another_pillow_decodes_anew(opened, monkeypatch):
    prepared(pictures())
    monkeypatch.setattr("PIL.__version__", "0.0")
    prepared(pictures())
    assert len(opened) == 12


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_scores_are_the_same_to_the_last_bit_with_and_without(load, kind, monkeypatch):
    task = image_task("task", ("bird", "cat"), per_class=5)
    features, scores = [], []
    for gib, memory in (("32", 2**30), ("32", 2**30), ("0", 2**30), ("0", 4 * 3 * 16 * 16)):
        monkeypatch.setenv("CODYRA_CACHE_GIB", gib)
        monkeypatch.setattr(evaluation, "MEMORY_BYTES", memory)
        family = load(kind)
        scores.append(family.score([task]))
        with torch.no_grad():
            features.append(family.encode_inputs(family.test_inputs(task).test(range(10))))
    assert all(score == scores[0] for score in scores)
    assert all(torch.equal(feature, features[0]) for feature in features)


# --- damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: os.truncate(file, file.stat().st_size - 1),
        lambda file: os.truncate(file, 0),
        lambda file: np.save(file, np.zeros((6, 3, 8, 8), np.int8)),
        lambda file: np.save(file, np.zeros((6, 3, 4, 16), np.uint8)),
        lambda file: np.save(file, np.zeros((7, 3, 8, 8), np.uint8)),
        lambda file: file.write_bytes(b"x" * file.stat().st_size),
    ],
    ids=["truncated", "empty", "dtype", "shape", "length", "foreign"],
)
def test_a_file_that_is_not_the_entry_is_made_anew(folder, opened, damage):
    prepared(pictures("first"))
    (file,) = folder.iterdir()
    damage(file)
    (images,), lines, counted = prepared(pictures("second"))
    assert torch.equal(pixels_of(images), expected(pictures()))
    assert (lines, counted) == ([], 6)
    assert len(list(folder.iterdir())) == 1


def test_a_broken_image_is_named_and_leaves_nothing(folder):
    class Broken:
        name = "broken.jpg"
        pixels = np.zeros(1)

        def open(self):
            raise UserError("cannot read image broken.jpg: truncated; replace or remove it")

    task = pictures()
    broken = replace(task, test=Split((*task.test.inputs, Broken()), (0,) * 7))
    for _ in range(2):
        with pytest.raises(UserError, match=r"broken\.jpg"):
            prepared(broken)
        assert list(folder.iterdir()) == []


def test_an_entry_that_is_removed_while_it_is_used_stays_readable(folder):
    (images,), _, _ = prepared(pictures())
    cache.clear()
    assert list(folder.iterdir()) == []
    assert torch.equal(pixels_of(images), expected(pictures()))


# --- no room


def test_the_least_recently_used_entry_makes_room(monkeypatch):
    tasks = [pictures(name, seed) for seed, name in enumerate(("a", "b", "c"))]
    monkeypatch.setenv("CODYRA_CACHE_GIB", str(2.5 * (HEADER + 6 * BYTES) / 2**30))
    prepared(tasks[0])
    prepared(tasks[1])
    for entry in cache.entries():
        os.utime(entry.path, (0, 1000 if entry.name == "a" else 2000))
    prepared(tasks[0])  # used again: now b is older
    _, lines, _ = prepared(tasks[2])
    assert lines == []
    assert {entry.name for entry in cache.entries()} == {"a", "c"}


def test_what_the_run_itself_needs_is_not_removed(monkeypatch, opened):
    tasks = [pictures(name, seed) for seed, name in enumerate(("a", "b", "c"))]
    monkeypatch.setenv("CODYRA_CACHE_GIB", str(2.5 * (HEADER + 6 * BYTES) / 2**30))
    prepared(tasks[2])
    opened.clear()
    for _ in range(2):
        images, lines, counted = prepared(*tasks)
        (line,) = lines
        assert "test images of b are not cached" in line
        assert "CODYRA_CACHE_GIB" in line
        assert counted == 18
        assert all(
            torch.equal(pixels_of(one), expected(task)) for one, task in zip(images, tasks, strict=True)
        )
    assert {entry.name for entry in cache.entries()} == {"a", "c"}


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_only(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/cache/pixels")


OBSTACLES = {
    "switched off": lambda patch, root: patch.setenv("CODYRA_CACHE_GIB", "0"),
    "too small": lambda patch, root: patch.setenv("CODYRA_CACHE_GIB", "1e-7"),
    "a file in the way": lambda patch, root: (root / "cache").write_text(""),
    "read-only": lambda patch, root: patch.setattr(Path, "mkdir", read_only),
    "full": lambda patch, root: patch.setattr(os, "pwrite", no_space),
    "no locks": lambda patch, root: patch.setattr(cache.fcntl, "flock", no_space),
    "little left": lambda patch, root: patch.setattr(
        shutil, "disk_usage", lambda _: namedtuple("Usage", "total free")(1000 * 2**30, 5 * 2**30)
    ),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_without_a_cache_the_memory_does_and_one_line_says_so(tmp_path, monkeypatch, opened, obstacle):
    OBSTACLES[obstacle](monkeypatch, tmp_path)
    tasks = [pictures("a"), pictures("b", seed=1)]
    opened.clear()
    monkeypatch.setattr(evaluation, "MEMORY_BYTES", 8 * BYTES)  # all of a, two of b
    images, lines, counted = prepared(*tasks)
    (line,) = lines
    assert line.startswith("test images of a, b are not cached: ")
    assert counted == 12
    opened.clear()
    for one, task in zip(images, tasks, strict=True):
        assert torch.equal(
            pixels_of(one),
            torch.stack([TRANSFORM.evaluation_pixels(Image.fromarray(i.pixels)) for i in task.test.inputs]),
        )
    assert len(opened) == 4
    monkeypatch.undo()
    assert not list((tmp_path / "cache").glob("**/*.npy*"))


def test_a_limit_that_is_no_number_is_the_users_mistake(monkeypatch):
    for text in ("many", "-1", "nan", "inf"):
        monkeypatch.setenv("CODYRA_CACHE_GIB", text)
        with pytest.raises(UserError, match="CODYRA_CACHE_GIB"):
            prepared(pictures())


# --- several processes


@dataclass(frozen=True)
class HeldImage:
    """An image that is decoded only once `gate` exists."""

    name: str
    pixels: np.ndarray
    gate: Path

    def open(self) -> Image.Image:
        deadline = time.monotonic() + 30
        while not self.gate.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return Image.fromarray(self.pixels)


@pytest.fixture
def elsewhere(folder, tmp_path):
    """Another process that decodes `pictures()` and gets stuck before the last of them until `gate` exists."""
    task, gate = pictures(), tmp_path / "gate"
    last = task.test.inputs[-1]
    held = (*task.test.inputs[:-1], HeldImage(last.name, last.pixels, gate))
    process = multiprocessing.get_context("fork").Process(
        target=prepared, args=(replace(task, test=Split(held, task.test.labels)),)
    )
    process.start()
    deadline = time.monotonic() + 30
    while not any(file.suffix == ".tmp" and file.stat().st_size for file in folder.glob(".*")):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.gate = gate
    yield process
    process.kill()
    process.join()


def test_a_killed_process_leaves_nothing_that_is_taken_for_complete(folder, elsewhere, opened):
    elsewhere.kill()
    elsewhere.join()
    assert len(list(folder.iterdir())) == 2  # the lock and the unfinished file
    assert cache.entries() == []
    (images,), lines, _ = prepared(pictures())
    assert (lines, len(opened)) == ([], 6)
    assert torch.equal(pixels_of(images), expected(pictures()))
    assert len(list(folder.iterdir())) == 1


def test_making_room_sweeps_what_the_dead_left_and_leaves_the_living_alone(folder, elsewhere):
    prepared(pictures("other", seed=1))
    assert len(list(folder.iterdir())) == 3
    elsewhere.kill()
    elsewhere.join()
    prepared(pictures("third", seed=2))
    assert sorted(entry.name for entry in cache.entries()) == ["other", "third"]
    assert len(list(folder.iterdir())) == 2


def test_unfinished_files_of_others_count_against_the_limit(elsewhere, monkeypatch):
    monkeypatch.setenv("CODYRA_CACHE_GIB", str(1.5 * (HEADER + 6 * BYTES) / 2**30))
    _, (line,), _ = prepared(pictures("other", seed=1))
    assert "not cached" in line


def test_two_processes_decode_once(folder, elsewhere, opened):
    images, lines = EvaluationImages(TRANSFORM), []

    def say(line):
        lines.append(line)
        elsewhere.gate.touch()

    images.prepare([pictures()], say=say)
    elsewhere.join()
    assert elsewhere.exitcode == 0
    assert len(lines) == 1
    assert "waiting for another process" in lines[0]
    assert opened == []
    assert torch.equal(pixels_of(images.of_task(pictures())), expected(pictures()))
    assert len(list(folder.iterdir())) == 1


def test_whoever_waits_takes_over_from_a_process_that_dies(folder, elsewhere, opened):
    images = EvaluationImages(TRANSFORM)
    images.prepare([pictures()], say=lambda line: os.kill(elsewhere.pid, signal.SIGKILL))
    assert len(opened) == 6
    assert torch.equal(pixels_of(images.of_task(pictures())), expected(pictures()))
    assert len(list(folder.iterdir())) == 1
