"""What happens between two tasks: prune, save, merge, put the next adapters on; beside one step of training.

    python benchmarks/task_end.py [--model ViT-B/16] [--tasks 10] [--rounds 5] [--json FILE]

The parts are those of a run, on all linears of the towers (144 in ViT-B/16, batch 16 of 100 classes) or of the blocks
of a language model (`--model Llama-3.2-1B`, one example of 512 tokens); random weights, r = 16, about half of the ranks
pruned. The task that ends is number `--tasks`: where weights are of 16 bit, as many updates are read and merged into
the base. A training step of the same model is taken in every round.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from in_training import Training
from lm_memory import MODELS, Case, word_tokenizer, words_task
from measuring import Rounds, new_parser, ratios, seconds, spread, table, write
from random_clips import MODELS as CLIPS
from random_clips import new_family, noise_task
from transformers import AutoModelForCausalLM

from codyra.engine.merged import MergedNetwork
from codyra.engine.models import state_sha256
from codyra.families import AnswerSettings
from codyra.families.causal_lm import CausalLM
from codyra.update import TaskUpdate, architecture, distance, rounding_loss

SEED = 0
R = 16
STEPS = 2
"""Of every task: the proximal step of the second prunes half of the ranks, as that of a long task does."""
LANGUAGE_MODELS = {f"{name}-lm" if name in CLIPS else name: config for name, config in MODELS.items()}


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--model", choices=[*CLIPS, *LANGUAGE_MODELS], default="ViT-B/16")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the weights")
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512)
    args = parser.parse_args()
    training = start(args)
    with tempfile.TemporaryDirectory() as folder:
        run = Between(training, Path(folder), args.tasks)
        run.fill()
        rounds = [run.measure() for _ in range(args.rounds + 1)][1:]
    show(rounds)
    kept = sum(run.update.ranks.values()) / len(run.update.ranks)
    print(
        f"\n{args.model} in {args.dtype}, {len(run.update.ranks)} linears, {kept:.1f} of {R} ranks kept, the end of "
        f"task {args.tasks}; {args.rounds} rounds"
    )
    about = {key: value for key, value in vars(args).items() if key != "json"}
    write(args.json, {"options": about, "kept": kept, "seconds": rounds})


def start(args: argparse.Namespace) -> Training:
    """The model of the command line, in training."""
    torch.manual_seed(SEED)
    if args.model in CLIPS:
        clip = new_family(CLIPS[args.model])
        side = CLIPS[args.model].vision_config.image_size
        pictures = noise_task(args.classes, 4 * args.batch, side)
        return Training(clip, pictures, {"batch_size": args.batch}, {"r": R}, STEPS)
    dtype = getattr(torch, args.dtype)
    net: Any = AutoModelForCausalLM.from_config(LANGUAGE_MODELS[args.model], dtype=dtype)
    family = CausalLM(net.eval().requires_grad_(False), word_tokenizer(), AnswerSettings(), {})
    half = args.tokens // 2
    task = words_task(Case("tiny", prompt=half, answer=args.tokens - half))  # of no model's sizes
    options = {"batch_size": 1, "precision": "bf16" if args.dtype == "bfloat16" else "fp32"}
    return Training(family, task, options, {"r": R}, STEPS)


@dataclass
class Between:
    """The run around `training`, in its folder: the base weights in memory, the updates of all tasks on disk."""

    training: Training
    folder: Path
    num_tasks: int

    def __post_init__(self) -> None:
        net = self.training.family.net
        names = self.training.method.adapter.touched(self.training.targets, [])
        self.base = {name: net.get_parameter(name).detach().to("cpu", copy=True) for name in names}
        self.architecture = architecture(net)
        self.network = MergedNetwork(self.training.family, self.base, self.read, added=True)

    def fill(self) -> None:
        """Train for a task, take off what was learnt and let it be what every task before left behind."""
        self.training.put_adapters_on()
        self.training.begin()
        for _ in range(STEPS):
            self.training.step()
        self.prune()
        for number in range(self.num_tasks):
            self.update.save(self.folder / f"{number}")

    def measure(self) -> dict[str, float]:
        """Seconds of a step and of every part, in the order of a run."""
        self.network.put_tasks(self.num_tasks - 1)
        self.training.put_adapters_on()
        self.training.begin()
        for _ in range(STEPS - 1):  # the first makes the optimizer's moments
            self.training.step()
        measured = {"training step": seconds(self.training.step)}
        parts = {
            "prune": self.prune,
            "save": self.save,
            "merge": self.merge,
            "take figures": self.take_figures,
            "put adapters on": self.put_adapters_on,
        }
        measured |= {name: seconds(part) for name, part in parts.items()}
        self.training.method.adapter.discard(self.training.ctx)
        return measured

    def prune(self) -> None:
        """The update without ranks of gate 0, and the network without adapters."""
        self.update = self.training.method.after_task(self.training.ctx)

    def save(self) -> None:
        self.update.save(self.folder / f"{self.num_tasks - 1}")

    def merge(self) -> None:
        self.weights = self.network.put_tasks(self.num_tasks)

    def take_figures(self) -> None:
        """What a run writes down of the merged model."""
        net = self.training.family.net
        assert architecture(net) == self.architecture
        distance(self.weights, self.base)
        state_sha256(self.weights, None)
        del self.weights
        rounding_loss(net, self.base, map(self.read, range(self.num_tasks)))

    def put_adapters_on(self) -> None:
        """Of the next task, on the weights that the network has."""
        self.network.put_tasks(self.num_tasks)
        self.training.put_adapters_on()

    def read(self, task_index: int) -> TaskUpdate:
        return TaskUpdate.load(self.folder / f"{task_index}")


def show(rounds: Rounds) -> None:
    """The table; ratios are to the training step of the same round."""
    parts = [name for name in rounds[0] if name != "training step"]
    sums = [measured | {"together": sum(measured[name] for name in parts)} for measured in rounds]
    table(
        ("", "seconds: min / median / max", "of a training step: min / median / max"),
        [
            (
                name,
                spread([measured[name] for measured in sums], 3),
                spread(ratios(sums, name, "training step"), 3),
            )
            for name in ("training step", *parts, "together")
        ],
    )


if __name__ == "__main__":
    main()
