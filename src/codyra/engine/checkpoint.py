"""A checkpoint inside a task: all that the next optimizer step reads, in one safetensors file.

Training continued from it goes on as if it had never stopped, bit for bit on the same machine, device, number
of threads and number of processes: trained parameters, optimizer moments, the state of the method's pieces (for
CoDyRA the position on the kappa schedule), the random generators, and the number of steps taken, from which the
learning rate and the position in the shuffled examples follow.
"""

import dataclasses
import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor

from codyra import files
from codyra.digest import tensors_sha256
from codyra.engine.sharding import SHARDED
from codyra.errors import UserError
from codyra.methods import Method, TaskContext
from codyra.reading import parse_json, read_tensors

Record = dict[str, float]
"""One line of train.jsonl."""

EVERY_SECONDS = 120.0

_METADATA = "codyra"
_PARAMETER, _OPTIMIZER, _PIECE, _RNG = "parameter/", "optimizer/", "piece/", "rng/"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a task's training after `step` optimizer steps, of `seconds` of wall clock."""

    step: int
    seconds: float
    processes: int
    values: dict[str, Any]
    tensors: dict[str, Tensor]


class Keeper:
    """Where the checkpoints of one task go, and when.

    Args:
        path: of the checkpoint file.
        every: optimizer steps between two of them; None for about every EVERY_SECONDS.
        write_log: writes down the records of the steps so far.
        log: records that an earlier attempt at the task wrote down.
    """

    def __init__(
        self,
        path: Path,
        every: int | None,
        accelerator: Accelerator,
        write_log: Callable[[Sequence[Record]], None],
        log: Sequence[Record] = (),
    ) -> None:
        self.path = path
        self._every = every
        self._accelerator = accelerator
        self._write_log = write_log
        self._log = log
        self._last = time.monotonic()

    def latest(self) -> tuple[Checkpoint | None, list[Record]]:
        """The checkpoint to continue from, None to start the task, and the records of the steps before it.

        One of another number of processes counts for nothing: each has generators of its own.

        Raises:
            UserError: the checkpoint or the train.jsonl that belongs to it is damaged.
        """
        if not self.path.is_file():
            return None, []
        checkpoint = read(self.path)
        if checkpoint.processes != self._accelerator.num_processes:
            return None, []
        if _log_digest(self._log[: checkpoint.step]) != checkpoint.values.get("log"):
            raise UserError(
                f"{self.path.parent.parent / 'train.jsonl'} is damaged: its first {checkpoint.step} lines are not "
                f"those that the checkpoint counts on; delete {self.path.parent} to start the task over"
            )
        return checkpoint, list(self._log[: checkpoint.step])

    def due(self, step: int) -> bool:
        """Is it time after `step` steps? Where processes differ, the main one's clock decides."""
        if self._accelerator.distributed_type in SHARDED:
            return False  # moments are not gathered: the task starts over
        if self._every is not None:
            return step % self._every == 0
        late = time.monotonic() - self._last >= EVERY_SECONDS
        if self._accelerator.num_processes == 1:
            return late
        flag = torch.tensor(int(late), device=self._accelerator.device)
        return bool(broadcast(flag, from_process=0).item())

    def save(self, checkpoint: Checkpoint, log: Sequence[Record]) -> None:
        """Write the log and then the checkpoint, which so never counts a step that is not written down."""
        if self._accelerator.is_main_process:
            self._write_log(log)
            values = {**checkpoint.values, "log": _log_digest(log)}
            write(self.path, dataclasses.replace(checkpoint, values=values))
        self._last = time.monotonic()


