"""One `codyra run` per line of a list, on as many machines and GPUs as a Ray cluster has.

    python examples/ray/map_runs.py examples/runs.txt --out /shared/runs --gpus 1

Every run is a process of its own, so that its memory is its own. The folder and the directory of the call must be the
same on all machines. The same command goes on: finished runs stay, others continue inside their task. Needs
`pip install ray`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import ray


def run(name: str, arguments: list[str], out: Path, place: Path) -> int:
    """`codyra run ARGUMENTS` in `place`, as it would be typed there; its exit code."""
    command = [sys.executable, "-m", "codyra", "run", *arguments, "--out", str(out / name)]
    with (out / f"{name}.log").open("a") as log:
        return subprocess.run(command, cwd=place, stdout=log, stderr=subprocess.STDOUT).returncode


def main() -> None:
    """Start all runs, tell of each that ends; exit code 1 if any failed."""
    parser = argparse.ArgumentParser(description="One `codyra run` per line of a list, over a Ray cluster.")
    parser.add_argument("list", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--cpus", type=float, default=1, help="of every run")
    parser.add_argument("--gpus", type=float, default=0, help="of every run; 0.5 puts two on one")
    args = parser.parse_args()
    entries = [line.split() for line in args.list.read_text().splitlines()]
    lines = [words for words in entries if words and not words[0].startswith("#")]
    out = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)

    ray.init()  # the cluster that RAY_ADDRESS names, else this machine
    task = ray.remote(run).options(num_cpus=args.cpus, num_gpus=args.gpus)
    running = {task.remote(name, arguments, out, Path.cwd()): name for name, *arguments in lines}
    failed = []
    while running:
        (done,), _ = ray.wait(list(running))
        name = running.pop(done)
        try:
            code = ray.get(done)
        except ray.exceptions.RayError as error:  # its machine is gone, and so were those of the retries
            code = type(error).__name__
        if code != 0:
            failed.append(name)
        print(f"{name}: {'finished' if code == 0 else f'failed ({code}), see {out / name}.log'}", flush=True)
    print(f"{len(lines) - len(failed)} of {len(lines)} runs finished; failed: {', '.join(failed) or 'none'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
