"""One task, trained: the optimizer loop, and the adapter put on before it and taken off after it."""

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from codyra.engine.checkpoint import Checkpoint, Keeper, Record, capture, restore
from codyra.engine.config import TrainConfig
from codyra.engine.plan import Plan
from codyra.engine.progress import Narrator
from codyra.engine.rng import private_random, seeded_torch
from codyra.errors import UserError
from codyra.families import TaskObjective, gather_features, share_of_batch
from codyra.families.dual_encoder import Batch, Gather
from codyra.methods import Method, TaskContext
from codyra.update import TaskUpdate

FLUSH_EVERY = 10
"""Steps between two looks at the losses; reading them earlier would make an accelerator wait in every step."""


class Objective(nn.Module):
    """The network with its loss as `forward`, which is what accelerate's wrappers expect to call."""

    def __init__(self, net: nn.Module, objective: TaskObjective) -> None:
        super().__init__()
        self.net = net
        self.objective = objective

    def forward(self, batch: Batch, gather: Gather | None) -> dict[str, Tensor]:
        return self.objective.loss(batch, gather=gather)


def batches(num_examples: int, batch_size: int, rng: random.Random) -> Iterator[list[int]]:
    """Positions of endless batches: a new shuffle per epoch, the last batch of an epoch smaller, none dropped."""
    while True:
        order = list(range(num_examples))
        rng.shuffle(order)
        for start in range(0, num_examples, batch_size):
            yield order[start : start + batch_size]


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
) -> tuple[TaskUpdate, float]:
    """Train the task of `ctx` on the weights that the network has.

    Args:
        label: what the narrator calls this.
        log, keeper, resume: as for `train_task`.

    Returns:
        The task's update and the seconds of training; the network is plain again, with the weights from before.

    Raises:
        UserError: as `train_task`.
    """
    config, task = plan.config, plan.tasks[ctx.task_index]
    with seeded_torch(config.seed, "adapters", ctx.task_index):
        plan.method.before_task(ctx)
    num_earlier = sum(len(earlier.class_names) for earlier in plan.tasks[: ctx.task_index])
    objective = plan.family.start_task(task, num_earlier, config.method.text_loss)
    with narrator.work(label, ctx.total_steps, resume.step if resume is not None else 0) as tell:
        seconds = train_task(
            plan.method,
            ctx,
            objective,
            len(task.train.labels),
            config.train,
            config.seed,
            plan.accelerator,
            log,
            keeper,
            resume,
            tell,
        )
    return plan.method.after_task(ctx), seconds


def train_task(
    method: Method,
    ctx: TaskContext,
    objective: TaskObjective,
    num_examples: int,
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
    model, prepared = accelerator.prepare(Objective(ctx.net, objective), optimizer)
    ctx.optimizer = prepared
    method.optimizer_ready(ctx)

    batch_rng = private_random(seed, "batches", ctx.task_index)
    crop_rng = private_random(seed, "crops", ctx.task_index)
    pending: list[dict[str, float | Tensor]] = []
    first = 0
    with seeded_torch(seed, "dropout", ctx.task_index):
        if resume is not None:
            restore(resume, method, ctx, optimizer, crop_rng, accelerator)
            first = resume.step
            started -= resume.seconds
        plan = itertools.islice(batches(num_examples, train.batch_size, batch_rng), first, None)
        for step in range(first, ctx.total_steps):
            factor = lr_factor(step, ctx.total_steps, train.schedule, train.warmup_steps)
            for group, base_lr in zip(optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = base_lr * factor
            batch, gather = _share_of(next(plan), objective, crop_rng, accelerator)
            with accelerator.autocast():
                losses = model(batch, gather)
            loss = losses["loss"]
            penalty = method.loss(ctx, batch)
            if penalty is not None:
                loss = loss + penalty
            accelerator.backward(loss)
            method.after_backward(ctx)
            if train.clip is not None:
                accelerator.clip_grad_norm_(model.parameters(), train.clip)
            prepared.step()
            if not prepared.step_was_skipped:
                method.after_step(ctx)
            prepared.zero_grad()

            parts = {name: value.detach() for name, value in losses.items()}
            extra = method.train_log(ctx)
            pending.append({"step": step, **parts, "loss": loss.detach(), "lr": train.lr * factor, **extra})
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


def _share_of(
    positions: list[int], objective: TaskObjective, crop_rng: random.Random, accelerator: Accelerator
) -> tuple[Batch, Gather | None]:
    """This process's part of a global batch, and how the features of all parts come together."""
    # Every process draws the crops of the whole batch, so all of them stay in step.
    batch = objective.batch(positions, crop_rng)
    if accelerator.num_processes == 1:
        return batch, None
    share, sizes = share_of_batch(batch, accelerator.process_index, accelerator.num_processes)
    return share, partial(gather_features, sizes=sizes)


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
