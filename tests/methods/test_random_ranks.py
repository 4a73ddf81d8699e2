"""The control that drops a random half: the share, the scale, and nothing but the seed decides."""

import torch
from torch import nn

from codyra.methods import TaskContext
from codyra.methods.pieces.random_ranks import RandomRanks
from codyra.update import TaskUpdate


def context(seed="8", task_index=0):
    return TaskContext(nn.Module(), [], [], task_index, 1, None, seed=seed)


def update(num_modules=40, R=16):
    torch.manual_seed(0)
    names = [f"m{i}" for i in range(num_modules)]
    factors = {name: (torch.randn(R, 5), torch.randn(6, R)) for name in names}
    return TaskUpdate("low_rank", factors, ranks=dict.fromkeys(names, R), full_ranks=dict.fromkeys(names, R))


def test_half_of_every_linear_is_kept_and_scaled():
    before = update()
    after = RandomRanks().finish(context(), before)
    assert set(after.ranks.values()) == {8}
    for name, (A, B) in after.factors.items():
        A_before, B_before = before.factors[name]
        for a, b in zip(A, B.T, strict=True):
            origin = (A_before == a).all(dim=1).nonzero().item()
            torch.testing.assert_close(b, 0.79 * B_before[:, origin])
    # Independent ranks: half of them carry sqrt(1/2) of the norm.
    assert abs(after.norm() / before.norm() - 0.56) < 0.03


def test_seed_and_task_decide_and_nothing_else():
    def chosen(ctx):
        return [A.tolist() for A, _ in RandomRanks().finish(ctx, update()).factors.values()]

    assert chosen(context()) == chosen(context())
    assert chosen(context()) != chosen(context(seed="9"))
    assert chosen(context()) != chosen(context(task_index=1))
