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

GUARD = """
import os
import sys

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime"}


def refuse(event, arguments):
    changes = event in CHANGES or (event == "open" and (arguments[2] or 0) & WRITING)
    if changes and str(arguments[0]).startswith(os.environ["GUARDED"]):
        os.write(2, f"process {os.environ['RANK']} writes: {event} {arguments}\\n".encode())
        os._exit(77)


if os.environ.get("RANK", "0") != "0":
    sys.addaudithook(refuse)
if "RANK" in os.environ:
    from codyra.tuner import GatedLinear

    GatedLinear.smallest_fused = 0
"""
"""Run when Python starts: a process that is not the first may change nothing in the folder of the test.

All fuse small layers, as the process of the tests does.
"""

SHARDED = """
# accelerate shards on accelerators only; torch and DeepSpeed do it on CPUs as well.
from accelerate import state
from accelerate.utils import DistributedType

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
"""The command, sharded by a config of accelerate."""


class Launcher:
    """Starts `codyra ARGS...` as several processes, and ends them when a test is over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.guard = folder / "guard"
        self.guard.mkdir()
        (self.guard / "sitecustomize.py").write_text(GUARD)
        (self.guard / "sharded.py").write_text(SHARDED)

    def start(self, *arguments, config=None, processes=2, **environment):
        """As a user types it; with a config of examples/accelerate, it shards."""
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", processes]
        if config is None:
            launch += ["--cpu", "-m", "codyra"]
        else:
            port = ("--main_process_port", _free_port())
            launch += ["--config_file", EXAMPLES / config, *port, self.guard / "sharded.py"]
            environment |= {"ACCELERATE_USE_CPU": "1", "DS_ACCELERATOR": "cpu"}
        paths = [str(self.guard), *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(
            [*map(str, (*launch, *arguments))],
            cwd=self.folder,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(paths),
                "GUARDED": str(self.folder),
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
        """Launchers and workers, which have sessions of their own; all name a file in the folder of the test."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{self.folder}/" in (process / "cmdline").read_text():
                    os.kill(int(process.name), signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


@pytest.fixture
def launch(tmp_path):
    """See `Launcher`."""
    launcher = Launcher(tmp_path)
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
