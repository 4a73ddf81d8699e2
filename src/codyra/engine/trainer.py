"""One task, trained: the optimizer loop, and the adapter put on before it and taken off after it."""

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from codyra.engine.checkpoint import Checkpoint, Keeper, Record, capture, restore
from codyra.engine.config import TrainConfig, num_shown
from codyra.engine.plan import Plan
from codyra.engine.progress import Narrator
from codyra.engine.rng import private_random, seeded_torch
from codyra.engine.sharding import trained_apart
from codyra.errors import UserError
from codyra.families import Batch, Objective
from codyra.methods import Method, TaskContext
from codyra.tuner import short_attention
from codyra.update import TaskUpdate

FLUSH_EVERY = 10
"""Steps between two looks at the losses; reading them earlier would make an accelerator wait in every step."""


class Computed(nn.Module):
    """The network with its loss as `forward`, which is what accelerate's wrappers expect to call."""

    def __init__(self, method: Method, ctx: TaskContext, objective: Objective) -> None:
        super().__init__()
        net = self.net = ctx.net
        self.objective = objective
        self._of_method = partial(method.batch_loss, ctx)
        # FSDP gathers the parameters of one of these at a time.
        layers = (module for module in net.modules() if isinstance(module, GradientCheckpointingLayer))
        self._no_split_modules = sorted({type(layer).__name__ for layer in layers})

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.objective.outputs(batch)
        losses = self.objective.loss(batch, outputs)
        if (term := self._of_method(batch, outputs)) is not None:
            losses |= {"loss": losses["loss"] + term, "method_loss": term.detach()}
        return losses


def batches(
    num_examples: int, batch_size: int, rng: random.Random, epochs: float | None = None
) -> Iterator[list[int]]:
    """Positions of the batches of a task, none of its examples dropped; a new shuffle per epoch.

    Without `epochs` they are endless, and the last batch of every epoch is smaller. With it, epochs flow into each
    other, so that exactly ceil(epochs * num_examples / batch_size) batches hold every example as often as it says; the
    last one is smaller.
    """

    def shuffled() -> list[int]:
        order = list(range(num_examples))
        rng.shuffle(order)
        return order

    if epochs is None:
        while True:
            order = shuffled()
            for start in range(0, num_examples, batch_size):
                yield order[start : start + batch_size]
    endless = (position for _ in itertools.count() for position in shuffled())
    left = num_shown(epochs, num_examples)
    while left > 0:
        yield list(itertools.islice(endless, min(batch_size, left)))
        left -= batch_size


