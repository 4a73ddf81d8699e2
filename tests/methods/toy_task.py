"""A regression of two linears as a task: what pieces read of `ctx.data`, in closed form."""

from types import SimpleNamespace

import torch

from codyra.families.observing import observed_inputs
from codyra.methods import TaskContext, build_method, parse_options


def toy_net():
    """6 -> 5 -> 4 with a tanh between; `first` and `second` are linears."""
    torch.manual_seed(0)
    net = torch.nn.Sequential()
    net.add_module("first", torch.nn.Linear(6, 5))
    net.add_module("middle", torch.nn.Tanh())
    net.add_module("second", torch.nn.Linear(5, 4))
    return net.requires_grad_(False)


class ToyData:
    """A `TaskData`: log p(y | x) = -|net(x) - y|^2 / 2 up to a constant, and its negative mean as the loss.

    Args:
        used: the inputs lie in so many directions, other ones for every seed; None for all.
    """

    def __init__(self, net, seed=0, count=8, width=6, height=4, used=None):
        generator = torch.Generator().manual_seed(seed)
        self.net = net
        directions = torch.eye(width) if used is None else torch.randn(used, width, generator=generator)
        self.inputs = torch.randn(count, len(directions), generator=generator) @ directions
        self.targets = torch.randn(count, height, generator=generator)

    def __len__(self):
        return len(self.inputs)

    def plain_batches(self, positions, size):
        for start in range(0, len(positions), size):
            part = list(positions[start : start + size])
            yield {"inputs": self.inputs[part], "targets": self.targets[part]}

    def outputs(self, batch):
        return SimpleNamespace(values=self.net(batch["inputs"]), comparisons=())

    def num_terms(self, positions):
        return len(positions)

    def visit_inputs(self, modules, positions, size, visit):
        first_of = {}
        for batch in self.plain_batches(positions, size):
            with observed_inputs(self.net, modules, visit) as of_batch:
                self.net(batch["inputs"])
            first_of |= of_batch
        return first_of

    def log_likelihoods(self, batch):
        return -(self.outputs(batch).values - batch["targets"]).square().sum(dim=1) / 2

    def loss(self, batch, outputs=None, num_terms=None):
        log_likelihoods = self.log_likelihoods(batch)
        return {"loss": -log_likelihoods.sum() / (num_terms or len(log_likelihoods))}

    def example_bytes(self, positions):
        return 40 * len(positions)


def task_of(net, number, used):
    """Forty examples of a task whose inputs lie in `used` directions."""
    return ToyData(net, seed=100 + number, count=40, used=used)


def toy_context(
    net,
    *,
    linears=("first", "second"),
    data=None,
    task_index=0,
    num_tasks=None,
    total_steps=10,
    previous=None,
    memory=None,
    batch_size=3,
):
    """The context of a task of a network with linears `first` (6 inputs) and `second` (4 outputs)."""
    ctx = TaskContext(
        net,
        list(linears),
        [name for name, _ in net.named_parameters()],
        task_index=task_index,
        num_tasks=num_tasks,
        total_steps=total_steps,
        previous=previous,
        batch_size=batch_size,
        make_data=lambda index: ToyData(net, seed=index) if data is None else data,
        seed="7",
    )
    if memory is not None:
        ctx.memory = memory
    return ctx


def train(method, ctx, lr=0.05, steps=None):
    """Take the optimizer steps of the task, whole batches each; the adapter stays on."""
    ctx.optimizer = torch.optim.AdamW(method.param_groups(ctx, lr))
    method.optimizer_ready(ctx)
    for _ in range(ctx.total_steps if steps is None else steps):
        step(method, ctx)


def step(method, ctx):
    """One optimizer step of all examples, with every hook that a loop calls around it; gives the penalty."""
    (batch,) = ctx.data.plain_batches(range(len(ctx.data)), len(ctx.data))
    ctx.optimizer.zero_grad()
    loss, penalty = ctx.data.loss(batch)["loss"], method.penalty(ctx)
    (loss if penalty is None else loss + penalty).backward()
    method.after_backward(ctx)
    ctx.optimizer.step()
    method.after_step(ctx)
    return penalty


def learn(method, net, **options):
    """A whole task: (its update, its context)."""
    ctx = toy_context(net, **options)
    with torch.random.fork_rng():
        torch.manual_seed(ctx.task_index)
        method.before_task(ctx)
    train(method, ctx)
    return method.after_task(ctx), ctx


def begin(method, data, memory=None, number=0, tasks=3, linears=("first", "second")):
    """A task of these examples up to its first step."""
    net = data.net.requires_grad_(False)
    ctx = toy_context(
        net,
        data=data,
        memory=memory,
        task_index=number,
        num_tasks=tasks if method.declared.needs_number_of_tasks else None,
        linears=linears,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method.before_task(ctx)
    method.collect(ctx)
    train(method, ctx, lr=0.02, steps=0)
    return ctx


def learn_from(options, data, memory=None, number=0, tasks=3, steps=10):
    """A whole task of these examples: (its update, the memory); the network is left without the update."""
    method = build_method(parse_options(options))
    ctx = begin(method, data, memory, number, tasks)
    for _ in range(steps):
        step(method, ctx)
    return method.after_task(ctx), ctx.memory
