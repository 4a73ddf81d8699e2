"""Two processes with a share of the batch each learn what one process learns from all of it."""

import random
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from codyra.families import ModelSpec, TaskObjective, gather_features, load_family
from families.tiny_encoders import image_task, save_clip

POSITIONS = [0, 4, 8, 1, 11]
SIZES = [3, 2]


def objective_of(directory: Path) -> tuple[torch.nn.Module, TaskObjective]:
    family = load_family(ModelSpec(name=str(directory), dtype="float64"))
    family.net.requires_grad_(True)
    task = image_task("task", ("red bird", "cat", "dog", "square"))
    return family.net, family.start_task(task, 3, "official")


def gradients(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}


def train_share(rank: int, directory: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=len(SIZES)
    )
    try:
        net, objective = objective_of(directory)
        rng = random.Random(0)
        start = sum(SIZES[:rank])
        for _ in range(start):
            rng.getrandbits(64)
        batch = objective.batch(POSITIONS[start : start + SIZES[rank]], rng)
        losses = objective.loss(batch, gather=partial(gather_features, sizes=SIZES))
        losses["loss"].backward()
        result = {
            name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None
        }
        for gradient in result.values():
            dist.all_reduce(gradient)
            gradient /= len(SIZES)
        save_file(result | {"loss": losses["loss"].detach()}, directory / f"{rank}.safetensors")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path):
    directory = save_clip(tmp_path)
    net, objective = objective_of(directory)
    losses = objective.loss(objective.batch(POSITIONS, random.Random(0)))
    losses["loss"].backward()
    expected = {
        name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None
    }
    expected["loss"] = losses["loss"].detach()

    mp.start_processes(train_share, args=(directory,), nprocs=len(SIZES), start_method="spawn")

    for rank in range(len(SIZES)):
        result = load_file(directory / f"{rank}.safetensors")
        assert result.keys() == expected.keys()
        for name, gradient in expected.items():
            assert torch.allclose(result[name], gradient, rtol=1e-9, atol=1e-12), name
