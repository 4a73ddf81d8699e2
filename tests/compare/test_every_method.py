"""What a method declares of itself, and the equal budget, seen from outside: in the files of a run, for every method.

A method that is added is in here by its name alone; one with options for reference data is given some.
"""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file

import codyra
from codyra.engine import trainer
from codyra.engine.config import RunConfig, load_config, model_path
from codyra.engine.plan import answer_settings
from codyra.engine.progress import Narrator
from codyra.engine.rng import private_random
from codyra.families import load_family
from codyra.history.checkout import checkout
from codyra.methods import method_names, option_names
from codyra.methods.declaration import read_declaration
from codyra.update import architecture
from conftest import colour_tasks

STEPS, BATCH, SHOTS, NUM_TASKS = 11, 6, 4, 2
TARGETS = ["layers.0.self_attn.q_proj", "layers.0.mlp.fc1"]
KINDS = ["weights", "statistics", "features", "samples"]


class Finished(NamedTuple):
    """A finished run; `seen` holds for every task the positions of the examples of every step."""

    method: str
    folder: Path
    seen: list[list[list[int]]]

    def metrics(self) -> dict:
        return json.loads((self.folder / "metrics.json").read_text())

    def tasks(self) -> list[Path]:
        return sorted((self.folder / "tasks").iterdir())


def config_of(method: str, pictures: Path, folder: Path) -> dict:
    """Two tasks of two classes; adapters on a few linears, where the method has a choice."""
    captions = folder / "captions.txt"
    captions.write_text("".join(f"a picture of thing {number}\n" for number in range(12)))
    offered = {
        "targets": TARGETS,
        "reference_images": str(pictures / "plain" / "train"),
        "reference_texts": str(captions),
    }
    return {
        "model": {"name": "builtin:tiny-clip"},
        "method": {"name": method, **{key: offered[key] for key in offered if key in option_names(method)}},
        "train": {"steps": STEPS, "batch_size": BATCH, "lr": 1e-3},
        "stream": {"tasks": [task | {"shots": SHOTS} for task in colour_tasks(pictures)[:NUM_TASKS]]},
    }


@pytest.fixture(scope="module", params=method_names())
def finished(request, pictures, tmp_path_factory):
    """A run of every method; not to be written into."""
    seen: list[list[list[int]]] = []

    def watched(*args, **options):
        seen.append([])
        for positions in batches(*args, **options):
            seen[-1].append(positions)
            yield positions

    batches = trainer.batches
    folder = tmp_path_factory.mktemp("every")
    config = config_of(request.param, pictures, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "batches", watched)
        codyra.run(config, folder / "run", narrator=Narrator(quiet=True))
    return Finished(request.param, folder / "run", seen)


@pytest.fixture(scope="module")
def budget():
    """The examples that the default seed gives to every step of every task."""
    seed = RunConfig.model_fields["seed"].default
    drawn = []
    for task in range(NUM_TASKS):
        endless = trainer.batches(2 * SHOTS, BATCH, private_random(seed, "batches", task))
        drawn.append([next(endless) for _ in range(STEPS)])
    return drawn


def test_what_is_kept_is_what_is_declared(finished):
    declared = read_declaration(finished.method).stores
    memories = sorted(finished.folder.rglob("memory.safetensors"))
    if declared == "none":
        assert memories == []
        assert not any(finished.metrics()["memory_bytes"])
        return
    kinds = {name.partition("/")[0] for file in memories for name in header(file)}
    assert kinds <= set(KINDS[: KINDS.index(declared) + 1])
    sizes = [
        sum(end - begin for begin, end in header(file).values()) + pointed_at(file) if file.exists() else 0
        for file in (task / "memory.safetensors" for task in finished.tasks())
    ]
    assert finished.metrics()["memory_bytes"] == sizes


def test_without_extra_inference_the_model_is_the_base_in_modules_names_and_shapes(finished, tmp_path):
    extra = sum(finished.metrics()["extra_parameters"])
    if read_declaration(finished.method).extra_inference:
        assert extra > 0
        return
    assert extra == 0
    config = load_config(finished.folder / "config.yaml")
    checkout(finished.folder, tmp_path / "model")
    base, last = (
        load_family(spec, answer_settings(config)).net
        for spec in (model_path(config), config.model.model_copy(update={"name": str(tmp_path / "model")}))
    )
    assert architecture(last) == architecture(base)


def test_steps_and_examples_are_the_same_for_every_method_that_takes_steps(finished, budget):
    logs = [task / "train.jsonl" for task in finished.tasks()]
    steps = [len(log.read_text().splitlines()) if log.exists() else 0 for log in logs]
    trained = (
        json.loads((finished.folder / "manifest.json").read_text())["method"]["trainable_parameters"] > 0
    )
    assert steps == [STEPS if trained else 0] * NUM_TASKS
    assert finished.seen == (budget if trained else [])


def pointed_at(file: Path) -> int:
    """Bytes of the examples that are read again from the stream and count as if they were in the file."""
    return sum(int(tensor.sum()) for name, tensor in load_file(file).items() if "/example_bytes/" in name)


def header(file: Path) -> dict[str, list[int]]:
    """Name and place of every tensor in a safetensors file, by the format's own description."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length])
    return {name: entry["data_offsets"] for name, entry in entries.items() if name != "__metadata__"}
