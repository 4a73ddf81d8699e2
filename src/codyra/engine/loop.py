"""The loop: for every task train, keep the update, merge, score every task, write it down."""

import shlex
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

from torch import Tensor

from codyra.engine import results
from codyra.engine.checksums import REWRITTEN
from codyra.engine.derive import write_matrices, write_summary
from codyra.engine.folder import CANDIDATE, DERIVED, TASK_LISTS, Row, RunFolder
from codyra.engine.folder_reader import read_manifest
from codyra.engine.guard import Verdict, judge
from codyra.engine.manifest import continued, new_manifest, now, session, surroundings_changed
from codyra.engine.merged import MergedNetwork
from codyra.engine.models import state_sha256
from codyra.engine.plan import Plan, peak_memory
from codyra.engine.progress import Narrator, count, duration
from codyra.engine.trainer import learn_task
from codyra.errors import GuardRefused, UserError
from codyra.families import Score
from codyra.methods import Memory
from codyra.streams import Task
from codyra.update import Head, TaskUpdate, architecture, distance, rounding_loss

TIMED = ("train_seconds", "method_seconds", "merge_seconds", "score_seconds")
"""Of every task in the manifest; `method_seconds`: what a method does before its first step and after its last."""


class Loop:
    """One run on its way: `go` brings the folder to its end from whatever is there already.

    Raises:
        UserError: base model, data or files changed since the run began.
    """

    def __init__(self, plan: Plan, folder: RunFolder, narrator: Narrator) -> None:
        self.plan = plan
        self.folder = folder
        self.narrator = narrator
        self.main = plan.accelerator.is_main_process
        self.names = plan.task_names
        self.manifest = new_manifest(plan)
        self._memory = Memory()
        self._network = MergedNetwork(plan.family, plan.base, self._update, added=not plan.method.cumulative)
        self.stored: dict[str, Any] | None = None
        if folder.exists():
            read_manifest(folder.path)  # raises what is wrong with it
            self.stored = folder.read_json("manifest.json")
            self.manifest = continued(self.stored, self.manifest, folder.path)
            folder.check_files(self.manifest)
            if changed := surroundings_changed(self.manifest, plan):
                narrator.say(f"not as in the session before: {changed}; the last digits of scores may differ")

    def go(self) -> None:
        """Do what is missing, task by task.

        Raises:
            UserError: training diverged, or a file cannot be read or written.
            GuardRefused: an update was not accepted.
        """
        self._open()
        self._zero_shot()
        for task_index in range(len(self.plan.tasks)):
            started = time.perf_counter()
            done = self._learn(task_index) | self._score_after(task_index)
            if done:
                self._tell(task_index, time.perf_counter() - started)
        if self.main:
            self.manifest["timing"]["finished"] = now()
            write_summary(self.folder, self.names, self.plan.config.stream.label_space, self.manifest)
        self.plan.accelerator.wait_for_everyone()

    def _open(self) -> None:
        """Begin, or go on from what is here."""
        plan, folder = self.plan, self.folder
        done = folder.finished_tasks(self.names)
        self.manifest["sessions"].append(session(plan))
        plan.accelerator.wait_for_everyone()  # all have read before one writes
        if self.main:
            folder.sweep()
            if self.stored is None:
                folder.start(plan.config, self.manifest)
            elif [entry["task"] for entry in self.stored["data"]] != self.names:
                self._make_room(self.stored)
            else:
                folder.write_manifest(self.manifest, before=[*REWRITTEN, "samples/"])
                folder.write_config(plan.config)
            folder.write_tasks(plan.config.stream, plan.tasks)
            folder.write_samples({task.name: (task.prompt, plan.family.preview(task)) for task in plan.tasks})
        if done:
            self.narrator.say(f"continuing after task {done} ({self.names[done - 1]})")
        plan.accelerator.wait_for_everyone()

    def _make_room(self, stored: dict[str, Any]) -> None:
        """Put the figures of the shorter stream aside: with new tasks in the label space all are taken anew."""
        names = [entry["task"] for entry in stored["data"]]
        what = f"anew, among the classes of {len(self.names)} tasks"
        if not self.plan.family.pooled:
            what = f"on {count(len(self.names) - len(names), 'new task')} alone"
        self.narrator.say(f"{count(len(names), 'task')} learnt; scoring all states {what}")
        archives, listed = list(stored["archive"]), stored.get("files", {})
        begun = stored["status"] == "unfinished" and archives and archives[-1]["tasks"] == names
        if not begun:
            number = len(archives) + 1
            archives.append({"number": number, "reason": "append", "tasks": names})
            self.folder.drop_archive(number)
            self.folder.archive(number, names, keep=len(names))
            listed = self.folder.archived_checksums(listed, number, names, keep=len(names))
        # Unfinished before the config has more tasks: a run that was stopped here still goes on.
        room = {**stored, "status": "unfinished", "archive": archives, "files": listed}
        self.folder.write_manifest(room, before=[*REWRITTEN, "samples/"])
        self.folder.write_config(self.plan.config)
        self.folder.remove(*TASK_LISTS, "samples.json", *DERIVED)
        self.manifest |= {"archive": archives, "files": room["files"]}
        self.folder.write_manifest(self.manifest)

    # --- one task --------------------------------------------------------------------------------------------

    def _learn(self, task_index: int) -> bool:
        """Train, pass the guard, commit; False when that was done before."""
        plan, name = self.plan, self.names[task_index]
        learnt = self.folder.is_learnt(task_index, name)
        if not learnt:
            if self.main:
                self.folder.begin_task(task_index, name, plan.tasks[task_index].shots)
                self.folder.write_manifest(self.manifest)
            plan.accelerator.wait_for_everyone()
            update = self._train(task_index) if plan.guard_task is None else self._guarded(task_index)
            if self.main:
                self.folder.write_memory(task_index, name, self._memory)
                self.folder.write_update(task_index, name, update, *self._base_name())
        if self.main:
            self.folder.end_training(task_index, name)
            self.folder.drop_candidate(task_index, name, self.manifest)
        plan.accelerator.wait_for_everyone()
        return not learnt

    def _train(self, task_index: int) -> TaskUpdate:
        """The task's update; the network is plain again afterwards."""
        plan, task, config = self.plan, self.plan.tasks[task_index], self.plan.config
        previous, self._memory = None, Memory()
        if task_index:
            previous = self._update(task_index - 1)
            self._memory = self.folder.read_memory(task_index - 1, self.names[task_index - 1])
        ctx = plan.context(task_index, previous, self._memory)
        begun = time.perf_counter()
        if not plan.method.trains:
            if plan.method.learns:
                self._network.put(())
                plan.method.collect(ctx)
            update = plan.method.after_task(ctx)
            self._timing(task_index)["method_seconds"] = time.perf_counter() - begun
            return update
        if plan.method.cumulative:
            self._network.put(())
        else:
            self._network.put_tasks(task_index)
        keeper = self.folder.keeper(
            task_index, task.name, every=config.train.checkpoint_steps, accelerator=plan.accelerator
        )
        resume, log = keeper.latest()
        label = f"task {task_index + 1}/{len(plan.tasks)} {task.name}"
        try:
            update, seconds, method_seconds = learn_task(plan, ctx, self.narrator, label, log, keeper, resume)
        finally:
            if self.main and log:
                self.folder.write_log(task_index, task.name, log)
        self._timing(task_index).update(train_seconds=seconds, method_seconds=method_seconds)
        return update

    def _guarded(self, task_index: int) -> TaskUpdate:
        """The task's update, as large as the guard lets it be."""
        plan, name, guard = self.plan, self.names[task_index], self.plan.config.guard
        assert guard is not None
        candidate = self.folder.read_candidate(task_index, name)
        if candidate is None:
            candidate = self._train(task_index)
            if self.main:
                self.folder.write_candidate(task_index, name, candidate, *self._base_name())
        if self.main:
            self.folder.end_training(task_index, name)
            self.folder.write_manifest(self.manifest)
        plan.accelerator.wait_for_everyone()

        def measure(factor: float) -> float:
            scaled = candidate if factor == 1.0 else candidate.scaled(factor)
            self._network.put(chain(self._updates(task_index), [scaled]))
            return self._score_guard().percent("task")

        verdict = judge(guard, self._guarded_score(task_index), measure)
        folder = self.folder.task_folder(task_index, name)
        if self.main:
            self.folder.write_json(folder / "guard.json", vars(verdict))
        self.narrator.say(_guard_line(verdict))
        if not verdict.accepted:
            raise GuardRefused(self._refusal(task_index, verdict))
        return candidate if verdict.factor == 1.0 else candidate.scaled(verdict.factor)

    def _refusal(self, task_index: int, verdict: Verdict) -> str:
        kept = self.folder.path / self.folder.task_folder(task_index, self.names[task_index]) / CANDIDATE
        run = self.folder.path
        revert = shlex.join(["codyra", "revert", str(run), "--to", str(task_index)])
        give_up = f"; or give the task up: {revert}" if task_index else ""
        return (
            f"the guard refused task {task_index + 1} ({self.names[task_index]}): the held-out score fell "
            f"{verdict.lost:.1f} points ({verdict.before:.1f} -> {verdict.candidate:.1f} %), {verdict.tolerance:g} "
            f"are tolerated; the candidate is kept in {kept}; go on with: {self.folder.run_command} "
            f"--set guard.on_violation=shrink (or a larger guard.tolerance){give_up}"
        )

    def _guarded_score(self, task_index: int) -> float:
        """Percent on the held-out set that the loss of this task is counted from."""
        guard = self.plan.config.guard
        assert guard is not None
        if task_index and guard.against == "previous":
            file = self.folder.task_folder(task_index - 1, self.names[task_index - 1]) / "guard.json"
            return self.folder.read_figure(file, "after")
        return self.folder.read_figure("guard.json", "score")

    def _score_guard(self) -> Score:
        plan = self.plan
        assert plan.guard_task is not None
        return plan.family.score(
            [plan.guard_task], plan.config.train.eval_batch_size, plan.config.stream.ties
        )[0]

    def _update(self, task_index: int) -> TaskUpdate:
        return self.folder.read_update(task_index, self.names[task_index])

    def _updates(self, num_tasks: int) -> Iterator[TaskUpdate]:
        """The updates of the first tasks, read from the folder one by one."""
        return (self._update(index) for index in range(num_tasks))

    def _put_state(self, num_tasks: int) -> tuple[dict[str, Tensor], Head | None]:
        """Make the model the one after the first `num_tasks` tasks; its weights, and the head beside them."""
        weights, head = self._network.put_tasks(num_tasks), None
        learnt = self.plan.tasks[:num_tasks]
        if learnt and self.plan.method.head is not None:
            head = self._update(num_tasks - 1).head
        prompts = [prompts for task in learnt if isinstance(task, Task) for prompts in task.scored_prompts]
        self.plan.family.use_head(head, prompts if head is not None else ())
        return weights, head

    def _base_name(self) -> tuple[str, str | None]:
        return self.plan.config.model.name, self.plan.config.model.revision

    # --- scoring and writing ---------------------------------------------------------------------------------

    def _zero_shot(self) -> None:
        if self._row(0) is None:
            started = time.perf_counter()
            self._put_state(0)
            row = self._score(0, "zero-shot: scoring", {})
            if self.main:
                self.manifest["timing"]["zero_shot_seconds"] = time.perf_counter() - started
                self.folder.write_manifest(
                    self.manifest, before=[*self.folder.row_files(0, self.names), *DERIVED]
                )
                self.folder.write_row(0, self.names, row)
            cells = results.cells(row, self.plan.config.stream.label_space)
            shown = ", ".join(f"{name} {cell:.1f}" for name, cell in zip(self.names, cells, strict=True))
            self.narrator.say(f"zero-shot: {shown} %")
        if self.main:
            self._write_matrices()  # a run that was stopped between two tables has written one of them
        if self.plan.guard_task is not None:
            self._check_guard(self.plan.guard_task.source, self.plan.guard_task.fingerprint)
        self.plan.accelerator.wait_for_everyone()

    def _check_guard(self, source: str, fingerprint: str) -> None:
        """Score the base model on the held-out set, or make sure that it is the set that was scored."""
        stored = self.folder.read_json("guard.json")
        if not stored:
            self._network.put(())
            score = self._score_guard()
            percent = score.percent("task")
            about = {"data": source, "fingerprint": fingerprint, "examples": score.examples, "score": percent}
            if self.main:
                self.folder.write_json("guard.json", about)
            self.narrator.say(
                f"guard: {source}, {score.examples} examples, {percent:.1f} % before the first task"
            )
        elif stored.get("fingerprint") != fingerprint:
            raise UserError(
                f"{self.folder.path}: the held-out set of the guard ({source}) changed since this run began; restore it"
            )

    def _score_after(self, task_index: int) -> bool:
        """Merge and score every task; False when that was done before."""
        if self._row(task_index + 1) is not None:
            return False
        plan, name = self.plan, self.names[task_index]
        started = time.perf_counter()
        weights, head = self._put_state(task_index + 1)
        self._check_inference(head)
        about = {"drift": distance(weights, plan.base), "weights_sha256": state_sha256(weights, head)}
        del weights  # the network has them; scoring, and the sums of `rounding_loss`, need the room
        merged = time.perf_counter()
        # A task that changed nothing leaves a model that was scored already.
        unchanged = self._update(task_index).no_change
        known = (self._row(task_index) or []) if unchanged else []
        row = self._score(
            task_index + 1,
            f"task {task_index + 1} ({name}): scoring",
            {score.name: score for score in known if score is not None},
        )
        scored = time.perf_counter()
        if self.main:
            timing = self._timing(task_index)
            timing["merge_seconds"], timing["score_seconds"] = merged - started, scored - merged
            self.manifest["peak_memory_bytes"] = max(self.manifest["peak_memory_bytes"], peak_memory())
            self.manifest["rounding_loss"][task_index:] = [
                rounding_loss(plan.family.net, plan.base, self._updates(task_index + 1))
            ]
            # Time is known only now: the scores, whose presence says that all of this is done, come after it.
            own = self.folder.row_files(task_index + 1, self.names)
            self.folder.write_manifest(self.manifest, before=[*own, *DERIVED])
            self.folder.write_row(task_index + 1, self.names, row, unchanged, **about)
            self._write_matrices()
        plan.accelerator.wait_for_everyone()
        return True

    def _check_inference(self, head: Head | None) -> None:
        """A method that declares no extra inference leaves the network as it was, but for the values of weights, and no
        head beside it.

        Raises:
            RuntimeError: it did not.
        """
        changed = head is not None or architecture(self.plan.family.net) != self.plan.architecture
        if changed and not self.plan.method.declared.extra_inference:
            raise RuntimeError(
                f"method {self.plan.method.name} changed the network and declares no extra inference"
            )

    def _row(self, num_tasks: int) -> Row | None:
        """Scores after the first `num_tasks` tasks, None unless they were taken among the tasks of this stream."""
        return self.folder.read_row(self.folder.row_file(num_tasks, self.names), self.names, self.names)

    def _score(self, num_tasks: int, label: str, known: dict[str, Score]) -> Row:
        """Scores of the model after `num_tasks` tasks, which the network is now.

        Args:
            known: scores that this model has already, by task.
        """
        plan, config = self.plan, self.plan.config
        seen = config.stream.score == "seen" and num_tasks > 0
        wanted = plan.tasks[:num_tasks] if seen else plan.tasks
        if not plan.family.pooled:
            # No score depends on which other tasks there are: what was taken before tasks were appended still holds.
            known = self.folder.read_scores(num_tasks, self.names) | known
        if todo := [task for task in wanted if task.name not in known]:
            with self.narrator.work(label, sum(len(task.test) for task in todo)) as tell:
                scores = plan.family.score(todo, config.train.eval_batch_size, config.stream.ties, tell)
            known = known | {score.name: score for score in scores}
        return [known.get(task.name) if task in wanted else None for task in plan.tasks]

    def _write_matrices(self) -> None:
        write_matrices(self.folder, self.names, self.names, self.plan.config.stream.label_space)

    def _tell(self, task_index: int, seconds: float) -> None:
        row = self._row(task_index + 1)
        assert row is not None
        cells = results.cells(row, self.plan.config.stream.label_space)
        scored = [cell for cell in cells if cell is not None]
        rank = results.mean_rank(self._update(task_index))
        self.narrator.say(
            f"task {task_index + 1}/{len(self.names)} {self.names[task_index]}: {cells[task_index]:.1f} %, mean of "
            f"{'all' if len(scored) == len(cells) else len(scored)} tasks {sum(scored) / len(scored):.1f} %"
            + (f", {rank:.1f} ranks per module kept" if rank is not None else "")
            + f" ({duration(seconds)})"
        )

    def _timing(self, task_index: int) -> dict[str, Any]:
        """Wall-clock figures of a task in the manifest; None where a stop lost them."""
        tasks = self.manifest["timing"]["tasks"]
        for name in self.names[len(tasks) : task_index + 1]:
            tasks.append({"name": name, **dict.fromkeys(TIMED)})
        return tasks[task_index]


def _guard_line(verdict: Verdict) -> str:
    line = (
        f"guard: {verdict.before:.1f} -> {verdict.candidate:.1f} % on the held-out set, "
        f"{verdict.tolerance:g} points tolerated"
    )
    if verdict.accepted and verdict.factor < 1:
        line += f"; the update was scaled by {verdict.factor:g}, {verdict.after:.1f} % now"
    return line
