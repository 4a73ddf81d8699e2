"""What tests of distillation share: a tiny model with a method on it, ready for its first step."""

import random
from pathlib import Path

import torch

from codyra.families import AnswerSettings, ModelSpec, load_family
from codyra.methods import TaskContext, build_method, parse_options
from families.answer_tasks import quiz
from families.tiny_encoders import SAVERS, task_for
from families.tiny_lms import save_llama

CLASSES = ("red", "green", "blue", "grey")
KINDS = (*SAVERS, "llama")


def load(kind: str, folder: Path, dtype: str = "float32"):
    save = SAVERS.get(kind, save_llama)
    return load_family(ModelSpec(name=str(save(folder / kind)), dtype=dtype), AnswerSettings())


def start(family, options, reference=None, task_index=0, steps=20, seed="3", name="task"):
    """(method, context) of a task after everything that comes before the first step."""
    method = build_method(parse_options(options))
    task = quiz() if family.modality == "answers" else task_for(family, name, CLASSES)
    targets = family.target_modules(method.targets) if method.targets is not None else []
    touched = method.adapter.touched(targets, family.full_parameters())
    ctx = TaskContext(
        family.net,
        targets,
        family.full_parameters(),
        task_index,
        steps,
        None,
        base={name: family.net.get_parameter(name).detach().clone() for name in touched},
        batch_size=4,
        make_data=lambda index: family.start_task(task, (), text_loss="current", micro_batch_size=None),
        seed=seed,
        reference=reference,
    )
    torch.manual_seed(0)
    method.before_task(ctx)
    method.collect(ctx)
    ctx.optimizer = torch.optim.AdamW(method.param_groups(ctx, 0.01))
    method.optimizer_ready(ctx)
    return method, ctx


def first_batch(ctx):
    return next(ctx.data.micro_batches([0, 2], random.Random(1), 0, 1))


def method_loss(method, ctx, batch):
    return method.batch_loss(ctx, batch, ctx.data.outputs(batch))


@torch.no_grad()
def move(ctx, size=0.05):
    """Change everything that is trained."""
    generator = torch.Generator().manual_seed(5)
    for weight in ctx.trained().values():
        weight.add_(size * torch.randn(weight.shape, generator=generator).to(weight))


def gradients(loss, ctx):
    trained = ctx.trained()
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {
        name: torch.zeros_like(weight) if gradient is None else gradient
        for (name, weight), gradient in zip(trained.items(), found, strict=True)
    }
