"""manifest.json: what ran, where, on what, and all wall-clock figures."""

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from codyra.engine.plan import Plan
from codyra.errors import UserError
from codyra.streams import InstructionTask, ReferenceData, Task, describe_benchmark, shared_prompts

_CLIP = {"openai/clip-vit-base-patch16": ("clip", 149_620_737)}
PUBLISHED_MODELS = {
    "xtail": _CLIP,
    "mtil": _CLIP,
    "trace": {
        "meta-llama/Llama-2-7b-chat-hf": ("llama", 6_738_415_616),
        "google/gemma-2b-it": ("gemma", 2_506_172_416),
        "meta-llama/Llama-3.2-1B-Instruct": ("llama", 1_235_814_400),
    },
}
"""Type and parameters of the models that published figures of a benchmark belong to."""
DECLARED = {
    "summary",
    "source",
    "stores",
    "needs_reference_data",
    "needs_number_of_tasks",
    "task_id_at_test",
    "extra_inference",
}
"""What the manifest repeats of a method's declaration."""
VERSIONED = ("codyra", "torch", "transformers", "peft", "accelerate", "datasets", "numpy", "pillow")


def new_manifest(plan: Plan) -> dict[str, Any]:
    """The manifest of a run that has not begun."""
    method = plan.method
    return {
        "format": 1,
        "status": "unfinished",
        **_surroundings(plan),
        "seed": plan.config.seed,
        "base": {
            "name": plan.config.model.name,
            "revision": plan.config.model.revision,
            "sha256": plan.family.fingerprint(),
            "files": plan.family.setup,
            "parameters": plan.family.num_parameters,
            "model_type": plan.family.model_type,
            "modality": plan.family.modality,
        },
        "method": {
            "name": method.name,
            **method.declared.model_dump(include=DECLARED),
            "trainable_parameters": plan.num_trainable(),
        },
        "data": [
            {
                "task": task.name,
                "source": task.source,
                "fingerprint": task.fingerprint,
                "train": len(task.train),
                "test": len(task.test),
                "classes": len(task.class_names) if isinstance(task, Task) else 0,
                "metric": task.metric if isinstance(task, InstructionTask) else None,
            }
            for task in plan.tasks
        ],
        "reference": _reference_entry(plan.reference_data),
        "benchmark": benchmark_entry(plan),
        "ties": shared_prompts(task for task in plan.tasks if isinstance(task, Task)),
        "scored_among": plan.task_names,
        "timing": {"started": now(), "finished": None, "zero_shot_seconds": None, "tasks": []},
        "peak_memory_bytes": 0,
        "rounding_loss": [],
        "sessions": [],
        "archive": [],
    }


def _reference_entry(data: ReferenceData | None) -> dict[str, Any] | None:
    """What a method was given beside the tasks; None where it needs nothing."""
    if data is None:
        return None
    return {
        kind: {"source": part.source, "count": len(part), "fingerprint": part.fingerprint}
        for kind, part in (("images", data.images), ("texts", data.texts))
    }


def benchmark_entry(plan: Plan) -> dict[str, Any] | None:
    """The benchmark that a run follows, with everything that keeps its figures from standing beside published ones."""
    about = describe_benchmark(plan.config.stream, plan.tasks)
    if about is None:
        return None
    name, published = Path(plan.config.model.name).name, PUBLISHED_MODELS[about["name"]]
    found = plan.family.model_type, plan.family.num_parameters
    # A copy on disk has the name without its place.
    same = [known for known, facts in published.items() if Path(known).name == name and facts == found]
    about["model"] = name if same else None
    if not same:
        what = "the published model" if len(published) == 1 else "a published model"
        about["marks"].insert(0, f"{plan.config.model.name} is not {what}, {' or '.join(published)}")
    if plan.config.model.quantize is not None:
        about["marks"].append(f"learnt and scored on weights in {plan.config.model.quantize}")
    return about


def continued(stored: dict[str, Any], here: dict[str, Any], path: Path) -> dict[str, Any]:
    """The stored manifest of a run that goes on, on the base model and the data it was started with.

    Args:
        here: the manifest this run would have if it began now; it may have further tasks.

    Raises:
        UserError: base model or data changed, or the stored manifest is damaged.
    """
    try:
        if stored["base"]["sha256"] != here["base"]["sha256"]:
            raise UserError(
                f"{path}: {here['base']['name']} has other weights than when this run began; "
                f"give the model of that time"
            )
        if changed := changed_setup(stored["base"].get("files", {}), here["base"]["files"]):
            raise UserError(
                f"{path}: {changed} of {here['base']['name']} is not what it was when this run began; "
                f"give the model of that time"
            )
        for before, now_ in zip(stored["data"], here["data"], strict=False):
            if before["task"] == now_["task"] and before["fingerprint"] != now_["fingerprint"]:
                raise UserError(
                    f"{path}: the data of task {now_['task']} ({now_['source']}) changed since this run "
                    f"began; restore them or start anew in another --out"
                )
        for kind, part in (here["reference"] or {}).items():
            if stored["reference"][kind]["fingerprint"] != part["fingerprint"]:
                raise UserError(
                    f"{path}: the reference {kind} ({part['source']}) changed since this run began; restore them or "
                    "start anew in another --out"
                )
        kept = {
            "timing": {**stored["timing"], "finished": None},
            **{key: stored[key] for key in ("peak_memory_bytes", "rounding_loss", "sessions", "archive")},
            "files": stored.get("files", {}),
        }
        kept["timing"]["tasks"] = list(stored["timing"]["tasks"])
        return {**here, **kept}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path / 'manifest.json'} is damaged or missing ({error!r}); restore it or start anew in another --out"
        ) from None


def changed_setup(stored: Mapping[str, str], here: Mapping[str, str]) -> str | None:
    """The first file of a model, beside its weights, that is another one now; None when none is."""
    names = sorted({*stored, *here} if stored else ())
    return next((name for name in names if stored.get(name) != here.get(name)), None)


def session(plan: Plan) -> dict[str, Any]:
    """One stretch of work on a run, from start or continuation to whatever ended it."""
    return {"started": now(), **_surroundings(plan)}


def surroundings_changed(manifest: dict[str, Any], plan: Plan) -> str | None:
    """What is not as it was in the session before, where that can change the last digits; None when all is."""
    if not manifest["sessions"]:
        return None
    before, here = manifest["sessions"][-1], _surroundings(plan)
    changes = [
        f"{key} {before.get(key)} -> {here[key]}"
        for key in ("device", "threads", "processes")
        if before.get(key) != here[key]
    ]
    torch_before = before.get("versions", {}).get("torch")
    if torch_before != here["versions"]["torch"]:
        changes.append(f"torch {torch_before} -> {here['versions']['torch']}")
    return ", ".join(changes) or None


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _surroundings(plan: Plan) -> dict[str, Any]:
    packages = VERSIONED if plan.config.model.quantize is None else (*VERSIONED, "bitsandbytes")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": machine(),
        "device": str(plan.accelerator.device),
        "threads": torch.get_num_threads(),
        "processes": plan.accelerator.num_processes,
    }


def machine() -> str:
    """System, cores, memory and accelerator, in words."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    accelerator = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.system()} {platform.machine()}, {cores} cores, {memory:.0f} GiB{accelerator}"
