"""Commands that walk through what a run has learnt: history, checkout, export, predict, verify."""

import json
import shlex
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from codyra.cli.console import console, continue_with, figure
from codyra.errors import UserError

if TYPE_CHECKING:
    from codyra.engine.folder_reader import GuardVerdict, HeadInfo
    from codyra.history.predict import Guess


def history(run: Annotated[Path, typer.Argument(help="run folder")]) -> None:
    """Tasks of a run in order: ranks kept, size of the update, scores right after learning and now."""
    from codyra.engine.folder_reader import check_not_pending, read_run
    from codyra.report.scoring import how_scored, irregular_answers

    check_not_pending(run)
    view = read_run(run)
    guarded = any(task.guard is not None for task in view.tasks)
    headed = any(task.ranks is not None and task.ranks.head is not None for task in view.tasks)
    titles = ["task", "name", "ranks kept", "|dW|", "survival AUC", "zero-shot %", "learned %", "now %"]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in [*titles, *(["classes", "head size"] if headed else []), *(["guard"] if guarded else [])]:
        table.add_column(title, no_wrap=title == "name")
    scores = view.accuracy
    for index, name in enumerate(scores.tasks):
        task = view.tasks[index] if index < len(view.tasks) else None
        ranks = task.ranks if task else None
        kept = [module.kept for module in ranks.modules.values() if module.kept is not None] if ranks else []
        learned = scores.rows[index][index] if index < len(scores.rows) else None
        cells: list[str | Text] = [
            str(index + 1),
            Text(name),
            figure(sum(kept) / len(kept) if kept else None, 1),
            figure(ranks.norm if ranks else None, 3),
            figure(ranks.survival_auc if ranks else None, 3),
            figure(scores.zero_shot[index] if scores.zero_shot else None, 1),
            figure(learned, 1),
            figure(scores.rows[-1][index] if learned is not None else None, 1),
        ]
        head = _head(ranks.head if ranks else None) if headed else []
        table.add_row(*cells, *head, *([_guarded(task.guard if task else None)] if guarded else []))
    manifest = view.manifest
    about = f"{run}: {manifest.method.name} on {manifest.base.name}, {manifest.status}"
    console.print(about, markup=False)
    console.print(table)
    if manifest.benchmark is not None and manifest.benchmark.caveat:
        console.print(manifest.benchmark.caveat, markup=False)
    if manifest.of_answers:
        for words in (how_scored(manifest, pooled=False), *irregular_answers(view)):
            console.print(words, markup=False)
    for archive in manifest.archive:
        later = [
            f"{number} {name}" for number, name in enumerate(archive.tasks, 1) if name not in scores.tasks
        ]
        kept_there = (
            f"tasks {', '.join(later)}" if archive.reason == "revert" and later else "figures of that time"
        )
        console.print(f"archive/{archive.number:02d} ({archive.reason}): {kept_there}", markup=False)
    if view.taken_back:
        among = ", ".join(manifest.scored_among)
        console.print(f"scores were taken among the classes of {among}", markup=False)


def _head(head: "HeadInfo | None") -> list[str]:
    """How many classes a head knows, and of how many numbers it consists."""
    return [str(head.classes), f"{head.parameters:,}"] if head is not None else ["-", "-"]


def _guarded(verdict: "GuardVerdict | None") -> str:
    """What the guard did with a task's update."""
    if verdict is None:
        return "-"
    if not verdict.accepted:
        return "refused"
    return "passed" if verdict.factor == 1 else f"x {verdict.factor:.3g}"


def checkout(
    run: Annotated[Path, typer.Argument(help="run folder")],
    out: Annotated[Path, typer.Option(help="new directory for the model")],
    after: Annotated[
        int | None,
        typer.Option(help="the model after this many tasks, 0 for the base model; default all", min=0),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="instead: the base model plus the updates of these tasks, as in 1,3")
    ] = None,
) -> None:
    """Write a model of a run as a plain transformers directory, with a model card and its classes."""
    chosen = _task_numbers(tasks)
    with _again():
        from codyra.history.checkout import checkout as write_checkout
        from codyra.markdown import numbered

        selection = write_checkout(run, out, after, chosen)
    what = "the base model"
    if selection.merged:
        head = "the head of " if selection.head else ""
        what += f" plus {head}{numbered(selection.merged)}"
    console.print(f"{out}: {what}", markup=False)
    for note in selection.notes():
        console.print(note, markup=False)


