"""An export: the adapter of one task as a directory that peft and servers read, with a card of its own."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from codyra import files
from codyra.engine.folder import RunFolder
from codyra.engine.folder_reader import RunView, read_run
from codyra.engine.models import read_updates, select_tasks
from codyra.errors import UserError
from codyra.history.directory import whole_directory
from codyra.history.names import base_name, hub_id, is_local
from codyra.markdown import code_block, figure, front_matter, numbered, table, text
from codyra.update import TaskUpdate, save_adapter

SERVER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes for --max-lora-rank."""


@dataclass(frozen=True)
class Exported:
    """What an export holds: adapted modules, ranks from smallest to largest, and what it stands on.

    `presupposes` counts the tasks that the model below it must have learnt; `server_rank` is the smallest
    --max-lora-rank that holds the adapter, None when no value does.
    """

    modules: int
    ranks: tuple[int, int]
    presupposes: int
    server_rank: int | None


def export(run: Path, number: int, out: Path, pad: bool = False) -> Exported:
    """Write the adapter of task `number`, from 1, to the new directory `out`.

    Args:
        pad: give every module the largest rank, by zeros that add nothing.

    Raises:
        UserError: the task is not learnt or left no adapter behind, a file of the run is missing or damaged, or
            `out` exists or cannot be written.
    """
    view, folder = read_run(run), RunFolder(run)
    select_tasks(folder, view.accuracy.tasks, tasks=[number])
    (update,) = read_updates(folder, view.accuracy.tasks, [number])
    _check_is_adapter(update, run, number)
    kept = [rank for rank in update.ranks.values() if rank]
    exported = Exported(
        modules=len(kept),
        ranks=(max(kept) if pad else min(kept), max(kept)),
        presupposes=0 if update.kind == "cumulative" else number - 1,
        server_rank=next((rank for rank in SERVER_RANKS if rank >= max(kept)), None),
    )
    with whole_directory(out) as directory:
        name = base_name(view) if is_local(view) else None
        save_adapter(update, directory, name, view.manifest.base.revision, pad=pad)
        files.write_text(directory / "README.md", _card(view, number, update, exported, pad))
    return exported


def _check_is_adapter(update: TaskUpdate, run: Path, number: int) -> None:
    if update.factors:
        return
    if update.no_change:
        raise UserError(f"{run}: task {number} left nothing behind, so there is no adapter to export")
    what = "a head behind" if update.head is not None else f"whole tensors behind (kind {update.kind})"
    raise UserError(
        f"{run}: task {number} left {what}, which no adapter holds; take the "
        f"model instead: codyra checkout {shlex.quote(str(run))} --after {number} --out DIR"
    )


def _card(view: RunView, number: int, update: TaskUpdate, exported: Exported, pad: bool) -> str:
    base, name = view.manifest.base, view.accuracy.tasks[number - 1]
    smallest, largest = exported.ranks
    ranks = f"{smallest} in every module" if smallest == largest else f"{smallest} to {largest}"
    mean = sum(update.ranks.values()) / len(update.ranks)
    rows = [
        ("run", f"{text(view.name)}, method {text(view.manifest.method.name)}, seed {view.manifest.seed}"),
        ("base model", f"{text(base_name(view))}, revision {text(base.revision or 'not given')}"),
        ("SHA-256 of its parameters", text(str(base.sha256))),
        ("adapted modules", f"{exported.modules} of {len(update.ranks)} that were trained"),
        ("ranks", f"{ranks}; {figure(mean, 2)} kept on average of those that were trained"),
        ("alpha", "equal to the rank everywhere: the scale is 1"),
    ]
    sections = [
        front_matter(
            library_name="peft",
            base_model=hub_id(view),
            base_model_relation="adapter" if hub_id(view) else None,
            tags=["codyra", "lora", "continual-learning"],
        ),
        f"# {text(view.name)}, adapter of task {number}: {text(name)}",
        f"A standard LoRA adapter in the format of peft, {_standing(exported, number)}",
        table(("", ""), rows),
        "## Use",
        _use(view, exported),
        "## Serving",
        _serving(exported, pad),
        "## What sharing this discloses",
        _disclosure(view),
    ]
    return "\n\n".join(sections) + "\n"


def _standing(exported: Exported, number: int) -> str:
    if exported.presupposes:
        return (
            f"trained on top of the tasks before it: it belongs on the model that has learnt "
            f"{numbered(range(1, number))}. On the bare base model it loads without complaint "
            "and makes a model that nobody has scored."
        )
    if number > 1:
        return f"trained on through the whole stream: it holds tasks 1 to {number} and stands on the base model alone."
    return "trained on the base model."


def _use(view: RunView, exported: Exported) -> str:
    hub = hub_id(view)
    loader = "AutoModel" if view.answers is None else "AutoModelForCausalLM"
    if exported.presupposes == 0 and hub is not None:
        below, revision = hub, view.manifest.base.revision
        load = f"{loader}.from_pretrained({below!r}" + (f", revision={revision!r})" if revision else ")")
        first = ""
    else:
        below = f"after-task-{exported.presupposes}" if exported.presupposes else "base-model"
        load = f"{loader}.from_pretrained({below!r})"
        command = f"codyra checkout {shlex.quote(view.name)} --after {exported.presupposes} --out {below}"
        first = f"The model it belongs on, made from the run folder:\n\n{code_block('bash', command)}\n\n"
    code = (
        f"from peft import PeftModel\nfrom transformers import {loader}\n\n"
        f'adapter = "."  # this folder, or its id once it is on a hub\n'
        f"model = PeftModel.from_pretrained({load}, adapter)"
    )
    return f"{first}{code_block('python', code)}"


def _serving(exported: Exported, pad: bool) -> str:
    largest = exported.ranks[1]
    flag = (
        f"for vLLM that is `--max-lora-rank {exported.server_rank}`"
        if exported.server_rank is not None
        else f"vLLM goes no further than {SERVER_RANKS[-1]}: serve the merged model of `codyra checkout` instead"
    )
    uniform = (
        "Smaller ranks were filled up with zeros to one rank for all modules; `codyra export` without `--pad` leaves "
        "them out."
        if pad
        else "Ranks differ from module to module (`rank_pattern`); for a loader that wants one rank for all, export "
        "again with `--pad`."
    )
    sentences = [f"A server must allow ranks up to {largest} (`max_lora_rank`); {flag}."]
    if pad or exported.ranks[0] != largest:
        sentences.append(uniform)
    return " ".join(sentences)


def _disclosure(view: RunView) -> str:
    return (
        f"Weights that were trained on the data, and the names of the run, the task and the base model "
        f"({text(base_name(view))}). No path, no example."
    )
