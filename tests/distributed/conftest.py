"""The command as several processes of gloo."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from distributed.answer_runs import write_stream
from families.tiny_lms import save_llama

EXAMPLES = Path(__file__).parents[2] / "examples/accelerate"

ENTRY = """
import os

from accelerate import state
from accelerate.utils import DistributedType
from codyra import files


def refuse(path, *args, **kwargs):
    raise AssertionError(f"process {os.environ['RANK']} writes {path}")


if os.environ["RANK"] != "0":
    files.write_atomic = refuse

# accelerate shards on accelerators only; torch and DeepSpeed do it on CPUs as well.
set_up = state.AcceleratorState.__init__


def set_up_on_cpus(self, *args, **kwargs):
    set_up(self, *args, **kwargs)
    if kwargs.get("fsdp_plugin") is not None:
        self.fsdp_plugin, kind = kwargs["fsdp_plugin"], DistributedType.FSDP
        if self._mixed_precision != "no":
            self.fsdp_plugin.set_mixed_precision(self._mixed_precision)
    elif kwargs.get("deepspeed_plugin") is not None:
        self.deepspeed_plugins, kind = kwargs["deepspeed_plugin"], DistributedType.DEEPSPEED
        self.deepspeed_plugins.set_mixed_precision(kwargs["mixed_precision"])
        self.deepspeed_plugins.select(_from_accelerator_state=True)
        self._mixed_precision = "no"
    else:
        return
    self.distributed_type = state.PartialState._shared_state["distributed_type"] = kind


state.AcceleratorState.__init__ = set_up_on_cpus

from codyra.cli import main

main()
"""
"""The command, but a process that is not the first may write nothing into a run folder."""


class Launcher:
    """Starts `codyra ARGS...` as several processes, and ends them when a test is over."""

    def __init__(self, entry: Path) -> None:
        self.entry = entry

    def start(self, *arguments, config="ddp.yaml", processes=2, **environment):
        """With a config of examples/accelerate, or any other."""
        module = ("accelerate.commands.launch", "--config_file", EXAMPLES / config)
        count = ("--num_processes", processes, "--main_process_port", _free_port())
        return subprocess.Popen(
            [sys.executable, "-m", *map(str, (*module, *count, self.entry, *arguments))],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "ACCELERATE_USE_CPU": "1",
                "DS_ACCELERATOR": "cpu",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments, **options):
        """What it said, once it is done."""
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        return out

    def kill_when(self, wanted: Path, *arguments):
        """Kill all processes as soon as a file is there."""
        process = self.start(*arguments)
        deadline = time.monotonic() + 120
        while not wanted.is_file() and time.monotonic() < deadline:
            time.sleep(0.005)
        self.kill()
        process.communicate()
        assert wanted.is_file()

    def kill(self):
        """Launcher and workers, which it gives sessions of their own."""
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(self.entry) in (folder / "cmdline").read_text():
                    os.kill(int(folder.name), signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


@pytest.fixture
def launch(tmp_path):
    """See `Launcher`."""
    entry = tmp_path / "entry.py"
    entry.write_text(ENTRY)
    launcher = Launcher(entry)
    yield launcher
    launcher.kill()


# Every third batch holds a single record, for two processes.
ANSWERS = {
    "method": {"name": "codyra", "r": 4},
    "train": {"steps": 12, "batch_size": 5, "micro_batch_size": 1, "eval_batch_size": 2, "lr": 5e-3},
    "stream": {"max_answer_tokens": 6},
}


@pytest.fixture
def stream(tmp_path):
    """Write a config with these options, over ANSWERS, and give its path."""
    tasks = write_stream(tmp_path / "data")

    def write(save=save_llama, dtype="float64", quantize=None, method=(), train=(), choices=None):
        config = {
            "model": {"name": str(save(tmp_path / "model")), "dtype": dtype, "quantize": quantize},
            "method": dict(method) if "name" in method else ANSWERS["method"] | dict(method),
            "train": ANSWERS["train"] | dict(train),
            "stream": ANSWERS["stream"] | {"tasks": [task | {"choices": choices} for task in tasks]},
        }
        path = tmp_path / "stream.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write