def export(
    run: Annotated[Path, typer.Argument(help="run folder")],
    task: Annotated[int, typer.Option(help="number of the task, from 1", min=1)],
    out: Annotated[Path, typer.Option(help="new directory for the adapter")],
    pad: Annotated[
        bool, typer.Option("--pad", help="one rank for all modules, filled up with zeros that change nothing")
    ] = False,
) -> None:
    """Write the adapter of one task in the standard format of peft, with a card that says what it stands on."""
    with _again():
        from codyra.history.export import export as write_export

        exported = write_export(run, task, out, pad)
    smallest, largest = exported.ranks
    ranks = f"rank {largest}" if smallest == largest else f"ranks {smallest} to {largest}"
    console.print(
        f"{out}: adapter of task {task}, {exported.modules} modules, {ranks}, alpha = rank", markup=False
    )
    if exported.server_rank is not None:
        console.print(f"a server needs --max-lora-rank {exported.server_rank}", markup=False)
    if exported.presupposes:
        command = ["codyra", "checkout", str(run), "--after", str(exported.presupposes), "--out", "DIR"]
        console.print(f"it belongs on the model of: {shlex.join(command)}", markup=False)


def predict(
    checkout: Annotated[Path, typer.Argument(help="directory that `codyra checkout` wrote")],
    inputs: Annotated[
        list[str],
        typer.Argument(help="image files, or texts, by what the model reads; - reads texts line by line"),
    ],
    top: Annotated[int, typer.Option(help="classes shown per input", min=1)] = 5,
    label_space: Annotated[
        str | None,
        typer.Option(
            help="all, learnt, or a task's name; default what the run was scored in. Language models: a task"
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="longest answer of a language model, in tokens", min=1)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """The classes nearest to pictures or texts, with their softmax scores in percent; or answers to prompts."""
    from codyra.history.about import read_about

    examples = [example for item in inputs for example in (_lines_of_stdin() if item == "-" else [item])]
    if read_about(checkout).answers is not None:
        _show_answers(checkout, examples, label_space, max_new_tokens, as_json)
        return
    from codyra.history.predict import predict as nearest

    guesses = nearest(checkout, examples, label_space, top)
    if as_json:
        typer.echo(json.dumps([_record(*pair) for pair in zip(examples, guesses, strict=True)], indent=2))
        return
    for example, nearest_classes in zip(examples, guesses, strict=True):
        console.print(example, markup=False)
        for guess in nearest_classes:
            names = ", ".join(f"{name} ({task})" for task, name in guess.classes)
            console.print(f"  {guess.percent:5.1f} %  {names}", markup=False)


def _show_answers(
    checkout: Path, prompts: list[str], task: str | None, max_new_tokens: int | None, as_json: bool
) -> None:
    from codyra.history.answer import answer

    answers = answer(checkout, prompts, task, max_new_tokens)
    if as_json:
        records = [{"input": prompt, "answer": text} for prompt, text in zip(prompts, answers, strict=True)]
        typer.echo(json.dumps(records, indent=2))
        return
    for prompt, text in zip(prompts, answers, strict=True):
        console.print(prompt, markup=False)
        console.print(f"  {text}", markup=False)


def verify(run: Annotated[Path, typer.Argument(help="run folder")]) -> None:
    """Check that a run folder is what the run wrote and still gives the models that were scored."""
    from codyra.history.verify import verify as findings

    faults = 0
    for finding in findings(run):
        faults += finding.ok is False
        mark = {True: "ok  ", False: "FAIL", None: "note"}[finding.ok]
        console.print(f"{mark}  {finding.text}", markup=False)
    if faults:
        raise UserError(
            f"{run}: {faults} faults; restore these files from a copy, or run the experiment again"
        )


def _record(example: str, guesses: list["Guess"]) -> dict[str, object]:
    return {
        "input": example,
        "guesses": [
            {
                "percent": guess.percent,
                "prompt": guess.prompt,
                "classes": [{"task": task, "class": name} for task, name in guess.classes],
            }
            for guess in guesses
        ],
    }


def _lines_of_stdin() -> list[str]:
    try:
        lines = sys.stdin.buffer.read().decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"standard input is not UTF-8 ({error.reason} at byte {error.start}); convert it"
        ) from None
    return [line for line in lines if line.strip()]


def _task_numbers(tasks: str | None) -> list[int] | None:
    if tasks is None:
        return None
    try:
        return [int(number) for number in tasks.split(",")]
    except ValueError:
        raise UserError(f"--tasks {tasks}: give numbers from 1 with commas between them, as in 1,3") from None


def _again() -> AbstractContextManager[None]:
    """On Ctrl-C: nothing is there yet, and the same command makes it."""
    return continue_with("codyra", *sys.argv[1:], kept="nothing was written")
