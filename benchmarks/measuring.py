"""What the timing scripts of this folder share: turns, ratios, peak memory of a process, one table, one JSON file.

Every round measures everything once, in turn, so that whatever else the machine does meets all of it alike. Only ratios
within a round are compared; absolute figures are there to know the order of magnitude.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import peft
import torch
import transformers

GIB = 2**30

Rounds = list[dict[str, float]]
"""One dict per round: what was measured under each name."""


def new_parser(about: str | None, rounds: int | None = 5) -> argparse.ArgumentParser:
    """What every script has: `about`, its docstring, as help, `--json`, and `--rounds` where it takes turns."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, help="write every measured figure here")
    return parser


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes, a GPU's part included."""
    _wait_for_gpu()
    started = time.perf_counter()
    work()
    _wait_for_gpu()
    return time.perf_counter() - started


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turn(works: Mapping[str, Callable[[], object]], rounds: int) -> Rounds:
    """Seconds of everything, `rounds` times, after one round that does not count; each round begins with another."""
    for work in works.values():
        work()
    names = list(works)
    orders = [names[start:] + names[:start] for start in (number % len(names) for number in range(rounds))]
    return [{name: seconds(works[name]) for name in order} for order in orders]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """min / median / max."""
    return " / ".join(f"{pick(values):.{digits}f}" for pick in (min, median, max))


def ratios(rounds: Rounds, of: str, to: str) -> list[float]:
    """One quotient per round."""
    return [measured[of] / measured[to] for measured in rounds]


def peak_gib(arguments: Sequence[str]) -> float:
    """Largest resident set of a new Python process with these arguments, as the operating system counts it.

    Raises:
        SystemExit: the process failed.
    """
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
    return usage.ru_maxrss * _RSS_UNIT / GIB


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print one table in Markdown."""
    print(f"| {' | '.join(header)} |")
    print("|" + "---|" * len(header))
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
    return {
        "processor": model or platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, peft)},
    }


def write(path: Path | None, figures: Mapping[str, Any]) -> None:
    """All figures, with the machine and the command, where `--json` says."""
    if path is not None:
        about = {"command": ["python", *sys.argv], "machine": machine(), **figures}
        path.write_text(json.dumps(about, indent=1) + "\n", "utf-8")