def lr_factor(step: int, total_steps: int, schedule: str, warmup_steps: int) -> float:
    """Factor on the learning rate of 0-based `step`: docs/method.md, cosine(t) = 0.5 (1 + cos(pi t / T))."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * step / total_steps))


def learn_task(
    plan: Plan,
    ctx: TaskContext,
    narrator: Narrator,
    label: str,
    log: list[Record],
    keeper: Keeper | None = None,
    resume: Checkpoint | None = None,
) -> tuple[TaskUpdate, float, float]:
    """Train the task of `ctx` on the weights that the network has.

    Args:
        label: what the narrator calls this.
        log, keeper, resume: as for `train_task`.

    Returns:
        The task's update, the seconds of training, and those of what the method does before and after it; the network
        is plain again, with the weights from before.

    Raises:
        UserError: as `train_task`.
    """
    config, task = plan.config, plan.tasks[ctx.task_index]
    begun = time.perf_counter()
    with seeded_torch(config.seed, "adapters", ctx.task_index):
        plan.method.before_task(ctx)
    plan.method.collect(ctx)
    method_seconds = time.perf_counter() - begun
    batch_rng = private_random(config.seed, "batches", ctx.task_index)
    with (
        short_attention(ctx.net),
        trained_apart(plan.family, ctx, plan.accelerator),
        plan.family.checkpointed_activations(config.train.gradient_checkpointing),
        narrator.work(label, ctx.total_steps, resume.step if resume is not None else 0) as tell,
    ):
        seconds = train_task(
            plan.method,
            ctx,
            ctx.data,
            batches(len(task.train), config.train.batch_size, batch_rng, config.num_epochs(task.name)),
            config.train,
            config.seed,
            plan.accelerator,
            log,
            keeper,
            resume,
            tell,
        )
    trained = time.perf_counter()
    # A pass with gradients must not need more memory than the steps did.
    with plan.family.checkpointed_activations(config.train.gradient_checkpointing):
        update = plan.method.after_task(ctx)
    return update, seconds, method_seconds + time.perf_counter() - trained


def train_task(
    method: Method,
    ctx: TaskContext,
    objective: Objective,
    positions: Iterator[list[int]],
    train: TrainConfig,
    seed: int,
    accelerator: Accelerator,
    log: list[Record],
    keeper: Keeper | None = None,
    resume: Checkpoint | None = None,
    on_steps: Callable[[int], None] = lambda more: None,
) -> float:
    """Train one task with a new optimizer; every process sees the same global batches and takes its share.

    Appends one record per step to `log`: step, losses, lr, and what the method's pieces add.

    Args:
        positions: of the training examples of every global batch, from the first step on.
        log: the records of the steps before `resume`; after an error it holds what happened until then.
        keeper: keeps checkpoints; None for none.
        resume: where to go on; None to begin.
        on_steps: told how many more steps are done.

    Returns:
        Seconds spent on training, those before a checkpoint included.

    Raises:
        UserError: the loss is NaN or infinite (the message names the step), or `resume` is of another training.
    """
    started = time.monotonic()
    groups = method.param_groups(ctx, train.lr)
    optimizer = torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, eps=train.eps, weight_decay=0.0)
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    ctx.optimizer = optimizer
    method.optimizer_ready(ctx)  # before a wrapper puts shards in the place of the parameters
    model, prepared = accelerator.prepare(Computed(method, ctx, objective), optimizer)

    crop_rng = private_random(seed, "crops", ctx.task_index)
    pending: list[dict[str, float | Tensor]] = []
    first = 0
    # Processes have examples of their own, so also draws.
    with seeded_torch(seed, "dropout", ctx.task_index, accelerator.process_index):
        if resume is not None:
            restore(resume, method, ctx, optimizer, crop_rng, accelerator)
            first = resume.step
            started -= resume.seconds
        remaining = itertools.islice(positions, first, None)
        for step in range(first, ctx.total_steps):
            ctx.step = step
            factor = lr_factor(step, ctx.total_steps, train.schedule, train.warmup_steps)
            for group, base_lr in zip(optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = base_lr * factor
            together = next(remaining)
            parts = _backward(method, ctx, model, objective, together, crop_rng, accelerator)
            method.after_backward(ctx)
            if train.clip is not None:
                accelerator.clip_grad_norm_(model.parameters(), train.clip)
            prepared.step()
            if not prepared.step_was_skipped:
                method.after_step(ctx)
            prepared.zero_grad()

            about = {"lr": train.lr * factor, **method.train_log(ctx)}
            pending.append({"step": step, "examples": len(together), **parts, **about})
            done = step + 1
            due = done < ctx.total_steps and keeper is not None and keeper.due(done)
            if due or len(pending) == FLUSH_EVERY or done == ctx.total_steps:
                on_steps(len(pending))
                _flush(pending, log)
            if due:
                assert keeper is not None
                seconds = time.monotonic() - started
                keeper.save(capture(done, seconds, method, ctx, optimizer, crop_rng, accelerator), log)
    accelerator.free_memory(model, prepared)
    return time.monotonic() - started


def _backward(
    method: Method,
    ctx: TaskContext,
    model: nn.Module,
    objective: Objective,
    positions: list[int],
    rng: random.Random,
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    """Gradients of the global batch, of which this process computes its share; the loss and its parts, detached."""
    rank, processes = accelerator.process_index, accelerator.num_processes
    shares = objective.micro_batches(positions, rng, rank, processes)
    parts: dict[str, Tensor] = {}
    batch: Batch | None = next(shares)
    while batch is not None:
        following = next(shares, None)
        last = following is None
        # Gradients are exchanged once per step, after the last part; DeepSpeed also takes the step there.
        accelerator.sync_gradients = last
        with nullcontext() if last else accelerator.no_sync(model):
            with accelerator.autocast():
                losses = model(batch)
            if last and (penalty := method.penalty(ctx)) is not None:
                losses |= {"loss": losses["loss"] + penalty, "penalty": penalty.detach()}
            accelerator.backward(losses["loss"])
        for name, value in losses.items():
            parts[name] = parts[name] + value.detach() if name in parts else value.detach()
        batch = following
    if processes > 1:
        parts = {name: accelerator.reduce(value, reduction="mean") for name, value in parts.items()}
    return parts


def _flush(pending: list[dict[str, float | Tensor]], log: list[Record]) -> None:
    for record in pending:
        values = {name: value if isinstance(value, int) else float(value) for name, value in record.items()}
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"the loss became {values['loss']} at step {values['step']}; lower train.lr, set train.clip, or use "
                f"train.precision=fp32 (finished tasks are kept, the same command continues with this one)"
            )
        log.append(values)
    pending.clear()
