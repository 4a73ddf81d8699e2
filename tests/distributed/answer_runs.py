"""What tests on several processes share: a stream of two tasks of answers, and runs held together."""

import json
import random
from pathlib import Path

import pytest
from safetensors.torch import load_file

WORDS = [
    "house",
    "river",
    "cold",
    "warm",
    "seven",
    "three",
    "dog",
    "cat",
    "word",
    "blue",
    "green",
    "yes",
    "no",
]
TRAIN, TEST = 11, 7
LOSSES = {"loss", "image_to_text", "text_to_image"}


def write_stream(folder: Path) -> list[dict]:
    """Two tasks of prompts and answers of many lengths; the `tasks:` of a config."""
    rng = random.Random(0)
    for task in ("first", "second"):
        (folder / task).mkdir(parents=True)
        for split, count in (("train", TRAIN), ("test", TEST)):
            records = [
                {
                    "prompt": f"{task}: {' '.join(rng.choices(WORDS, k=rng.randint(2, 14)))}",
                    "answer": " ".join(rng.choices(WORDS, k=rng.randint(1, 6))),
                }
                for _ in range(count)
            ]
            (folder / task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, records)))
    return [{"name": task, "data": f"json:{folder / task}"} for task in ("first", "second")]


def assert_same_run(one: Path, other: Path, tolerance: float) -> None:
    """The same losses, ranks and updates up to `tolerance`, relative to the norm, and the same answers."""
    logs = sorted(one.rglob("train.jsonl"))
    assert logs
    for log in logs:
        lines, others = (
            [json.loads(line) for line in file.read_text().splitlines()]
            for file in (log, other / log.relative_to(one))
        )
        for name in LOSSES & lines[0].keys():
            expected = [line.pop(name) for line in lines]
            assert [line.pop(name) for line in others] == pytest.approx(expected, rel=tolerance)
        assert others == lines
    updates = sorted(one.rglob("*.safetensors"))
    assert updates
    for file in updates:
        tensors, others = load_file(file), load_file(other / file.relative_to(one))
        assert {name: (t.shape, t.dtype) for name, t in tensors.items()} == {
            name: (t.shape, t.dtype) for name, t in others.items()
        }
        for name, tensor in tensors.items():
            assert (tensor - others[name]).norm() <= tolerance * tensor.norm(), name
    for answers in [one / "accuracy.csv", *one.rglob("*predictions.jsonl")]:
        assert answers.read_text() == (other / answers.relative_to(one)).read_text()
