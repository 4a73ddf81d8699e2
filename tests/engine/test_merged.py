"""The network between tasks: the same to the last bit as base plus all updates, and not all of them read again."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from codyra import TaskUpdate
from codyra.engine.merged import MergedNetwork
from codyra.update import compose, write_weights

NUM_TASKS = 6


def update(kind: str = "low_rank") -> TaskUpdate:
    ranks = {"0": 3, "1": 2}
    factors = {name: (torch.randn(rank, 40), torch.randn(40, rank)) for name, rank in ranks.items()}
    return TaskUpdate(kind, factors=factors, ranks=ranks, full_ranks=ranks)


class Run:
    """A network of two linears, its updates, and how often each of them was read."""

    def __init__(self, dtype: torch.dtype = torch.float32, added: bool = True) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40)).to(dtype)
        self.base = {name: self.net.get_parameter(name).detach().clone() for name in ("0.weight", "1.weight")}
        self.updates = [update("low_rank" if added else "cumulative") for _ in range(NUM_TASKS)]
        self.reads: list[int] = []
        family = SimpleNamespace(net=self.net, write_weights=lambda weights: write_weights(self.net, weights))
        self.network = MergedNetwork(family, self.base, self.read, added)

    def read(self, task_index: int) -> TaskUpdate:
        self.reads.append(task_index)
        return self.updates[task_index]

    def check(self, num_tasks: int, weights: dict[str, torch.Tensor]) -> None:
        expected = compose(self.net, self.base, self.updates[:num_tasks])
        for name, weight in expected.items():
            assert torch.equal(self.net.get_parameter(name), weight)
            assert torch.equal(weights[name], weight)
            assert weights[name].dtype == weight.dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("added", [True, False])
def test_the_network_is_the_base_and_all_updates_to_the_last_bit(dtype, added):
    run = Run(dtype, added)
    for num_tasks in (0, 1, 1, 2, 3, 3, 5, 4, 6, 0, 2):
        run.check(num_tasks, run.network.put_tasks(num_tasks))
    run.network.put([run.updates[4]])  # as a guard does
    run.check(5, run.network.put_tasks(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_update_is_read_once_where_nothing_is_cast(dtype):
    run = Run(dtype)
    for num_tasks in range(NUM_TASKS + 1):
        run.network.put_tasks(num_tasks)  # after a task
        run.network.put_tasks(num_tasks)  # before the next
    assert run.reads == list(range(NUM_TASKS))


def test_sums_that_are_cast_begin_at_the_base():
    run = Run(torch.bfloat16)
    run.network.put_tasks(2)
    run.network.put_tasks(2)
    assert run.reads == [0, 1]  # the network is there already
    run.network.put_tasks(3)
    assert run.reads == [0, 1, 0, 1, 2]


def test_what_the_network_holds_in_another_form_is_not_read_from_it():
    run = Run()
    run.net.half()
    network = MergedNetwork(
        SimpleNamespace(net=run.net, write_weights=lambda _: None), run.base, run.read, True
    )
    network.put_tasks(1)
    network.put_tasks(2)
    assert run.reads == [0, 0, 1]


def test_an_update_that_cannot_be_read_leaves_nothing_to_go_on_from():
    run = Run()
    run.network.put_tasks(2)
    run.updates[2] = TaskUpdate("dense", tensors={"2.weight": torch.ones(1)})
    with pytest.raises(Exception, match=r"2\.weight"):
        run.network.put_tasks(3)
    run.updates[2] = update()
    run.check(3, run.network.put_tasks(3))
    assert run.reads == [0, 1, 2, 0, 1, 2]
