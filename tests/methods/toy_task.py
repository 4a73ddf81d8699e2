"""A regression of two linears as a task: what pieces read of `ctx.data`, in closed form."""

from types import SimpleNamespace

import torch

from codyra.families.observing import observed_inputs
from codyra.methods import TaskContext


class ToyData:
    """A `TaskData`: log p(y | x) = -|net(x) - y|^2 / 2 up to a constant, and its negative mean as the loss."""

    def __init__(self, net, seed=0, count=8, width=6, height=4):
        generator = torch.Generator().manual_seed(seed)
        self.net = net
        self.inputs = torch.randn(count, width, generator=generator)
        self.targets = torch.randn(count, height, generator=generator)

    def __len__(self):
        return len(self.inputs)

    def plain_batches(self, positions, size):
        for start in range(0, len(positions), size):
            part = list(positions[start : start + size])
            yield {"inputs": self.inputs[part], "targets": self.targets[part]}

    def outputs(self, batch):
        return SimpleNamespace(values=self.net(batch["inputs"]), comparisons=())

    def num_terms(self, batch):
        return len(batch["inputs"])

    def visit_inputs(self, modules, positions, size, visit):
        first_of = {}
        for batch in self.plain_batches(positions, size):
            with observed_inputs(self.net, modules, visit) as of_batch:
                self.net(batch["inputs"])
            first_of |= of_batch
        return first_of

    def log_likelihoods(self, batch):
        return -(self.outputs(batch).values - batch["targets"]).square().sum(dim=1) / 2

    def loss(self, batch, outputs=None):
        return {"loss": -self.log_likelihoods(batch).mean()}

    def example_bytes(self, positions):
        return 40 * len(positions)


def toy_context(net, *, task_index=0, total_steps=10, previous=None, memory=None, batch_size=3):
    """The context of a task of a network with linears `first` (6 -> 5) and `second` (5 -> 4)."""
    ctx = TaskContext(
        net,
        ["first", "second"],
        [name for name, _ in net.named_parameters()],
        task_index=task_index,
        total_steps=total_steps,
        previous=previous,
        batch_size=batch_size,
        make_data=lambda index: ToyData(net, seed=index),
        seed="7",
    )
    if memory is not None:
        ctx.memory = memory
    return ctx


def train(method, ctx, lr=0.05, steps=None):
    """Take the optimizer steps of the task, whole batches each; the adapter stays on."""
    ctx.optimizer = torch.optim.AdamW(method.param_groups(ctx, lr))
    method.optimizer_ready(ctx)
    (batch,) = ctx.data.plain_batches(range(len(ctx.data)), len(ctx.data))
    for _ in range(ctx.total_steps if steps is None else steps):
        step(method, ctx, batch)


def step(method, ctx, batch):
    """One optimizer step with every hook that a loop calls around it."""
    ctx.optimizer.zero_grad()
    loss, penalty = ctx.data.loss(batch)["loss"], method.penalty(ctx)
    (loss if penalty is None else loss + penalty).backward()
    method.after_backward(ctx)
    ctx.optimizer.step()
    method.after_step(ctx)


def learn(method, net, **options):
    """A whole task: (its update, its context)."""
    ctx = toy_context(net, **options)
    with torch.random.fork_rng():
        torch.manual_seed(ctx.task_index)
        method.before_task(ctx)
    train(method, ctx)
    return method.after_task(ctx), ctx
