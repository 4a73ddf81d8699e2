"""Everything that is checked before the first step, and what the run will cost."""

import math
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor

from codyra.engine.config import RunConfig, TrainConfig, model_path
from codyra.engine.progress import Narrator
from codyra.engine.rng import private_random, seeded_torch
from codyra.engine.sharding import SHARDED, set_up_sharding
from codyra.errors import UserError
from codyra.families import AnswerSettings, Family, ImageTextEncoder, Objective, References, load_family
from codyra.methods import Memory, Method, TaskContext, build_method
from codyra.streams import (
    InstructionTask,
    ReferenceData,
    StreamSpec,
    Task,
    build_stream,
    check_images,
    read_reference,
)
from codyra.update import HEAD_FILE, Architecture, TaskUpdate, architecture

SLOW_STEP_SECONDS = 5.0

AnyTask = Task | InstructionTask


@dataclass(frozen=True)
class Plan:
    """A run that passed every check."""

    config: RunConfig
    family: Family
    tasks: Sequence[AnyTask]
    method: Method
    target_modules: list[str]
    full_parameters: list[str]
    base: dict[str, Tensor]
    """Weights of the base model that an update may change, on the CPU."""
    accelerator: Accelerator
    guard_task: AnyTask | None
    """The held-out set of `guard:`."""
    architecture: Architecture
    """Modules and parameters of the network before any method touched it."""
    reference_data: ReferenceData | None = None
    """What the user supplied beside the tasks, for methods that need it."""
    reference: References | None = None
    """The same as the model reads it."""

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def num_steps(self, task_index: int) -> int:
        """Optimizer steps of a task; 0 for a method that trains nothing."""
        task = self.tasks[task_index]
        return self.config.num_steps(task.name, len(task.train)) if self.method.trains else 0

    def start_objective(self, task_index: int) -> Objective:
        """What a task trains on."""
        return self.family.start_task(
            self.tasks[task_index],
            self.tasks[:task_index],
            text_loss=self.config.method.text_loss,
            micro_batch_size=self.config.train.micro_batch_size,
        )

    def num_trainable(self) -> int:
        """Parameters that a task trains; the same for all tasks."""
        if not self.method.trains:
            return 0
        ctx = self.context(0)
        with seeded_torch(0):
            self.method.before_task(ctx)
        count = ctx.num_trained()
        self.method.adapter.discard(ctx)
        return count

    def context(
        self, task_index: int, previous: TaskUpdate | None = None, memory: Memory | None = None
    ) -> TaskContext:
        """What the method gets to see around a task.

        Args:
            previous, memory: what the task before left behind, and what the method kept of all before.
        """
        return TaskContext(
            net=self.family.net,
            target_modules=self.target_modules,
            full_parameters=self.full_parameters,
            task_index=task_index,
            total_steps=self.num_steps(task_index),
            previous=previous,
            base=self.base,
            memory=Memory() if memory is None else memory,
            num_tasks=len(self.tasks) if self.method.declared.needs_number_of_tasks else None,
            batch_size=self.config.train.micro_batch_size or self.config.train.batch_size,
            make_data=self.start_objective,
            seed=str(self.config.seed),
            reference=self.reference,
        )


@dataclass(frozen=True)
class Estimate:
    """What a run will cost, from one measured training step and one scored batch per task."""

    seconds: float
    memory_bytes: int
    disk_bytes: int


