"""Under `accelerate launch --num_processes N` where there are no GPUs: accelerate starts one process, whatever N is.

It hands several GPUs to as many processes; on CPUs it leaves that to MPI. Here the one process becomes N of gloo.
"""

import os
import re
import sys
from pathlib import Path

from codyra.errors import UserError

LAUNCHED_ALONE = "ACCELERATE_USE_CPU"
"""accelerate sets it for a process that it starts alone, and MASTER_ADDR too when several were asked for."""
RANKS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Any of them says that this process is one of several already."""


def start_all_processes() -> None:
    """Become as many processes as `accelerate launch` was asked for, where it started this one alone.

    Returns where there is nothing to do; otherwise torch's launcher takes the place of this process and starts the same
    command N times.

    Raises:
        UserError: several processes were asked for that cannot be started here.
    """
    environment = os.environ
    alone = LAUNCHED_ALONE in environment and not any(name in environment for name in RANKS)
    if not alone or "MASTER_ADDR" not in environment:
        return
    import torch

    on_cpu = environment[LAUNCHED_ALONE].lower() in ("1", "true") or not torch.accelerator.is_available()
    if not on_cpu:
        raise UserError(
            "accelerate launch started one process, though several were asked for: there is one GPU; launch with "
            "--num_processes 1, or with --cpu"
        )
    count = _asked_for()
    if count is None:
        raise UserError(
            "accelerate launch started one process, though several were asked for; on CPUs give it --num_processes N "
            "itself, not in its config, or launch with: torchrun --standalone --nproc_per_node N -m codyra run ..."
        )
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    os.execv(sys.executable, [sys.executable, *launcher, "-m", "codyra", *sys.argv[1:]])


def _asked_for() -> int | None:
    """--num_processes of the `accelerate launch` that started this process on one machine; None where nothing tells."""
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode().split("\0")
    except (OSError, ValueError):
        return None
    command = " ".join(words)
    found = re.search(r"--num[_-]processes[ =](\d+)", command)
    return int(found[1]) if found and not re.search(r"--num[_-]machines[ =]", command) else None
