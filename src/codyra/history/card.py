"""The model card of a checkout: how to use it, where it comes from, what it discloses."""

from pathlib import Path

from codyra.engine.folder_reader import RunView
from codyra.families import Family
from codyra.history.about import FILE, About
from codyra.history.disclosure import disclosure
from codyra.history.names import data_name, hub_id
from codyra.history.selection import Selection
from codyra.markdown import DASH, code_block, figure, front_matter, numbered, table, text
from codyra.report.scoring import metric_title
from codyra.update import HEAD_FILE, DualHead, Head

SNIPPET_PROMPTS = 4


def model_card(
    run: Path, view: RunView, family: Family, selection: Selection, about: About, head: Head | None = None
) -> str:
    """README.md of a checkout, with the metadata block that the Hugging Face hub reads."""
    sections = [
        _metadata(view, family),
        f"# {text(about.run)}, {_state(view, selection)}",
        _what_it_is(view, selection, family.model_type),
        "## Use",
        _use(family, about),
        *(["## The head", _use_of_head(family, head)] if head is not None else []),
        "## Where it comes from",
        _provenance(view, selection, about),
        _tasks(view, selection, about),
        disclosure(run, view, head),
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(view: RunView, family: Family) -> str:
    return front_matter(
        library_name=family.library_name,
        pipeline_tag=family.pipeline_tag,
        base_model=hub_id(view),
        tags=list(dict.fromkeys(["codyra", "continual-learning", view.manifest.method.name])),
    )


def _state(view: RunView, selection: Selection) -> str:
    if selection.after is None:
        return numbered(selection.merged)
    if not selection.after:
        return "base model"
    return f"after task {selection.after} of {len(view.accuracy.tasks)}"


def _what_it_is(view: RunView, selection: Selection, model_type: str) -> str:
    kind = f"A plain `{model_type}` model of the transformers library"
    if not selection.merged or selection.unchanged:
        return f"{kind}: the base model that the run started from, unchanged."
    learnt = [view.accuracy.tasks[number - 1] for number in selection.contained]
    if selection.head:
        beside = (
            f"the base model that the run started from, unchanged, and beside it in `{HEAD_FILE}` a head that learnt "
            f"{', '.join(map(text, learnt))}. transformers alone does not see the head: without it this is the base "
            "model."
        )
        return " ".join([f"{kind}: {beside}", *selection.notes()])
    sentences = [
        f"{kind} that learnt {', '.join(map(text, learnt))}: the base model plus the stored "
        f"{'update' if len(selection.merged) == 1 else 'updates'} of {numbered(selection.merged)}, summed and "
        "rounded once.",
        *selection.notes(),
        _presupposes(view),
    ]
    return " ".join(sentences)


def _presupposes(view: RunView) -> str:
    return "The run keeps one update per task; " + (
        "they are states of one adapter, each of which replaces the one before."
        if any(task.ranks and task.ranks.kind == "cumulative" for task in view.tasks)
        else "that of task t was trained on top of tasks 1 to t-1 and presupposes them."
    )


def _use(family: Family, about: About) -> str:
    if about.answers is not None:
        prompts = list(dict.fromkeys(task.prompt.replace("{}", "...") for task in about.tasks))
        held = "how the prompts of all tasks are cut and answered"
        what = f'"a prompt" --label-space {about.tasks[0].name}'
        printed = "puts it into the template of that task and prints the answer"
    else:
        prompts = [prompt for task in about.tasks for prompt in task.prompts]
        held = "the classes and prompts of all tasks"
        what = "picture.jpg" if family.modality == "image" else '"a text"'
        printed = "reads them and prints the nearest classes"
    code = code_block("python", family.usage(prompts[:SNIPPET_PROMPTS]))
    return (
        f"With transformers alone, in this folder:\n\n{code}\n\n"
        f"`{FILE}` holds {held}. With codyra installed, `codyra predict . {what}` {printed}."
    )


def _use_of_head(family: Family, head: Head) -> str:
    """What the head is, and its scores in plain torch."""
    if isinstance(head, DualHead):
        what = "a kernel ridge regression on the stored features of the training examples"
        scores = (
            'squares = torch.cdist(features, head["features"].double()).square()\n'
            'scores = torch.exp(-head["gamma"] * squares) @ head["coefficients"]'
        )
    else:
        what = "a ridge regression on random features"
        scores = 'scores = torch.relu(features @ head["H"].double()) @ head["W"]'
    code = (
        "import json\n"
        "from safetensors.torch import load_file\n\n"
        f'head, tasks = load_file("{HEAD_FILE}"), json.load(open("{FILE}"))["tasks"]\n'
        'classes = [name for task in tasks if task["learnt"] for name in task["classes"]]\n'
        f"with torch.no_grad():\n    features = {family.features_in_usage}.double()\n"
        f"{scores}  # one column per class\n"
        "print(classes[scores[0].argmax()])"
    )
    return (
        f"`{HEAD_FILE}` is {what}: it gives each of the {head.num_classes} classes of the learnt tasks a score, "
        f"{head.num_parameters:,} numbers in all. After the code above:\n\n{code_block('python', code)}\n\n"
        "`codyra predict` joins both, as the run did when it was scored: where the nearest prompt of all is one of a "
        f"learnt class, the best learnt class by {1 - float(head.fusion):.3g} x the softmax over all prompts + "
        f"{float(head.fusion):.3g} x the head's score; otherwise the nearest prompt."
    )


def _provenance(view: RunView, selection: Selection, about: About) -> str:
    manifest = view.manifest
    versions = ", ".join(f"{text(name)} {text(version)}" for name, version in manifest.versions.items())
    rows = [
        ("base model", f"{text(about.base.name)}, revision {text(about.base.revision or 'not given')}"),
        ("SHA-256 of its parameters", f"`{text(about.base.sha256)}`"),
        ("run", f"{text(view.name)}, {manifest.status}, seed {manifest.seed}"),
        ("method", text(manifest.method.name)),
        *_stream_metrics(view, selection),
        *_caveat(view),
        ("learnt with", versions),
        ("written by", f"codyra {about.codyra}"),
    ]
    return table(("", ""), rows)


def _caveat(view: RunView) -> list[tuple[str, str]]:
    benchmark = view.manifest.benchmark
    return [("benchmark", text(benchmark.caveat))] if benchmark is not None and benchmark.caveat else []


def _stream_metrics(view: RunView, selection: Selection) -> list[tuple[str, str]]:
    """The summary of the whole stream, for the model at its end."""
    metrics = view.metrics
    if metrics is None or selection.after != len(view.accuracy.tasks):
        return []
    shown = {
        "Transfer": metrics.transfer,
        "Average": metrics.average,
        "Last": metrics.last,
        "forgetting from the best": metrics.forgetting_max,
        "forgetting from just learnt": metrics.forgetting_diag,
    }
    if view.manifest.of_answers:
        shown |= {
            "backward transfer (TRACE paper)": metrics.bwt_trace,
            "backward transfer (TreeLoRA)": metrics.bwt_clipped,
        }
    return [("over the stream", ", ".join(f"{name} {figure(value, 2)}" for name, value in shown.items()))]


def _tasks(view: RunView, selection: Selection, about: About) -> str:
    """Every task of the run: scores before, right after and in this state, size of its update, its data."""
    scores = view.accuracy
    states = [scores.zero_shot, *scores.rows]
    # The table is written after the scores of a task: a run killed in between has one row less.
    after = selection.after
    here = states[after] if after is not None and after < len(states) else None
    rows, data = [], []
    for index, entry in enumerate(view.manifest.data):
        number = index + 1
        rows.append(
            (
                str(number),
                text(entry.task),
                "yes" if number in selection.contained else "no",
                figure(scores.zero_shot and scores.zero_shot[index], 2),
                figure(scores.rows[index][index] if index < len(scores.rows) else None, 2),
                figure(here and here[index], 2),
                *_update(view, number),
            )
        )
        counted = (text(metric_title(entry) or str(entry.classes)), str(entry.train), str(entry.test))
        data.append((str(number), text(data_name(entry.source)), *counted, text(entry.fingerprint)))
    counted_by = "metric" if view.manifest.of_answers else "classes"
    unscored = "" if here else " This state has no scores."
    head = (
        "",
        "task",
        "learnt here",
        "zero-shot",
        "right after it",
        "here",
        "mean rank",
        "max",
        "size",
        "guard",
    )
    return (
        f"Tasks in the order of the stream. {_what_scores_are(view, about)}: before the stream, right after the task, "
        f"and in this state.{_quantized(view, about)}{unscored} Ranks kept per adapted module; size is the Frobenius "
        "norm of the task's update; guard is the factor by which a guard shrank it.\n\n"
        f"{table(head, rows)}\n\n"
        f"{table(('', 'data', counted_by, 'training', 'test', 'fingerprint'), data)}"
    )


def _what_scores_are(view: RunView, about: About) -> str:
    if view.manifest.of_answers:
        return "Scores on the scored split in percent, each task by its own metric"
    space = "all tasks" if about.scored_in == "all" else "the task itself"
    if view.taken_back and about.scored_in == "all":
        space += f" and of {', '.join(map(text, view.taken_back))}, taken back since"
    return f"Accuracy on the scored split in percent, among the classes of {space}"


def _quantized(view: RunView, about: About) -> str:
    """What a run that learnt on quantised weights has scored, and what is here."""
    kind = view.config["model"].get("quantize")
    if kind is None:
        return ""
    return (
        f" They were taken, and the tasks learnt, with the weights in {text(str(kind))}; this folder holds the "
        f"merged ones in {about.base.dtype}, which no quantised weight went into and which may score otherwise."
    )


def _update(view: RunView, number: int) -> tuple[str, str, str, str]:
    """Mean and largest rank kept over all adapted modules, norm of the update, factor of the guard."""
    task = next((task for task in view.tasks if task.number == number), None)
    if task is None or task.ranks is None:
        return (DASH,) * 4
    ranks = task.ranks
    kept = [module.kept for module in ranks.modules.values() if module.kept is not None]
    return (
        figure(sum(kept) / len(kept) if kept else None, 2),
        str(max(kept)) if kept else DASH,
        figure(ranks.norm, 4),
        figure(task.guard.factor if task.guard else None, 4),
    )