def make_plan(config: RunConfig, stored_shots: dict[str, dict[str, Any]], narrator: Narrator) -> Plan:
    """Load the model and the data and check all of it: files, images, prompts, targets, the method's options.

    Raises:
        UserError: one line for the first thing that is wrong.
    """
    accelerator = make_accelerator(config.train)
    method = build_method(config.method)
    family = load_family(model_path(config), answer_settings(config))
    _check_method(method, family, config, accelerator)
    if (Path(model_path(config).name) / HEAD_FILE).is_file():
        narrator.say(
            f"model.name: {config.model.name} has a head ({HEAD_FILE}); a run starts from its network alone"
        )
    if family.modality != "answers" and accelerator.distributed_type in SHARDED:
        raise UserError(
            f"FSDP and DeepSpeed are for causal language models; a {family.model_type} model trains with the config of "
            "accelerate that has distributed_type: MULTI_GPU"
        )
    build = partial(
        build_stream,
        kind="answers" if family.modality == "answers" else "classes",
        seed=config.seed,
        default_prompt=family.default_prompt,
        data_dir=Path(config.data_dir) if config.data_dir is not None else None,
        root=Path(config.root),
    )
    tasks = build(config.stream, stored_shots=stored_shots)
    guarded = build(_guard_stream(config)) if config.guard is not None else []
    family.check([*tasks, *guarded])
    reference_data = _read_reference(config) if method.declared.needs_reference_data else None
    targets = family.target_modules(method.targets) if method.targets is not None else []
    full_parameters = family.full_parameters()
    touched = method.adapter.touched(targets, full_parameters)
    quantized = _quantize(family, method, config, accelerator, narrator)
    # Copies even on the CPU: the network's own tensors are about to be trained and overwritten.
    base = {
        name: quantized[name]
        if name in quantized
        else family.net.get_parameter(name).detach().to("cpu", copy=True)
        for name in touched
    }
    guard_task = guarded[0] if guarded else None
    reference = None
    if reference_data is not None:
        assert isinstance(family, ImageTextEncoder), "pieces that need reference data are for images"
        reference = family.references(reference_data.texts.inputs, reference_data.images.inputs)
    plan = Plan(
        *(config, family, tasks, method, targets, full_parameters, base, accelerator, guard_task),
        architecture=architecture(family.net),
        reference_data=reference_data,
        reference=reference,
    )
    for notice in _check_methods_options(plan):
        narrator.say(notice)
    read = [*tasks, *guarded]
    num_examples = sum(len(task.test) for task in read) + sum(len(task.train) for task in tasks)
    num_examples += len(reference_data.images) if reference_data is not None else 0
    with narrator.work(f"checking {family.modality.removesuffix('s')}s", num_examples) as tell:
        family.prepare(read, tell, narrator.say)
        for task in tasks:  # a guard's one split stands in for both, which would be noted
            if isinstance(task, InstructionTask):
                for note in task.notes:
                    narrator.say(f"{task.name}: {note}")
        check_images([task.train for task in tasks if isinstance(task, Task)], tell)
        if reference_data is not None:
            check_images([reference_data.images], tell)
    family.to(accelerator.device)
    return plan


def _check_method(method: Method, family: Family, config: RunConfig, accelerator: Accelerator) -> None:
    """Refuse what a method cannot do with.

    Raises:
        UserError: the model, weights that are quantised or sharded, or a guard.
    """
    kinds = {"image": "images", "text": "texts", "answers": "prompts to be answered"}
    common = frozenset.intersection(*(piece.modalities for piece in method.pieces))
    if family.modality not in common:
        able = " or ".join(kinds[kind] for kind in kinds if kind in common)
        raise UserError(
            f"method {method.name} is for models of {able}; a {family.model_type} model reads "
            f"{kinds[family.modality]}: choose another method or model"
        )
    if accelerator.distributed_type in SHARDED and not all(piece.sharded for piece in method.pieces):
        raise UserError(
            f"method {method.name} needs all weights and gradients on every process; train it without FSDP and "
            "DeepSpeed, with the config of accelerate that has distributed_type: MULTI_GPU"
        )
    if config.model.quantize is not None and not all(piece.quantized for piece in method.pieces):
        raise UserError(
            f"method {method.name} cannot train beside weights that model.quantize holds in {config.model.quantize}; "
            "use a method with plain adapters (codyra, lora), or set model.quantize to null"
        )
    if config.guard is not None and method.declared.stores not in ("none", "weights"):
        raise UserError(
            f"guard: method {method.name} keeps {method.declared.stores} of an update that the guard may refuse or "
            "shrink; use a method that stores none, or set guard to null"
        )


def _read_reference(config: RunConfig) -> ReferenceData:
    """The images and texts that the method's options name.

    Raises:
        UserError: one is not given, or cannot be read.
    """
    images, texts = (getattr(config.method, f"reference_{kind}") for kind in ("images", "texts"))
    if images is None or texts is None:
        raise UserError(
            f"method {config.method.name} needs data beside the tasks: set method.reference_images to a folder of "
            "images and method.reference_texts to a UTF-8 file with one caption per line"
        )
    data_dir = Path(config.data_dir) if config.data_dir is not None else None
    return read_reference(images, texts, data_dir, Path(config.root))


