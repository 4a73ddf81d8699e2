"""Whole tasks: classes, shots, prompts, fingerprints, and what several tasks share."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from codyra.errors import UserError
from codyra.streams import Task, shared_prompts
from codyra.streams.images import ImageFile

Build = Callable[..., list[Task]]
PETS = {"name": "pets", "data": "imagefolder:pets"}


def test_classes_select_and_order_and_positions_count_the_whole_folder(pets: Path, build: Build) -> None:
    (task,) = build(PETS | {"classes": ["red_fox", "cat"], "shots": 3})
    generator = random.Random("8/pets/3")
    positions = generator.sample(range(9, 15), 3) + generator.sample(
        range(4), 3
    )  # cat 0-3, dog 4-8, red_fox 9-14
    assert task.shots == {"seed": 8, "dataset": "pets", "shots": 3, "positions": positions}
    assert task.class_names == ("red_fox", "cat")
    assert task.train.labels == (0, 0, 0, 1, 1, 1)
    whole = build(PETS)[0].train.inputs
    assert list(task.train.inputs) == [whole[position] for position in positions]
    assert task.test.labels == (1, 1, 0, 0)  # file order
    with pytest.raises(UserError, match="no class 'red fox', did you mean 'red_fox'"):
        build(PETS | {"classes": ["red fox"]})


def test_all_examples_without_shots(pets: Path, build: Build) -> None:
    (task,) = build(PETS)
    assert task.shots == {"seed": 8, "dataset": "pets", "shots": None, "positions": None}
    assert len(task.train.inputs) == 15
    assert build(PETS, stored_shots={"pets": task.shots}) == [task]


def test_too_few_examples_are_refused_or_allowed(pets: Path, build: Build) -> None:
    with pytest.raises(
        UserError, match="'cat' has 4 training examples, fewer than shots: 5; lower shots or set allow_fewer"
    ):
        build(PETS | {"shots": 5})
    (task,) = build(PETS | {"shots": 5, "allow_fewer": True})
    assert [task.train.labels.count(label) for label in range(3)] == [4, 5, 5]


def test_stored_shots_win_over_the_generator(pets: Path, build: Build) -> None:
    spec = PETS | {"shots": 1}
    stored = {"seed": 8, "dataset": "pets", "shots": 1, "positions": [3, 8, 14]}
    assert build(spec)[0].shots != stored
    (task,) = build(spec, stored_shots={"pets": stored, "unknown": {}})
    assert task.shots == stored
    assert [Path(image.name).name for image in task.train.inputs] == ["3.png", "4.png", "5.png"]
    with pytest.raises(UserError, match="task 'pets': its stored shots do not fit the data"):
        build(spec, stored_shots={"pets": stored | {"positions": [3, 8, 15]}})


def test_a_task_draws_the_same_whatever_comes_before_it(pets: Path, build: Build) -> None:
    one, two = PETS | {"name": "one", "shots": 2}, PETS | {"name": "two", "shots": 2}
    both = build(one, two)
    assert build(two)[0] == both[1]
    assert build(one, two, stream={"only": ["two"]}) == both[1:]
    state = random.getstate()
    build(one, two)
    assert random.getstate() == state


def test_prompts(pets: Path, build: Build) -> None:
    (task,) = build(PETS)
    assert task.prompts == ("a photo of a cat.", "a photo of a dog.", "a photo of a red fox.")
    (task,) = build(PETS | {"prompt": "{}, {0} 100%"}, default_prompt="{}")
    assert task.prompt == "{}, {0} 100%"
    assert task.prompts[2] == "red fox, {0} 100%"
    with pytest.raises(UserError, match=r"exactly one \{\}"):
        build(PETS, default_prompt="a photo")


def test_the_validation_split_takes_the_place_of_test(pets: Path, build: Build) -> None:
    (task,) = build(PETS, stream={"score_split": "val"})
    assert {Path(image.name).parts[-3] for image in task.test.inputs} == {"val"}
    assert task.fingerprint != build(PETS)[0].fingerprint
    (pets / "val").rename(pets / "dev")
    assert len(build(PETS | {"splits": {"val": "dev"}}, stream={"score_split": "val"})[0].test.inputs) == 6
    with pytest.raises(UserError, match=r"no folder .*val"):
        build(PETS, stream={"score_split": "val"})


def test_the_fingerprint_changes_with_the_data_and_with_nothing_else(
    pets: Path, tmp_path: Path, build: Build
) -> None:
    def fingerprint(**options: object) -> str:
        return build(PETS | {"shots": 2}, **options)[0].fingerprint

    first = fingerprint()
    assert first == fingerprint(seed=9) == build(PETS | {"classes": ["cat"]})[0].fingerprint
    (tmp_path / "moved").mkdir()
    pets.rename(tmp_path / "moved/pets")
    assert fingerprint(root=tmp_path / "moved") == first
    pets = tmp_path / "moved/pets"
    seen = [first]
    Image.new("RGB", (4, 3), (9, 9, 9)).save(pets / "train/cat/0.png")
    seen.append(fingerprint(root=tmp_path / "moved"))
    (pets / "test/dog/1.png").rename(pets / "test/dog/2.png")
    seen.append(fingerprint(root=tmp_path / "moved"))
    (pets / "train/dog/0.png").unlink()
    seen.append(fingerprint(root=tmp_path / "moved"))
    assert len(set(seen)) == 4


def test_the_fingerprint_of_texts(table: Callable[..., Path], build: Build) -> None:
    spec = {"name": "mail", "data": "csv:mail"}
    seen = []
    for rows in ([("ab", "c"), ("d", "e")], [("a", "bc"), ("d", "e")], [("d", "e"), ("ab", "c")]):
        table(rows, [("x", label) for _, label in rows])
        seen.append(build(spec)[0].fingerprint)
    table(rows, [("x", label) for _, label in rows], "json")
    assert build(spec | {"data": "json:mail"})[0].fingerprint == seen[-1]
    assert len(set(seen)) == 3


def test_fingerprints_stay_what_they_were_for_runs_that_go_on(
    table: Callable[..., Path], tmp_path: Path, build: Build
) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "raw" / split / name).mkdir(parents=True)
            for number in range(2):
                content = f"{split} {name} {number}".encode() * (1 + 5000 * number)
                (tmp_path / "raw" / split / name / f"{number}.png").write_bytes(content)
    (images,) = build({"name": "pets", "data": "imagefolder:raw"})
    assert images.fingerprint == "74faf9bb3e37bab523fb177114aa83eca59420948e9d3ad54fd41354359bc882"
    table([("hello train", "a"), ("Grüße, train", "b")], [("hello test", "a"), ("Grüße, test", "b")])
    (texts,) = build({"name": "mail", "data": "csv:mail"})
    assert texts.fingerprint == "48e4efd126e728149e1726bb0d2db719185b4214f5342ae2acbb78454bc180f6"


def test_a_split_has_a_fingerprint_of_exactly_its_inputs_in_order(
    pets: Path, table: Callable[..., Path], build: Build
) -> None:
    (all_of_them,) = build(PETS)
    (some,) = build(PETS | {"shots": 2, "classes": ["dog", "cat"], "name": "other", "prompt": "{}"})
    (others,) = build(PETS | {"shots": 2, "classes": ["cat", "dog"]})
    assert some.test.fingerprint == others.test.fingerprint  # in file order, whatever the order of classes
    assert some.test.fingerprint != all_of_them.test.fingerprint
    assert some.train.fingerprint != some.test.fingerprint
    (pets / "train/cat/0.png").write_bytes(b"changed")
    (changed,) = build(PETS)
    assert changed.test.fingerprint == all_of_them.test.fingerprint
    assert changed.train.fingerprint != all_of_them.train.fingerprint
    seen = set()
    for texts in (("a", "b"), ("b", "a"), ("ab", "b")):
        table(list(zip(texts, "xy", strict=True)), list(zip(texts, "xy", strict=True)))
        seen.add(build({"name": "mail", "data": "csv:mail"})[0].test.fingerprint)
    assert len(seen) == 3


def test_every_file_is_read_once_for_all_fingerprints(
    pets: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    digest = ImageFile.digest
    monkeypatch.setattr(ImageFile, "digest", lambda self: (read.append(self.name), digest(self))[1])
    build(PETS | {"classes": ["cat"]}, PETS | {"name": "dogs", "classes": ["dog"]})
    assert len(read) == len(set(read)) == 15 + 6


def test_prompts_that_classes_share_are_listed(pets: Path, table: Callable[..., Path], build: Build) -> None:
    table([("hi", "dog"), ("a", "red fox"), ("b", "cat")], [("hi", "dog"), ("a", "red fox"), ("b", "cat")])
    mail = {"name": "mail", "data": "csv:mail", "prompt": "a photo of a {}."}
    tasks = build(PETS, mail | {"classes": ["dog", "red fox"]})
    assert shared_prompts(tasks) == [
        {"prompt": "a photo of a dog.", "classes": ["pets/dog", "mail/dog"]},
        {"prompt": "a photo of a red fox.", "classes": ["pets/red_fox", "mail/red fox"]},
    ]
    assert shared_prompts(tasks[:1]) == []
