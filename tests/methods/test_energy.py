"""Energy truncation: the singular values of the dense product, the error that was promised, peft's ranks."""

import pytest
import torch
from peft import LoraConfig, convert_to_lora, get_peft_model
from torch import nn

from codyra.methods import TaskContext, build_method, parse_options
from codyra.methods.pieces.energy import Energy, truncated
from codyra.update import TaskUpdate
from methods.toy_task import learn
from tiny_nets import TwoLayers


def factors(seed, R=6, D=9, num_out=7):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, -3, R, dtype=torch.float64)
    return (
        torch.randn(R, D, generator=generator, dtype=torch.float64) * scales[:, None],
        torch.randn(num_out, R, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("energy", [0.5, 0.9, 0.999, 1 - 1e-12])
def test_the_fewest_directions_of_the_dense_product_with_that_energy(seed, energy):
    A, B = factors(seed)
    values = torch.linalg.svdvals(B @ A)
    A_kept, B_kept = truncated(A, B, energy)
    K = len(A_kept)
    torch.testing.assert_close(torch.linalg.svdvals(B_kept @ A_kept)[:K], values[:K])
    total = values.square().sum()
    assert values[:K].square().sum() >= energy * total * (1 - 1e-12)
    assert K == 1 or values[: K - 1].square().sum() < energy * total
    error = (B @ A - B_kept @ A_kept).square().sum()
    torch.testing.assert_close(error, values[K:].square().sum(), rtol=1e-9, atol=1e-24)
    torch.testing.assert_close(A_kept @ A_kept.T, torch.eye(K, dtype=torch.float64))


def test_an_update_of_zeros_keeps_nothing_and_energy_one_keeps_all():
    A, B = factors(0)
    assert len(truncated(A, torch.zeros_like(B), 0.9)[0]) == 0
    update = TaskUpdate("low_rank", {"a": (A, B)}, ranks={"a": 6, "b": 0}, full_ranks={"a": 6, "b": 6})
    ctx = TaskContext(nn.Module(), [], [], 0, 1, None)
    assert Energy(energy=1).finish(ctx, update) is update
    assert Energy(energy=0.9).finish(ctx, update).ranks["b"] == 0
    zeros = TaskUpdate("low_rank", {"a": (A, 0 * B)}, ranks={"a": 6}, full_ranks={"a": 6})
    assert Energy(energy=0.9).finish(ctx, zeros).no_change


def test_the_ranks_are_those_of_pefts_conversion():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 10, bias=False), nn.Tanh(), nn.Linear(10, 8, bias=False))
    model = get_peft_model(net, LoraConfig(r=5, lora_alpha=5, target_modules=["0", "2"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight) * torch.rand(weight.shape[0])[:, None])
    ours = Energy(energy=0.8).finish(TaskContext(net, [], [], 0, 1, None), TaskUpdate.from_model(model))
    _, state = convert_to_lora(model, rank=0.8, progressbar=False)
    theirs = {key.split(".")[-3]: len(value) for key, value in state.items() if ".lora_A." in key}
    assert ours.ranks == theirs


def test_the_method_truncates_at_task_end():
    net = TwoLayers().requires_grad_(False)
    whole, _ = learn(build_method(parse_options({"name": "lora", "r": 4})), net)
    own, _ = learn(build_method(parse_options({"name": "energy", "r": 4, "energy": 0.6})), net)
    for name, (A, B) in whole.factors.items():
        squares = torch.linalg.svdvals(B @ A).square()
        kept = int((squares.cumsum(0) < 0.6 * squares.sum()).sum()) + 1
        assert own.ranks[name] == kept < 4
        A_own, B_own = own.factors[name]
        error = (B @ A - B_own @ A_own).square().sum()
        torch.testing.assert_close(error, squares[kept:].sum(), rtol=1e-4, atol=1e-9)
