"""The loop: for every task train, keep the update, merge, score every task, write it down."""

import os
import platform
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codyra.engine import results
from codyra.engine.config import RunConfig, load_config, model_path
from codyra.engine.folder import Row, RunFolder
from codyra.engine.folder_reader import read_run
from codyra.engine.plan import Estimate, Plan, check_disk, estimate, make_plan, peak_memory
from codyra.engine.progress import Narrator, duration, size
from codyra.engine.rng import seeded_torch
from codyra.engine.trainer import train_task
from codyra.errors import UserError
from codyra.families import load_family
from codyra.methods import build_method
from codyra.report import render
from codyra.streams import shared_prompts
from codyra.update import TaskUpdate, compose, rounding_loss, write_weights

VERSIONED = ("codyra", "torch", "transformers", "peft", "accelerate", "datasets", "numpy", "pillow")


class Run:
    """A run folder, read: what was measured and what each task left behind."""

    def __init__(self, folder: Path) -> None:
        self._folder = RunFolder(folder)
        self._view = read_run(folder)

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return self._folder.path

    @property
    def task_names(self) -> list[str]:
        """Tasks in the order they are learnt."""
        return list(self._view.accuracy.tasks)

    @property
    def metrics(self) -> dict[str, Any]:
        """metrics.json; empty while the run is unfinished."""
        return dict(self._folder.read_json("metrics.json"))

    @property
    def accuracy(self) -> list[results.Cells]:
        """R[i][j], percent: score of task j after task i, as `codyra.metrics` takes it (no zero-shot row)."""
        return [list(row) for row in self._view.accuracy.rows]

    @property
    def zero_shot(self) -> results.Cells:
        """Score of every task before the first was learnt, percent."""
        return list(self._view.accuracy.zero_shot or ())

    @property
    def updates(self) -> list[TaskUpdate]:
        """One per finished task, loaded from disk at every call."""
        names = self.task_names
        return [
            self._folder.read_update(index, names[index])
            for index in range(self._folder.finished_tasks(names))
        ]

    def model(self, after: int | None = None) -> nn.Module:
        """The plain transformers network after the first `after` tasks (all finished ones by default; 0 = base).

        Raises:
            UserError: fewer tasks are finished.
        """
        updates = self.updates
        if after is None:
            after = len(updates)
        if not 0 <= after <= len(updates):
            raise UserError(
                f"{self.folder}: {len(updates)} tasks are finished; after={after} is not among 0..{len(updates)}"
            )
        config = load_config(self.folder / "config.yaml")
        family, method = load_family(model_path(config)), build_method(config.method)
        targets = family.target_modules(method.targets) if method.targets is not None else []
        touched = method.adapter.touched(targets, family.full_parameters())
        base = {name: family.net.get_parameter(name).detach().clone() for name in touched}
        write_weights(family.net, compose(family.net, base, updates[:after]))
        return family.net


def default_out(config: RunConfig) -> Path:
    """runs/<config name>-<n>, n the first number that is not taken."""
    number = 1
    while (Path("runs") / f"{config.name}-{number}").exists():
        number += 1
    return Path("runs") / f"{config.name}-{number}"


def run(
    config: str | Path | Mapping[str, Any] | RunConfig,
    out: str | Path | None = None,
    *,
    overrides: Iterable[str] = (),
    narrator: Narrator | None = None,
) -> Run:
    """Learn a stream of tasks, or continue where an unfinished run in `out` stopped, or show a finished one.

    Args:
        config: YAML file, preset name, mapping, or RunConfig.
        out: the run folder; runs/<config name>-<n> by default.
        overrides: `a.b=c` strings, as --set takes them.
        narrator: who tells what is going on; prints by default.

    Raises:
        UserError: anything the caller must change; finished tasks are kept.
    """
    resolved = load_config(config, overrides)
    folder = RunFolder(Path(out) if out is not None else default_out(resolved))
    narrator = narrator or Narrator()
    folder.check_config(resolved)
    if folder.is_finished():
        narrator.say(f"{folder.path}: this run is finished")
        return Run(folder.path)
    plan = make_plan(resolved, _stored_shots(folder, resolved), narrator)
    if not plan.accelerator.is_main_process:
        narrator = Narrator(quiet=True)
    done = folder.finished_tasks(plan.task_names)
    say_estimate(plan, folder, estimate(plan, len(plan.tasks) - done), narrator)
    _Loop(plan, folder, narrator).go(done)
    return Run(folder.path)


