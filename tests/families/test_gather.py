"""Several processes with a share of the batch each learn what one process learns from all of it."""

import random
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from codyra.families import ModelSpec, load_family
from codyra.families.dual_encoder import TaskObjective
from codyra.families.gather import share_of
from families.tiny_encoders import image_task, save_clip

NUM_PROCESSES = 2
BATCHES = {"unequal": [0, 4, 8, 1, 11], "one left over": [4]}
NUMS_OF_CLASSES = (5, 1)
"""Prompts are shared as examples are."""


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 7])
def test_shares_make_up_the_batch_and_none_is_empty(num_rows):
    rows, counted = list(range(num_rows)), []
    for rank in range(NUM_PROCESSES):
        own, sizes = share_of(num_rows, rank, NUM_PROCESSES)
        assert len(rows[own]) == max(1, sizes[rank])
        counted += rows[own][: sizes[rank]]
    assert counted == rows
    assert max(sizes) - min(sizes) <= 1


def objective_of(directory: Path, num_classes: int) -> tuple[torch.nn.Module, TaskObjective]:
    family = load_family(ModelSpec(name=str(directory), dtype="float64"))
    family.net.requires_grad_(True)
    classes = ("red bird", "cat", "very big dog", "square", "circle")[:num_classes]
    task = image_task("task", classes, per_class=15 // num_classes)
    return family.net, TaskObjective(family, task, 3)


def gradients(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All gradients, which are then reset."""
    found = {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}
    net.zero_grad()
    return found


def train_share(rank: int, directory: Path) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{directory}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=NUM_PROCESSES)
    try:
        for num_classes, (name, positions) in product(NUMS_OF_CLASSES, BATCHES.items()):
            net, objective = objective_of(directory, num_classes)
            (batch,) = objective.micro_batches(positions, random.Random(0), rank, NUM_PROCESSES)
            losses = objective.loss(batch)
            losses["loss"].backward()
            result = gradients(net)
            for gradient in result.values():
                dist.all_reduce(gradient)
                gradient /= NUM_PROCESSES
            result["loss"] = losses["loss"].detach()
            save_file(result, directory / f"{num_classes} {name} {rank}.safetensors")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_several_processes_have_the_gradient_of_one(tmp_path):
    directory = save_clip(tmp_path)
    mp.start_processes(train_share, args=(directory,), nprocs=NUM_PROCESSES, start_method="spawn")

    for num_classes, (name, positions) in product(NUMS_OF_CLASSES, BATCHES.items()):
        net, objective = objective_of(directory, num_classes)
        losses = objective.loss(objective.batch(positions, random.Random(0)))
        losses["loss"].backward()
        expected = gradients(net) | {"loss": losses["loss"].detach()}
        for rank in range(NUM_PROCESSES):
            result = load_file(directory / f"{num_classes} {name} {rank}.safetensors")
            assert result.keys() == expected.keys()
            for key, gradient in expected.items():
                assert torch.allclose(result[key], gradient, rtol=1e-9, atol=1e-12), key