def _quantize(
    family: Family, method: Method, config: RunConfig, accelerator: Accelerator, narrator: Narrator
) -> dict[str, Tensor]:
    """Quantise the network if the config says so; the weights that it has let go of, by name.

    Raises:
        UserError: the model or the method cannot do with quantised weights.
    """
    kind = config.model.quantize
    if kind is None:
        return {}
    weights = family.quantize(kind, accelerator.device)
    narrator.say(
        f"model.quantize: tasks are learnt and scored on weights in {kind}; updates are merged into those in "
        f"{config.model.dtype}, of which checkouts are made"
    )
    return weights


def _guard_stream(config: RunConfig) -> StreamSpec:
    """The held-out set as a stream of one task, answered as those of the run are."""
    assert config.guard is not None
    stream = config.stream
    own = {**stream.answer_rules(), "generation": "greedy", "accuracy": stream.accuracy}
    return StreamSpec.model_validate({**own, "tasks": [config.guard.task]})


def answer_settings(config: RunConfig) -> AnswerSettings:
    """What the `stream:` section says of prompts and answers."""
    return AnswerSettings(**config.stream.answer_rules(), seed=config.seed)


def make_accelerator(train: TrainConfig) -> Accelerator:
    """The processes, device and precision of this run.

    Raises:
        UserError: fp16 without a GPU, processes that do not find each other, or a config of accelerate under which
            training would go wrong.
    """
    if train.precision == "fp16" and not torch.cuda.is_available():
        raise UserError("train.precision: fp16 needs a GPU; use bf16 or fp32")
    # accelerate keeps the first precision of the process for ever; a second run may want another one.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        # Left to itself accelerate looks for GPUs, finds none, and takes every process for the only one.
        cpu=not torch.accelerator.is_available(),
        mixed_precision={"fp32": "no"}.get(train.precision, train.precision),
        # Parts of a batch are weighed by what they count; a number of them in accelerate's config divides nothing.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise UserError(
            f"{launched} processes were launched, but this one finds {accelerator.num_processes}; set "
            "ACCELERATE_USE_CPU=1 to run them on the CPU"
        )
    set_up_sharding(accelerator, train)
    return accelerator


def _check_methods_options(plan: Plan) -> list[str]:
    """Attach, build the optimizer, detach: what tuner and peft refuse is refused before anything is trained.

    Returns what the method has to say of its options, each line once.
    """
    if not plan.method.trains:
        return []
    notices: dict[str, None] = {}
    for task_index in sorted({plan.num_steps(index): index for index in range(len(plan.tasks))}.values()):
        ctx = plan.context(task_index)
        try:
            with seeded_torch(0):
                plan.method.before_task(ctx)
                train = plan.config.train
                groups = plan.method.param_groups(ctx, train.lr)
                ctx.optimizer = torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, eps=train.eps)
                plan.method.optimizer_ready(ctx)
        except ValueError as error:
            raise UserError(f"method: task {plan.tasks[task_index].name}: {error}") from None
        notices |= dict.fromkeys(plan.method.notices(ctx))
        plan.method.adapter.discard(ctx)
    return list(notices)


def estimate(plan: Plan, tasks_to_do: int) -> Estimate:
    """Measure one training step of the costliest task, and scoring of one batch of every task.

    A run that was measured and one that was not are the same run.
    """
    to_do = range(len(plan.tasks) - tasks_to_do, len(plan.tasks))
    if plan.method.trains:
        step = step_cost(plan, _costliest(plan))
    else:
        step = StepCost(0.0, 0, _kept_bytes(plan, plan.context(0)))
    score_seconds = scoring_cost(plan)
    rows = 1 + (tasks_to_do if plan.method.learns else 0)
    seconds = sum(map(plan.num_steps, to_do)) * step.seconds + rows * score_seconds
    itemsize = 4
    parameters = itemsize * step.num_trainable
    moments = 2 * parameters
    return Estimate(
        seconds=seconds / plan.accelerator.num_processes,  # which share batches, in training and in scoring
        memory_bytes=peak_memory() + moments,
        # Parameters and moments in a checkpoint, and while it is replaced in two of them.
        disk_bytes=tasks_to_do * parameters
        + sum(step.kept_bytes[index] for index in to_do)
        + 2 * (parameters + moments)
        + 2_000_000,
    )