def dry_run(config: RunConfig, out: Path | None, narrator: Narrator) -> None:
    """Every check of `run` and its estimate; nothing is written."""
    folder = RunFolder(out if out is not None else default_out(config))
    folder.check_config(config)
    plan = make_plan(config, _stored_shots(folder, config), narrator)
    done = folder.finished_tasks(plan.task_names)
    say_estimate(plan, folder, estimate(plan, len(plan.tasks) - done), narrator)
    narrator.say("dry run: every check passed, nothing was written")


def say_estimate(plan: Plan, folder: RunFolder, cost: Estimate, narrator: Narrator) -> None:
    """Tell what is about to happen and refuse what the disk cannot hold."""
    check_disk(folder.path, cost.disk_bytes)
    steps = sorted({plan.num_steps(index) for index in range(len(plan.tasks))})
    budget = f"{steps[0]} steps" if len(steps) == 1 else f"{steps[0]}-{steps[-1]} steps"
    narrator.say(
        f"{plan.method.name} on {plan.config.model.name}: {len(plan.tasks)} tasks x {budget}, batch "
        f"{plan.config.train.batch_size}, on {plan.accelerator.device}; about {duration(cost.seconds)}, "
        f"{size(cost.memory_bytes)} of memory, {size(cost.disk_bytes)} of disk -> {folder.path}"
    )


def _stored_shots(folder: RunFolder, config: RunConfig) -> dict[str, dict[str, Any]]:
    """Few-shot choices of an earlier attempt at this run; they win over the generator."""
    spec = config.stream
    names = [task.name for task in spec.tasks if spec.only is None or task.name in spec.only]
    stored = {
        name: folder.read_json(folder.task_folder(index, name) / "shots.json")
        for index, name in enumerate(names)
    }
    return {name: shots for name, shots in stored.items() if shots}


