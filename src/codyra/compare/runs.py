"""The runs of a comparison: checked first, then each in a process of its own, so that its peak memory is its own."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from codyra.compare.plan import Comparison, Job
from codyra.engine.plan import Estimate, check_disk, estimate, make_plan
from codyra.engine.progress import Narrator, count, duration, size
from codyra.errors import UserError, visible

_POLL_SECONDS = 0.2
_LOG_TAIL_BYTES = 4000


class _Named(Narrator):
    """Says in front of every line which method it is about."""

    def __init__(self, narrator: Narrator, label: str) -> None:
        super().__init__(narrator.console)
        self.label = label

    def say(self, text: str) -> None:
        super().say(f"{self.label}: {text.strip()}")


def check_and_estimate(comparison: Comparison, at_once: int, narrator: Narrator) -> None:
    """Let every method that has to run pass the checks of a run, and tell what all of it will cost.

    A method is checked with the first seed that is missing; seeds change draws, not what is possible.

    Raises:
        UserError: methods that cannot run on this model and stream, all of them, or the disk cannot hold the runs.
    """
    missing = [job for job in comparison.jobs if not job.finished]
    seconds, memory, disk = 0.0, 0, 0
    refused: dict[str, list[str]] = {}
    for label in comparison.labels:
        jobs = [job for job in missing if job.label == label]
        if not jobs:
            continue
        try:
            cost = _estimate(jobs[0], _Named(narrator, label))
        except UserError as error:
            refused.setdefault(str(error), []).append(label)
            continue
        begun = sum(job.num_finished_tasks for job in jobs)
        share = 1 - begun / sum(job.num_tasks for job in jobs)
        seconds += cost.seconds * share * len(jobs)
        disk += cost.disk_bytes * len(jobs)
        memory = max(memory, cost.memory_bytes)
        narrator.say(
            f"{label}: {count(len(jobs), 'run')}, about {duration(cost.seconds)} and {size(cost.disk_bytes)} of disk "
            "each"
        )
    if refused:
        reasons = [f"--methods {','.join(labels)}: {reason}" for reason, labels in refused.items()]
        raise UserError("; ".join(reasons))
    if missing:
        check_disk(comparison.folder, disk)
        done = len(comparison.jobs) - len(missing)
        seconds /= min(_independent(at_once), len(missing))
        narrator.say(
            f"{count(len(comparison.labels), 'method')} x {count(len(comparison.stored.seeds), 'seed')}: "
            f"{count(len(missing), 'run')} to do, {done} finished, {at_once} at a time; about "
            f"{duration(seconds)}, up to {size(memory)} of memory a run, {size(disk)} of disk -> {comparison.folder}"
        )
    else:
        narrator.say(f"{comparison.folder}: all {len(comparison.jobs)} runs are finished")


def _estimate(job: Job, narrator: Narrator) -> Estimate:
    plan = make_plan(job.config, {}, narrator)
    if plan.accelerator.num_processes > 1:
        raise UserError("compare starts processes of its own; start it without accelerate launch")
    cost = estimate(plan, len(plan.tasks))
    # The runs need the memory of the accelerator that this took.
    del plan
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return cost


def _independent(at_once: int) -> int:
    """How many of the runs do not share cores or an accelerator with others; here one run was measured alone."""
    if torch.cuda.is_available():
        return min(at_once, len(_devices()))
    return min(at_once, max(1, _num_cores() // torch.get_num_threads()))


def run_all(
    jobs: Sequence[Job], at_once: int, narrator: Narrator, on_finished: Callable[[Job], None]
) -> dict[str, str]:
    """Run what is not finished, `at_once` processes at a time; a run that was begun is continued.

    Args:
        on_finished: called after every run that came to its end.

    Returns:
        Name and error line of every run that failed; the others are finished.
    """
    waiting = deque(job for job in jobs if not job.finished)
    running: dict[str, tuple[Job, subprocess.Popen[bytes], float, int]] = {}
    at_once = min(at_once, len(waiting)) or 1  # cores are not kept for runs that do not come
    places = deque(range(at_once))
    failed: dict[str, str] = {}
    learnt = {job.name: job.num_finished_tasks for job in waiting}
    total, left = sum(job.num_tasks for job in waiting), len(waiting)
    label = f"tasks of {count(left, 'run')}"
    try:
        with _ended_when_told(), narrator.work(label, total, sum(learnt.values())) as tell:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.popleft()
                    begun = f", continues after task {learnt[job.name]}" if learnt[job.name] else ""
                    narrator.say(f"{job.name}: started{begun} ({len(waiting)} waiting)")
                    place = places.popleft()
                    running[job.name] = job, _start(job, at_once, place), time.monotonic(), place
                time.sleep(_POLL_SECONDS)
                for name, (job, process, started, place) in list(running.items()):
                    code = process.poll()  # before its tasks are counted, so that none is missed
                    done = job.num_finished_tasks
                    if done > learnt[name]:
                        tell(done - learnt[name])
                        learnt[name] = done
                    if code is None:
                        continue
                    del running[name]
                    places.append(place)
                    left -= 1
                    if code == 0:
                        took = duration(time.monotonic() - started)
                        narrator.say(f"{name}: finished in {took}; {count(left, 'run')} left")
                        on_finished(job)
                    else:
                        failed[name] = _error(job, code)
                        narrator.say(f"{name}: failed: {failed[name]}")
    finally:
        for _, process, *_ in running.values():
            process.terminate()  # a run may be stopped anywhere
        for _, process, *_ in running.values():
            process.wait()
    return failed


@contextmanager
def _ended_when_told() -> Iterator[None]:
    """A kill or a closed terminal leaves by an exception, so that no run goes on alone (after SIGKILL it does)."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    heard = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]  # nohup
    former = {number: signal.signal(number, leave) for number in heard}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _start(job: Job, at_once: int, place: int) -> subprocess.Popen[bytes]:
    """`codyra run` of this job, at one of `at_once` places."""
    environment = {**os.environ, **_share(at_once, place)}
    command = [sys.executable, "-m", "codyra", "run", str(job.file), "--out", str(job.folder)]
    try:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
    except OSError as error:
        raise UserError(f"cannot start {job.name}: {error.strerror or error}") from None


def _share(at_once: int, place: int) -> dict[str, str]:
    """Environment that gives a place its share of the machine: programs that spin on one core crawl."""
    share = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, _num_cores() // at_once)))}
    devices = _devices()
    if at_once > 1 and len(devices) > 1:
        share["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
    return share


def _devices() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if not torch.cuda.is_available():
        return []
    if visible_here := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [name.strip() for name in visible_here.split(",")][: torch.cuda.device_count()]
    return [str(index) for index in range(torch.cuda.device_count())]


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _error(job: Job, code: int) -> str:
    """What a run that failed said last."""
    if code < 0:
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"ended by signal {-code}{hint}"
    lines = [line.strip() for line in _tail(job.log).splitlines() if line.strip()]
    return visible(lines[-1].removeprefix("codyra: ")) if lines else f"exit code {code}"


def _tail(file: Path) -> str:
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - _LOG_TAIL_BYTES))
        return log.read().decode("utf-8", "replace")
