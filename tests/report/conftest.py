"""Synthetic run folders with the layout of a real one, from numbers drawn with a fixed seed."""

import csv
import io
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from codyra import metrics
from codyra.engine.folder_reader import RunView, read_run

RunWriter = Callable[..., Path]

KINDS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
)
SHAPES = ("circles", "squares", "digits", "fruit", "road signs")
TEST_EXAMPLES = 200


def clip_modules(num_layers: int) -> list[str]:
    """The names of the six linears of every block of both towers of a CLIPModel."""
    return [
        f"{tower}_model.encoder.layers.{layer}.{kind}"
        for tower in ("vision", "text")
        for layer in range(num_layers)
        for kind in KINDS
    ]


def write_run(
    folder: Path,
    *,
    method: str = "codyra",
    tasks: tuple[str, ...] = SHAPES,
    num_layers: int = 2,
    learned: int | None = None,
    steps: int = 60,
    text: bool = False,
    images_per_task: int = 6,
    seed: int = 8,
    classes: int = 4,
    versions: dict[str, str] | None = None,
    config: dict[str, Any] | None = None,
    scores: tuple[list[float], list[list[float]]] | None = None,
    benchmark: dict[str, Any] | None = None,
    parameters: int = 3_213_057,
) -> Path:
    """Write one run folder; with fewer `learned` tasks than `tasks` it is an unfinished one.

    `scores`, a zero-shot row and the rows after it, replace the drawn ones of both label spaces.
    """
    rng = random.Random(f"{method}/{seed}")
    num_learned = len(tasks) if learned is None else learned
    finished = num_learned == len(tasks)
    prompts = ["{}" if text else f"a drawing of a {{}}, {name}." for name in tasks]

    zero_shot, rows, own_zero_shot, own_rows = _matrix(method, len(tasks), num_learned)
    if scores is not None:
        (zero_shot, rows), (own_zero_shot, own_rows) = scores, scores
    _write_matrix(folder / "accuracy.csv", tasks, zero_shot, rows)
    _write_matrix(folder / "accuracy_task.csv", tasks, own_zero_shot, own_rows)

    update_norms = []
    for index in range(num_learned):
        name = tasks[index]
        directory = folder / "tasks" / f"{index + 1:02d}-{name}"
        update_norms.append(_write_task(directory, method, rng, num_layers, steps, index))
    if not finished:
        directory = folder / "tasks" / f"{num_learned + 1:02d}-{tasks[num_learned]}"
        directory.mkdir(parents=True)
        (directory / "train.jsonl").write_text('{"step": 0, "loss": 2.1, "kappa": 0.0}\n{"step": 1, "lo')

    learns = method != "zero_shot"
    trainable = {"codyra": 98_304, "lora": 98_304, "full": 3_213_056, "zero_shot": 0}[method]
    if finished:
        _json(
            folder / "metrics.json",
            {
                **_summary(rows),
                "zero_shot": sum(zero_shot) / len(tasks),
                "update_norm": update_norms if learns else [0.0] * len(tasks),
                "drift": [math.sqrt(sum(x * x for x in update_norms[: i + 1])) for i in range(len(tasks))]
                if learns
                else [0.0] * len(tasks),
                "mean_rank": [8.2] * len(tasks) if method == "codyra" else [None] * len(tasks),
                "survival_auc": [0.9991 + 0.0002 * (i % 4) for i in range(len(tasks))]
                if method == "codyra"
                else [None] * len(tasks),
                "trainable_parameters": trainable,
                "own_label_space": _summary(own_rows),
                "per_task": {
                    name: {
                        "examples": TEST_EXAMPLES,
                        "zero_shot": _measured(zero_shot[j]),
                        "learned": _measured(rows[j][j]),
                        "last": _measured(rows[-1][j]),
                    }
                    for j, name in enumerate(tasks)
                },
            },
        )
    _json(
        folder / "manifest.json",
        {
            "format": 1,
            "status": "finished" if finished else "unfinished",
            "versions": versions
            or {"codyra": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
            "machine": "Linux 6.1 x86_64, 2 cores",
            "device": "cpu",
            "threads": 2,
            "processes": 1,
            "seed": seed,
            "base": {
                "name": "all-MiniLM-L6-v2" if text else "codyra-tiny-clip",
                "revision": None,
                "sha256": "5f1d8c2a" * 8,
                "parameters": parameters,
                "model_type": "bert" if text else "clip",
            },
            "method": {
                "name": method,
                "stores": "none",
                "needs_reference_data": False,
                "needs_number_of_tasks": False,
                "task_id_at_test": False,
                "extra_inference": False,
                "trainable_parameters": trainable,
            },
            "data": [
                {
                    "task": name,
                    "source": f"imagefolder:data/{name}",
                    "fingerprint": f"{index:02d}a7f3c9" * 8,
                    "train": 16 * classes,
                    "test": TEST_EXAMPLES,
                    "classes": classes,
                }
                for index, name in enumerate(tasks)
            ],
            "benchmark": benchmark,
            "ties": [{"prompt": "a drawing of a ring.", "classes": ["circles/ring", "road signs/ring"]}],
            "timing": {
                "started": "2026-03-02T10:00:00Z",
                "finished": "2026-03-02T10:02:11Z" if finished else None,
                "zero_shot_seconds": 1.93,
                "tasks": [
                    {
                        "name": name,
                        "train_seconds": 11.2 + index,
                        "merge_seconds": 0.08,
                        "score_seconds": 1.9,
                    }
                    for index, name in enumerate(tasks[:num_learned])
                ],
            },
            "peak_memory_bytes": 912_345_678,
            "rounding_loss": [0.0] * num_learned,
        },
    )
    lines = [
        "model: {name: codyra-tiny-clip, revision: null, dtype: float32}",
        f"method: {{name: {method}, r: 16}}",
        f"train: {{steps: {steps}, batch_size: 64, lr: 0.0005}}",
        "stream:",
        "  label_space: all",
        "  tasks:",
        *(f"    - {json.dumps({'name': name})}" for name in tasks),
        f"seed: {seed}",
    ]
    (folder / "config.yaml").write_text("\n".join(lines) + "\n" if config is None else json.dumps(config))
    _write_samples(folder, tasks, prompts, text, images_per_task)
    return folder


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))