class _Loop:
    """The state of one `run` call."""

    def __init__(self, plan: Plan, folder: RunFolder, narrator: Narrator) -> None:
        self.plan = plan
        self.folder = folder
        self.narrator = narrator
        self.main = plan.accelerator.is_main_process
        self.manifest = self._manifest()

    def go(self, done: int) -> None:
        if self.folder.exists():
            self._check_nothing_changed()
        elif self.main:
            self.folder.start(self.plan.config, self.manifest)
        if self.main and not self.folder.read_json("samples.json", list):
            previews = {task.name: (task.prompt, self.plan.family.preview(task)) for task in self.plan.tasks}
            self.folder.write_labels(self.plan.config.stream.label_space, self.plan.tasks)
            self.folder.write_samples(previews)
        if done:
            self.narrator.say(f"continuing after task {done} ({self.plan.task_names[done - 1]})")
        row = self._zero_shot()
        for task_index in range(done, len(self.plan.tasks)):
            row = self._learn(task_index, row)
        if self.main:
            self._finish()
        self.plan.accelerator.wait_for_everyone()

    # --- one task --------------------------------------------------------------------------------------------

    def _learn(self, task_index: int, row_before: Row) -> Row:
        plan, task = self.plan, self.plan.tasks[task_index]
        if self.main:
            self.folder.clear_task(task_index, task.name)
            self.folder.write_json(self.folder.task_folder(task_index, task.name) / "shots.json", task.shots)
        started = time.perf_counter()
        update, num_trainable = self._train(task_index)
        trained = time.perf_counter()
        if self.main:
            model = plan.config.model
            self.folder.write_update(task_index, task.name, update, model.name, model.revision)
        plan.accelerator.wait_for_everyone()
        drift = _distance(self._put_weights(task_index + 1), plan.base)
        merged = time.perf_counter()
        # A task that changed nothing leaves a model that was scored already.
        row = row_before if update.no_change else self._score(f"task {task_index + 1} ({task.name}): scoring")
        scored = time.perf_counter()
        if self.main:
            self._write_down(
                task_index, row, drift, num_trainable, (trained - started, merged - trained, scored - merged)
            )
        plan.accelerator.wait_for_everyone()
        cells = results.cells(row, plan.config.stream.label_space)
        rank = _mean_rank(update)
        self.narrator.say(
            f"task {task_index + 1}/{len(plan.tasks)} {task.name}: {cells[task_index]:.1f} %, mean of all tasks "
            f"{sum(cell for cell in cells if cell is not None) / len(cells):.1f} %"
            + (f", {rank:.1f} ranks per module kept" if rank is not None else "")
            + f" ({duration(scored - started)})"
        )
        return row

    def _train(self, task_index: int) -> tuple[TaskUpdate, int]:
        """The task's update and the number of parameters trained; the network is plain again afterwards."""
        plan, task, config = self.plan, self.plan.tasks[task_index], self.plan.config
        previous = self._update(task_index - 1) if task_index else None
        ctx = plan.context(task_index, previous)
        if not plan.method.trains:
            return plan.method.after_task(ctx), 0
        self._put_weights(task_index, starting=True)
        log: list[dict[str, float]] = []
        try:
            with seeded_torch(config.seed, "adapters", task_index):
                plan.method.before_task(ctx)
            num_trainable = sum(p.numel() for p in ctx.net.parameters() if p.requires_grad)
            num_earlier = sum(len(earlier.class_names) for earlier in plan.tasks[:task_index])
            objective = plan.family.start_task(task, num_earlier, config.method.text_loss)
            label = f"task {task_index + 1}/{len(plan.tasks)} {task.name}"
            with self.narrator.work(label, ctx.total_steps) as tell:
                num_examples = len(task.train.labels)
                train_task(
                    plan.method,
                    ctx,
                    objective,
                    num_examples,
                    config.train,
                    config.seed,
                    plan.accelerator,
                    log,
                    tell,
                )
            return plan.method.after_task(ctx), num_trainable
        finally:
            if self.main:
                self.folder.write_log(task_index, task.name, log)

    def _update(self, task_index: int) -> TaskUpdate:
        return self.folder.read_update(task_index, self.plan.task_names[task_index])

    def _put_weights(self, num_tasks: int, starting: bool = False) -> dict[str, Tensor]:
        """Re-compute the network from the base model and the first `num_tasks` updates, read from the folder."""
        plan = self.plan
        updates: Iterable[TaskUpdate] = (self._update(index) for index in range(num_tasks))
        if starting:
            updates = plan.method.start_from(updates)
        weights = compose(plan.family.net, plan.base, updates)
        write_weights(plan.family.net, weights)
        return weights

    # --- scoring and writing ---------------------------------------------------------------------------------

    def _zero_shot(self) -> Row:
        row = self.folder.read_row("zero_shot.json")
        if row is not None:
            return self.folder.read_row(self._last_row_file()) or row
        started = time.perf_counter()
        row = self._score("zero-shot: scoring")
        if self.main:
            self.manifest["timing"]["zero_shot_seconds"] = time.perf_counter() - started
            self.folder.write_json("manifest.json", self.manifest)
            self.folder.write_row("zero_shot.json", "zero-shot", row)
            self._write_matrices()
        cells = results.cells(row, self.plan.config.stream.label_space)
        shown = ", ".join(
            f"{name} {cell:.1f}" for name, cell in zip(self.plan.task_names, cells, strict=True)
        )
        self.narrator.say(f"zero-shot: {shown} %")
        return row

    def _last_row_file(self) -> Path:
        done = self.folder.finished_tasks(self.plan.task_names)
        if not done:
            return Path("zero_shot.json")
        return self.folder.task_folder(done - 1, self.plan.task_names[done - 1]) / "scores.json"

    def _score(self, label: str) -> Row:
        plan = self.plan
        num_examples = sum(len(task.test.labels) for task in plan.tasks)
        with self.narrator.work(label, num_examples) as tell:
            return list(
                plan.family.score(
                    plan.tasks,
                    batch_size=plan.config.train.eval_batch_size,
                    ties=plan.config.stream.ties,
                    progress=tell,
                )
            )

    def _rows(self) -> tuple[Row, list[Row]]:
        names = self.plan.task_names
        rows = []
        for index in range(self.folder.finished_tasks(names)):
            row = self.folder.read_row(self.folder.task_folder(index, names[index]) / "scores.json")
            assert row is not None
            rows.append(row)
        zero_shot = self.folder.read_row("zero_shot.json")
        assert zero_shot is not None
        return zero_shot, rows

    def _write_matrices(self) -> None:
        zero_shot, rows = self._rows()
        named = [("zero-shot", zero_shot), *zip(self.plan.task_names, rows, strict=False)]
        label_space = self.plan.config.stream.label_space
        for file, space in (("accuracy.csv", label_space), ("accuracy_task.csv", "task")):
            table = [(after, results.cells(row, space)) for after, row in named]
            self.folder.write_matrix(file, self.plan.task_names, table)

    def _write_down(
        self, task_index: int, row: Row, drift: float, num_trainable: int, seconds: tuple[float, float, float]
    ) -> None:
        plan, name = self.plan, self.plan.task_names[task_index]
        self.manifest["method"]["trainable_parameters"] = num_trainable
        train_seconds, merge_seconds, score_seconds = seconds
        self.manifest["timing"]["tasks"].append(
            {
                "name": name,
                "train_seconds": train_seconds,
                "merge_seconds": merge_seconds,
                "score_seconds": score_seconds,
            }
        )
        self.manifest["peak_memory_bytes"] = max(self.manifest["peak_memory_bytes"], peak_memory())
        updates = (self._update(index) for index in range(task_index + 1))
        self.manifest["rounding_loss"].append(rounding_loss(plan.family.net, plan.base, updates))
        # Which tasks' figures stand in the manifest is decided by their scores, so those are written after it.
        self.folder.write_json("manifest.json", self.manifest)
        self.folder.write_row(
            self.folder.task_folder(task_index, name) / "scores.json", name, row, drift=drift
        )
        self._write_matrices()

    def _finish(self) -> None:
        plan = self.plan
        self._write_matrices()  # a run that was stopped right after its last scores has not written them
        zero_shot, rows = self._rows()
        norms, ranks, survival, drift = [], [], [], []
        for index, name in enumerate(plan.task_names):
            update = self._update(index)
            norms.append(update.norm())
            ranks.append(_mean_rank(update))
            survival.append(update.survival_auc)
            drift.append(self.folder.read_drift(self.folder.task_folder(index, name) / "scores.json"))
        self.folder.write_json(
            "metrics.json",
            results.summarise(
                plan.task_names,
                zero_shot,
                rows,
                plan.config.stream.label_space,
                update_norm=norms,
                drift=drift,
                mean_rank=ranks,
                survival_auc=survival,
                trainable_parameters=self.manifest["method"]["trainable_parameters"],
            ),
        )
        self.manifest["status"] = "finished"
        self.manifest["timing"]["finished"] = _now()
        self.folder.write_json("manifest.json", self.manifest)
        self.folder.write_text("report.html", render([read_run(self.folder.path)]))

    # --- manifest --------------------------------------------------------------------------------------------

    def _check_nothing_changed(self) -> None:
        """Continue only on the base model and the data the run was started with."""
        stored = self.folder.read_json("manifest.json")
        done = self.folder.finished_tasks(self.plan.task_names)
        if not {"base", "data", "timing", "rounding_loss"} <= stored.keys():
            raise UserError(
                f"{self.folder.path / 'manifest.json'}: is damaged or missing; restore it or start anew"
            )
        if stored["base"]["sha256"] != self.manifest["base"]["sha256"]:
            raise UserError(
                f"{self.folder.path}: {self.plan.config.model.name} has other weights than when this run began"
            )
        for before, now in zip(stored["data"], self.manifest["data"], strict=True):
            if before["fingerprint"] != now["fingerprint"]:
                raise UserError(
                    f"{self.folder.path}: the data of task {now['task']} ({now['source']}) changed since this run "
                    f"began; restore them or start anew in another --out"
                )
        for section, part in (("timing", "tasks"), ("", "rounding_loss")):
            holder = stored[section] if section else stored
            holder[part] = holder[part][:done]
        self.manifest = {**stored, "versions": self.manifest["versions"], "machine": self.manifest["machine"]}

    def _manifest(self) -> dict[str, Any]:
        plan, method = self.plan, self.plan.method
        return {
            "format": 1,
            "status": "unfinished",
            "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONED}},
            "machine": _machine(),
            "device": str(plan.accelerator.device),
            "threads": torch.get_num_threads(),
            "processes": plan.accelerator.num_processes,
            "seed": plan.config.seed,
            "base": {
                "name": plan.config.model.name,
                "revision": plan.config.model.revision,
                "sha256": plan.family.fingerprint(),
                "parameters": plan.family.num_parameters,
                "model_type": plan.family.model_type,
            },
            "method": {
                "name": method.name,
                "summary": method.summary,
                "source": method.source,
                "stores": method.stores,
                "needs_reference_data": method.needs_reference_data,
                "needs_number_of_tasks": method.needs_number_of_tasks,
                "task_id_at_test": method.task_id_at_test,
                "extra_inference": method.extra_inference,
                "trainable_parameters": 0,
            },
            "data": [
                {
                    "task": task.name,
                    "source": task.source,
                    "fingerprint": task.fingerprint,
                    "train": len(task.train.labels),
                    "test": len(task.test.labels),
                    "classes": len(task.class_names),
                }
                for task in plan.tasks
            ],
            "ties": shared_prompts(plan.tasks),
            "timing": {"started": _now(), "finished": None, "zero_shot_seconds": None, "tasks": []},
            "peak_memory_bytes": 0,
            "rounding_loss": [],
        }


def _mean_rank(update: TaskUpdate) -> float | None:
    """Mean surviving rank over all adapted modules, those without any included."""
    return sum(update.ranks.values()) / len(update.ranks) if update.ranks else None


def _distance(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> float:
    """Frobenius norm of the difference over all of `base`."""
    squares = [(weights[name].double() - base[name].double()).square().sum() for name in base]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    accelerator = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.system()} {platform.machine()}, {cores} cores, {memory:.0f} GiB{accelerator}"