@dataclass(frozen=True)
class StepCost:
    """Of a training step the seconds and the trained parameters; of every task the most that the method keeps of it."""

    seconds: float
    num_trainable: int
    kept_bytes: tuple[int, ...]


def step_cost(plan: Plan, task_index: int) -> StepCost:
    """What a training step of this task takes.

    The step trains throw-away adapters, draws from generators of its own and takes no optimizer step.
    """
    train, task, ctx = plan.config.train, plan.tasks[task_index], plan.context(task_index)
    with seeded_torch(0):
        plan.method.before_task(ctx)
        num_trainable = ctx.num_trained()
        kept = _kept_bytes(plan, ctx)
        positions = list(range(len(task.train)))[: train.batch_size]
        timings: list[float] = []
        with plan.family.checkpointed_activations(train.gradient_checkpointing):
            while len(timings) < 2 and sum(timings) < SLOW_STEP_SECONDS:
                timings.append(_time_step(plan, ctx, positions))
    plan.method.adapter.discard(ctx)
    return StepCost(min(timings), num_trainable, kept)


def _kept_bytes(plan: Plan, ctx: TaskContext) -> tuple[int, ...]:
    return tuple(
        sum(piece.kept_bytes(ctx, index) for piece in plan.method.pieces) for index in range(len(plan.tasks))
    )


def _costliest(plan: Plan) -> int:
    """Index of the task whose steps cost most: that with most classes, or any where there are none."""
    classes = [len(task.class_names) if isinstance(task, Task) else 0 for task in plan.tasks]
    return classes.index(max(classes))


def _time_step(plan: Plan, ctx: TaskContext, positions: list[int]) -> float:
    """Seconds for the gradients of a batch, extrapolated from its first part; this process alone.

    What the method adds to the loss of a batch is in it, what it does once per step is not.
    """
    started = time.perf_counter()
    batch = next(ctx.data.micro_batches(positions, private_random(0), 0, 1))
    with plan.accelerator.autocast():
        outputs = ctx.data.outputs(batch)
        loss = ctx.data.loss(batch, outputs)["loss"]
        if (term := plan.method.batch_loss(ctx, batch, outputs)) is not None:
            loss = loss + term
    loss.backward()
    loss.item()  # waits for an accelerator
    size = plan.config.train.micro_batch_size or len(positions)
    return (time.perf_counter() - started) * math.ceil(len(positions) / size)


def scoring_cost(plan: Plan) -> float:
    """Seconds to score all test sets once, extrapolated from a batch of every task.

    Where tasks share their prompts these are measured apart, with one example of each.
    """
    size = plan.config.train.eval_batch_size
    seconds = _time_scoring(plan, plan.tasks, 1) if plan.family.pooled else 0.0
    for task in plan.tasks:
        measured, batch = min(size, len(task.test)), _time_scoring(plan, [task], size)
        if plan.family.pooled:
            one = _time_scoring(plan, [task], 1)
            seconds += max(0.0, batch - one) / max(1, measured - 1) * len(task.test)
        else:  # a written answer takes as long as its tokens do, whatever else is in the batch
            seconds += batch * math.ceil(len(task.test) / measured)
    return seconds


def _time_scoring(plan: Plan, tasks: Sequence[AnyTask], count: int) -> float:
    """Seconds to score the first `count` test examples of these tasks."""
    train, started = plan.config.train, time.perf_counter()
    plan.family.score(tasks, batch_size=train.eval_batch_size, ties=plan.config.stream.ties, limit=count)
    return time.perf_counter() - started


def peak_memory() -> int:
    """Bytes: the most this process has held so far, on the accelerator where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        # Linux hands ru_maxrss on to what a process starts; this is of the program alone.
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Refuse to start what cannot be finished.

    Raises:
        UserError: less is free than the run will write.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise UserError(
            f"{folder}: needs about {needed_bytes / 1e6:.0f} MB of disk, {free / 1e6:.0f} MB are free; "
            f"free some or choose another --out"
        )
