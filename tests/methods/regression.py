"""A regression that a small network of two linears learns, as methods see a task: its data, and the loop around it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codyra.families.observing import observed_inputs
from codyra.methods import Memory, Method, TaskContext, build_method, parse_options
from codyra.update import TaskUpdate


@dataclass
class Regression:
    """Inputs (N, D) and targets (N, O) as the data of a task; the part of it that these tests need."""

    net: nn.Module
    inputs: Tensor
    targets: Tensor

    def __len__(self):
        return len(self.inputs)

    def plain_batches(self, positions, size):
        for start in range(0, len(positions), size):
            yield {"positions": list(positions[start : start + size])}

    def visit_inputs(self, modules, positions, size, visit):
        first_of = {}
        for batch in self.plain_batches(positions, size):
            with observed_inputs(self.net, modules, visit) as of_batch:
                self.net(self.inputs[batch["positions"]])
            first_of |= of_batch
        return first_of

    def loss(self):
        return (self.net(self.inputs) - self.targets).square().mean()


def task_of(net: nn.Module, number: int, dims: tuple[int, int], used: int, count: int = 40) -> Regression:
    """Inputs that lie in `used` directions, other ones for every number, and random targets."""
    generator = torch.Generator().manual_seed(100 + number)
    directions = torch.randn(used, dims[0], generator=generator)
    inputs = torch.randn(count, used, generator=generator) @ directions
    return Regression(net, inputs, torch.randn(count, dims[1], generator=generator))


def begin(method: Method, data: Regression, modules, memory=None, number=0, tasks=3, seed=0) -> TaskContext:
    """The task up to its first step."""
    data.net.requires_grad_(False)
    ctx = TaskContext(
        data.net,
        list(modules),
        [],
        number,
        total_steps=10,
        previous=None,
        memory=memory or Memory(),
        num_tasks=tasks if method.declared.needs_number_of_tasks else None,
        batch_size=16,
        make_data=lambda index: data,
    )
    torch.manual_seed(seed)
    method.before_task(ctx)
    method.collect(ctx)
    ctx.optimizer = torch.optim.AdamW(method.param_groups(ctx, 0.02), weight_decay=0.0)
    method.optimizer_ready(ctx)
    return ctx


def step(method: Method, ctx: TaskContext) -> Tensor | None:
    """One optimizer step; gives the penalty."""
    ctx.optimizer.zero_grad()
    loss, penalty = ctx.data.loss(), method.penalty(ctx)
    (loss if penalty is None else loss + penalty).backward()
    method.after_backward(ctx)
    ctx.optimizer.step()
    method.after_step(ctx)
    return penalty


def learn(
    options, data: Regression, modules, memory=None, number=0, tasks=3, steps=10
) -> tuple[TaskUpdate, Memory]:
    """All of a task; the network is left without the update."""
    method = build_method(parse_options(options))
    ctx = begin(method, data, modules, memory, number, tasks)
    for _ in range(steps):
        step(method, ctx)
    return method.after_task(ctx), ctx.memory