def _measured(score: float) -> dict[str, float]:
    return {"score": score, "standard_error": math.sqrt(score * (100 - score) / TEST_EXAMPLES)}


def _summary(rows: list[list[float]]) -> dict[str, float | None]:
    names = (
        "transfer average last overall_performance learning_accuracy forgetting_max forgetting_diag bwt "
        "bwt_trace bwt_clipped lower_triangle_mean"
    )
    return {name: getattr(metrics, name)(rows) for name in names.split()}


def _matrix(method: str, num_tasks: int, num_learned: int) -> tuple[list[float], list[list[float]], Any, Any]:
    """Scores of a stream: the same start and data for every method, another share of it forgotten."""
    rng = random.Random("matrix")
    zero_shot = [25 + 40 * rng.random() for _ in range(num_tasks)]
    gain = [(92 - score) * (0.6 + 0.4 * rng.random()) for score in zero_shot]
    noise = [[rng.uniform(-1.5, 1.5) for _ in range(num_tasks)] for _ in range(num_tasks)]
    learns, decay, erosion = {
        "codyra": (0.9, 0.97, 0.4),
        "lora": (1.0, 0.86, 2.1),
        "full": (1.0, 0.8, 3.0),
        "zero_shot": (0.0, 1.0, 0.0),
    }[method]
    rows = []
    for i in range(num_learned):
        row = []
        for j in range(num_tasks):
            if method == "zero_shot":
                row.append(zero_shot[j])
            elif i >= j:
                row.append(zero_shot[j] + gain[j] * learns * decay ** (i - j) + noise[i][j])
            else:
                row.append(zero_shot[j] - erosion * (i + 1) + noise[i][j])
        rows.append([_shares(score) for score in row])
    zero_shot = [_shares(score) for score in zero_shot]
    own_rows = [[_shares(score + (100 - score) * 0.2) for score in row] for row in rows]
    return zero_shot, rows, [_shares(score + (100 - score) * 0.2) for score in zero_shot], own_rows


def _shares(percent: float) -> float:
    """The nearest score that TEST_EXAMPLES examples can give."""
    return 100 * round(min(max(percent, 0), 100) / 100 * TEST_EXAMPLES) / TEST_EXAMPLES