def capture(
    step: int,
    seconds: float,
    method: Method,
    ctx: TaskContext,
    optimizer: torch.optim.Optimizer,
    crops: random.Random,
    accelerator: Accelerator,
) -> Checkpoint:
    """The state after `step` steps; every process takes part, because each has generators of its own."""
    tensors = {f"{_PARAMETER}{name}": weight.detach() for name, weight in ctx.trained().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{_OPTIMIZER}{index}/{part}": moment for part, moment in state.items()}
    numbers = {}
    for key, value in method.save_state(ctx).items():
        if isinstance(value, Tensor):
            tensors[_PIECE + key] = value
        else:
            numbers[key] = value
    for process, generators in enumerate(gather_object([_generators()])):
        tensors |= {f"{_RNG}{process}/{device}": state for device, state in generators.items()}
    version, internal, gauss = crops.getstate()
    values = {
        "pieces": numbers,
        "crops": [version, list(internal), gauss],
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
    }
    copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
    return Checkpoint(step, seconds, accelerator.num_processes, values, copies)


def restore(
    checkpoint: Checkpoint,
    method: Method,
    ctx: TaskContext,
    optimizer: torch.optim.Optimizer,
    crops: random.Random,
    accelerator: Accelerator,
) -> None:
    """Put everything back in place, after `optimizer_ready` and before the next step.

    Raises:
        UserError: the checkpoint is of another training.
    """
    try:
        _restore_training(checkpoint, method, ctx, optimizer, crops)
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(checkpoint.values["scaler"])
        _restore_generators(checkpoint.tensors, f"{_RNG}{accelerator.process_index}/")
    except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
        raise UserError(
            f"the checkpoint of task {ctx.task_index + 1} does not fit this run ({error}); delete its folder "
            f"checkpoint/ to start the task over"
        ) from error


def _restore_training(
    checkpoint: Checkpoint,
    method: Method,
    ctx: TaskContext,
    optimizer: torch.optim.Optimizer,
    crops: random.Random,
) -> None:
    tensors = checkpoint.tensors
    trained = ctx.trained()
    stored = {name.removeprefix(_PARAMETER) for name in tensors if name.startswith(_PARAMETER)}
    if stored != trained.keys():
        raise ValueError("it holds other parameters than are trained")
    with torch.no_grad():
        for name, weight in trained.items():
            _same_form(name, tensors[_PARAMETER + name], weight)
            weight.copy_(tensors[_PARAMETER + name])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMIZER):
            index, key = name.removeprefix(_OPTIMIZER).split("/")
            moments.setdefault(int(index), {})[key] = tensor
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, state in moments.items():
        for key, moment in state.items():
            if key != "step":
                _same_form(f"{key} of parameter {number}", moment, weights[number])
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    pieces = {name.removeprefix(_PIECE): tensors[name] for name in tensors if name.startswith(_PIECE)}
    method.load_state(ctx, {**checkpoint.values["pieces"], **pieces})
    version, internal, gauss = checkpoint.values["crops"]
    crops.setstate((version, tuple(internal), gauss))


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Atomically replace the checkpoint at `path`.

    Raises:
        UserError: it cannot be written; the earlier one is untouched.
    """
    about = {
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "processes": checkpoint.processes,
        "values": checkpoint.values,
    }
    about["sha256"] = _digest(about, checkpoint.tensors)
    files.write_tensors(path, checkpoint.tensors, {_METADATA: json.dumps(about)})


def read(path: Path) -> Checkpoint:
    """Read what `write` wrote.

    Raises:
        UserError: it is damaged; a byte that changed does not go unnoticed.
    """
    tensors = read_tensors(path)
    about = parse_json(_header(path).get(_METADATA, "null"), path)
    try:
        recorded = about.pop("sha256")
        if recorded != _digest(about, tensors):
            raise ValueError("its content does not have the checksum that it names")
        return Checkpoint(**about, tensors=tensors)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete {path.parent} to start the task over") from None


def _header(path: Path) -> Mapping[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as opened:
        return opened.metadata() or {}


def _digest(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    described = json.dumps({**about, "tensors": tensors_sha256(tensors.items())}, sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def _log_digest(log: Sequence[Record]) -> str:
    return hashlib.sha256(json.dumps(list(log)).encode()).hexdigest()


def _same_form(name: str, stored: Tensor, here: Tensor) -> None:
    if stored.shape != here.shape or stored.dtype != here.dtype:
        raise ValueError(
            f"{name} is {stored.dtype} {tuple(stored.shape)} there, {here.dtype} {tuple(here.shape)} here"
        )


def _generators() -> dict[str, Tensor]:
    """States of torch's global generators, uint8; the private ones of batches and crops are saved elsewhere."""
    cuda = {f"cuda:{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return {"cpu": torch.get_rng_state(), **cuda}


def _restore_generators(tensors: Mapping[str, Tensor], own: str) -> None:
    torch.set_rng_state(tensors[f"{own}cpu"])
    for index in range(torch.cuda.device_count()):
        torch.cuda.set_rng_state(tensors[f"{own}cuda:{index}"], index)
