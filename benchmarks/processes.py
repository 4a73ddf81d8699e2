"""Two processes against one at the same global batch, each process with one thread: a training step, and scoring.

    python benchmarks/processes.py [--models clip llama] [--rounds 5] [--json FILE]

Prints one table in Markdown. Models have random weights and the sizes below, the data are drawn. Every round measures
everything once, in turn, so that whatever else the machine does meets all of it alike; ratios are taken within a round.
`unconnected` is what the machine allows: two processes that each do half of the work at the same time and know nothing
of each other. Needs two cores that nobody else uses.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
import yaml
from image_cache import write_images
from measuring import Rounds, new_parser, ratios, seconds, spread, table, write
from random_clips import class_names, new_family
from tiny_llama import new_model, train_tokenizer
from transformers import CLIPConfig

from codyra import files
from codyra.engine.config import load_config
from codyra.engine.plan import make_plan
from codyra.engine.progress import Narrator
from codyra.engine.rng import seeded_torch
from codyra.engine.trainer import batches, train_task

SEED = 0
BATCH, WARM_UP, STEPS = 32, 2, 5
TESTS = 64
WAYS = ("one process", "two processes", "unconnected")
TOWER = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 6}
CLASSES = 16


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=("clip", "llama"), default=["clip", "llama"])
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(*args.worker)
        return
    torch.set_num_threads(1)
    taken: dict[str, Rounds] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"OMP_NUM_THREADS": "1", "CODYRA_CACHE_DIR": str(folder / "cache")}
        for model in args.models:
            {"clip": write_clip, "llama": write_llama}[model](folder / model)
        for _ in range(args.rounds):
            for model in args.models:
                measured = {way: measure(folder / model, way) for way in WAYS}
                for kind in ("step", "scoring"):
                    figures = {way: of_way[kind] for way, of_way in measured.items()}
                    taken.setdefault(f"{model}, {kind}", []).append(figures)
    rows = [
        (what, way, spread([one[way] for one in rounds]), spread(ratios(rounds, way, WAYS[0])))
        for what, rounds in taken.items()
        for way in WAYS
    ]
    table(("", "", "seconds: min / median / max", "this / one process: min / median / max"), rows)
    write(args.json, {"batch": BATCH, "tests": TESTS, "seconds": taken})


def measure(folder: Path, way: str) -> dict[str, float]:
    """Seconds of a step (median) and of scoring, the slower process where there are two."""
    half = way == "unconnected"
    launch = [sys.executable]
    if way == "two processes":
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    config = folder / ("half.yaml" if half else "whole.yaml")
    outputs = [folder / f"figures{number}.json" for number in range(2 if half else 1)]
    started = [subprocess.Popen([*launch, __file__, "--worker", str(config), str(out)]) for out in outputs]
    codes = [process.wait() for process in started]
    assert not any(codes), codes
    measured = [json.loads(out.read_text()) for out in outputs]
    return {kind: max(figures[kind] for figures in measured) for kind in ("step", "scoring")}


def work(config: Path, out: Path) -> None:
    """In every process: some steps of a task and its test set."""
    resolved = load_config(config)
    plan = make_plan(resolved, {}, Narrator(quiet=True))
    starts: list[float] = []

    def timed() -> Iterator[list[int]]:
        for positions in batches(len(plan.tasks[0].train), resolved.train.batch_size, random.Random(SEED)):
            starts.append(time.perf_counter())
            yield positions

    ctx = plan.context(0)
    with seeded_torch(SEED):
        plan.method.before_task(ctx)
    train_task(plan.method, ctx, ctx.data, timed(), resolved.train, SEED, plan.accelerator, log=[])
    plan.method.after_task(ctx)
    steps = [following - start for start, following in pairwise(starts)][WARM_UP:]
    plan.accelerator.wait_for_everyone()
    scoring = seconds(lambda: plan.family.score(plan.tasks, resolved.train.eval_batch_size))
    if plan.accelerator.is_main_process:
        files.write_json(out, {"step": median(steps), "scoring": scoring})


def write_clip(folder: Path) -> None:
    """A CLIP of two such towers, and small pictures."""
    vision = TOWER | {"image_size": 112, "patch_size": 16}
    new_family(CLIPConfig(text_config=TOWER, vision_config=vision)).save(folder / "model")
    for split, count in (("train", 2 * BATCH), ("test", TESTS)):
        for number, name in enumerate(class_names(0, CLASSES)):
            place = folder / "data" / split / name
            write_images(place, count // CLASSES, seed=number, size=(200, 160))
    write_configs(folder, {"data": f"imagefolder:{folder / 'data'}"}, {"eval_batch_size": 8})


def write_llama(folder: Path) -> None:
    """A Llama of 17 million parameters, and prompts and answers of drawn words."""
    rng = random.Random(SEED)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 6))) for _ in range(400)]
    (folder / "data").mkdir(parents=True)
    texts = []
    for split, count in (("train", 2 * BATCH), ("test", TESTS)):
        records = [
            {"prompt": " ".join(rng.choices(words, k=40)), "answer": " ".join(rng.choices(words, k=8))}
            for _ in range(count)
        ]
        texts += [f"{record['prompt']} {record['answer']}" for record in records]
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, records)))
    tokenizer = train_tokenizer(texts)
    torch.manual_seed(SEED)
    model = new_model(tokenizer, **TOWER | {"num_hidden_layers": 7}, tie_word_embeddings=False)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    # One process computes in two parts what two processes compute in one each.
    train = {"micro_batch_size": BATCH // 2, "eval_batch_size": 8}
    write_configs(folder, {"data": f"json:{folder / 'data'}", "max_new_tokens": 8}, train)


def write_configs(folder: Path, of_task: dict, train: dict) -> None:
    """whole.yaml, and half.yaml with half the batch and half the test set."""
    for name, share in (("whole", 1), ("half", 2)):
        config = {
            "model": {"name": str(folder / "model")},
            "method": {"name": "codyra", "r": 16},
            "train": train | {"steps": WARM_UP + STEPS + 1, "batch_size": BATCH // share},
            "stream": {"tasks": [{"name": "task", "test_examples": TESTS // share} | of_task]},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))


if __name__ == "__main__":
    main()