def _write_matrix(
    path: Path, tasks: tuple[str, ...], zero_shot: list[float], rows: list[list[float]]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["after", *tasks])
    writer.writerow(["zero-shot", *zero_shot])
    for name, row in zip(tasks, rows, strict=False):
        writer.writerow([name, *row])
    path.write_text(text.getvalue())


def _write_task(
    directory: Path, method: str, rng: random.Random, num_layers: int, steps: int, index: int
) -> float:
    """ranks.json and train.jsonl of one task. Returns the Frobenius norm of its update."""
    modules: dict[str, dict[str, float | int | None]] = {}
    if method != "zero_shot":
        for name in clip_modules(num_layers):
            if method == "full":
                modules[name] = {"kept": None, "r": None, "norm": 0.2 + 0.4 * rng.random()}
            else:
                kept = sum(rng.random() < 0.515 for _ in range(16)) if method == "codyra" else 16
                scale = 0.22 if method == "codyra" else 0.41
                modules[name] = {
                    "kept": kept,
                    "r": 16,
                    "norm": scale * math.sqrt(kept / 16) * (0.7 + 0.6 * rng.random()),
                }
    norm = math.sqrt(sum(float(entry["norm"] or 0) ** 2 for entry in modules.values()))
    kind = {"codyra": "low_rank", "lora": "low_rank", "full": "dense", "zero_shot": "none"}[method]
    _json(
        directory / "ranks.json",
        {
            "kind": kind,
            "no_change": method == "zero_shot",
            "survival_auc": 0.9991 if method == "codyra" else None,
            "norm": norm,
            "modules": modules,
        },
    )
    if method == "zero_shot":
        return 0.0
    half = steps // 2
    with (directory / "train.jsonl").open("w") as log:
        for step in range(steps):
            loss = 0.3 + (2.4 - 0.1 * index) * math.exp(-step / (steps / 5)) + rng.uniform(-0.08, 0.08)
            line: dict[str, float | int | None] = {
                "step": step,
                "loss": loss,
                "image_to_text": loss / 2,
                "text_to_image": loss / 2,
                "lr": 5e-4 * 0.5 * (1 + math.cos(math.pi * step / steps)),
                "kappa": None,
            }
            if method == "codyra":
                past = max(0, step - half)
                line["kappa"] = 0.0433 * past / half
                if step % 10 == 9:
                    line["kept"] = 16 - 7.8 * (past / half) ** 2
            log.write(json.dumps(line) + "\n")
    return norm


def _write_samples(
    folder: Path, tasks: tuple[str, ...], prompts: list[str], text: bool, images_per_task: int
) -> None:
    rng = random.Random("samples")
    content = []
    for number, (name, prompt) in enumerate(zip(tasks, prompts, strict=True), start=1):
        examples: list[dict[str, str]] = []
        for index in range(images_per_task):
            label = ("ring", "disc", "a rather long class name", "dot")[index % 4]
            if text:
                examples.append(
                    {"label": "card_arrival", "text": "My card still has not arrived, what can I do?"}
                )
                continue
            picture = Image.new("RGB", (64, 64), tuple(rng.randrange(150, 256) for _ in range(3)))
            box = (
                6 + rng.randrange(14),
                6 + rng.randrange(14),
                40 + rng.randrange(20),
                40 + rng.randrange(20),
            )
            ImageDraw.Draw(picture).ellipse(box, fill=tuple(rng.randrange(0, 150) for _ in range(3)))
            file = folder / "samples" / f"{number:02d}-{index}.png"
            file.parent.mkdir(exist_ok=True)
            picture.save(file)
            examples.append({"label": label, "image": f"samples/{file.name}"})
        content.append({"task": name, "prompt": prompt, "examples": examples})
    _json(folder / "samples.json", content)


@pytest.fixture
def new_run(tmp_path: Path) -> RunWriter:
    """`new_run("name", method=..., ...)` writes a run folder under the test's own directory."""

    def write(name: str, **options: Any) -> Path:
        return write_run(tmp_path / name, **options)

    return write


@pytest.fixture
def two_runs(new_run: RunWriter) -> list[RunView]:
    """codyra and lora over the same five tasks, 24 modules, pictures included."""
    return [read_run(new_run("codyra")), read_run(new_run("lora", method="lora"))]
