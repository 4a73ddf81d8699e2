"""What of the data and the machine a checkout and its run folder would give away."""

from collections.abc import Iterator
from pathlib import Path

from codyra.engine.folder_reader import RunView
from codyra.history.names import is_local
from codyra.update import DualHead, Head


def disclosure(run: Path, view: RunView, head: Head | None = None) -> str:
    """The section of a card that says it, after a look at what is really there; `head` is that of the checkout."""
    held = "\n".join(f"- {item}" for item in _held_by_the_run(run, view))
    known = (
        "the names of all tasks with their prompt templates"
        if view.manifest.of_answers
        else "the names of all tasks and classes with their prompts"
    )
    return (
        "## What sharing this discloses\n\n"
        f"This folder holds {_trained(head)}, {known} (also of tasks that are not learnt here), "
        "scores, and the name and fingerprint of every data set. It holds no path, no example and no picture. Nobody "
        "has tested what could be read out of the weights.\n\n"
        f"The folder of the run it was made from holds more:\n\n{held}"
    )


def _trained(head: Head | None) -> str:
    """What there is of the training data."""
    if isinstance(head, DualHead):
        return f"the features of all {len(head.features)} training examples that were learnt"
    return "weights that were trained on the data"


def _held_by_the_run(run: Path, view: RunView) -> Iterator[str]:
    optional = {
        "data_dir": view.config.get("data_dir"),
        "model.name": is_local(view),
        "guard.data": view.config.get("guard"),
    }
    keys = ["root", "stream.tasks[].data", *(key for key, present in optional.items() if present)]
    yield f"`config.yaml`: where the data lie, under {', '.join(f'`{key}`' for key in keys)}"
    where = "`data[].source` and `base.name`" if is_local(view) else "`data[].source`"
    yield f"`manifest.json`: the same under {where}; the machine and the times of the run"
    if is_local(view) and any(run.glob("tasks/*/adapter_config.json")):
        yield "`tasks/*/adapter_config.json`: where the base model lay"
    examples = [example for task in view.samples for example in task.examples]
    pictures = sum(example.image is not None for example in examples)
    if examples:
        files = ["`samples.json`", *(["`samples/`"] if pictures else [])]
        files += ["`report.html`"] if (run / "report.html").is_file() else []
        what = f"{pictures} test pictures" if pictures else f"{len(examples)} test examples as text"
        yield f"{', '.join(files)}: {what} with their {'answers' if view.manifest.of_answers else 'labels'}"
    if (run / "zero_shot_predictions.jsonl").is_file():
        yield "`zero_shot_predictions.jsonl`, `tasks/*/predictions.jsonl`: the answers to every test prompt"
    if any(run.glob("tasks/*/shots.json")):
        yield "`tasks/*/shots.json`: which positions of the training files were used"
    if any(run.glob("tasks/*/memory.safetensors")):
        stores = view.manifest.method.stores
        yield f"`tasks/*/memory.safetensors`: what the method keeps of the data, here {stores}"
    if any(run.glob("tasks/*/train.jsonl")):
        yield "`tasks/*/train.jsonl`: the loss of every training step"
    if view.manifest.archive:
        yield "`archive/`: all of this as it was before tasks were appended or taken back, the latter's updates too"
