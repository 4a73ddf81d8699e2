"""The tasks of a stream as a person sees them: pictures or texts, labels, the prompt."""

from base64 import b64encode
from collections.abc import Sequence

from codyra.engine.folder_reader import Sample, TaskSamples
from codyra.report.markup import Markup, join, tag
from codyra.report.numbers import count
from codyra.report.runs import LabelledRun
from codyra.report.scoring import metric_title

_MAX_EXAMPLES = 12
_MAX_PICTURE_BYTES = 48_000
"""One picture on the page; samples are thumbnails, and a report should travel by mail."""
_MAX_ANSWERS = 3
_HEAD, _TAIL = 240, 120
"""Characters of a long text that are shown."""


def task_samples(group: Sequence[LabelledRun]) -> Markup:
    """Each task once, with the examples of the first run that stored any."""
    stored = next((run.view.samples for run in group if run.view.samples), ())
    samples = {entry.task: entry for entry in stored}
    labels = group[0].view.labels
    together = (
        {task.name: max(map(len, task.scored_prompts), default=1) for task in labels.tasks} if labels else {}
    )
    parts = []
    for number, data in enumerate(group[0].view.manifest.data, start=1):
        title = metric_title(data)
        kind = f"{count(data.classes)} classes" if title is None else f"Answers, scored by {title}"
        examples = f"{count(data.train)} training and {count(data.test)} test examples"
        parts.append(
            tag(
                "article",
                tag("h3", tag("span", str(number), class_="index"), " ", data.task),
                tag("p", f"{kind}, {examples}", class_="note"),
                _shown(samples[data.task], title is not None, together.get(data.task, 1))
                if data.task in samples
                else None,
                class_="task",
            )
        )
    return join(parts)


def _shown(entry: TaskSamples, answered: bool, num_prompts: int) -> Markup:
    return _answered(entry) if answered else _classified(entry, num_prompts)


def _answered(entry: TaskSamples) -> Markup:
    """A few prompts with the answers that are wanted."""
    template = tag("p", "Prompt: ", tag("q", entry.prompt), class_="prompt") if entry.prompt != "{}" else None
    examples = [
        tag(
            "li",
            tag("span", _shortened(example.text or ""), class_="quoted"),
            tag("span", "Answer: ", tag("q", _shortened(example.label)), class_="label"),
        )
        for example in entry.examples[:_MAX_ANSWERS]
    ]
    return join([template, tag("ul", *examples, class_="texts")])


def _shortened(text: str) -> str:
    """A long text without its middle: what to do stands at the beginning of a prompt or at its end."""
    if len(text) <= _HEAD + _TAIL:
        return text
    return f"{text[:_HEAD]} [...] {text[-_TAIL:]}"


def _classified(entry: TaskSamples, num_prompts: int) -> Markup:
    chosen = entry.examples[:_MAX_EXAMPLES]
    pictures = [example for example in chosen if example.text is None]
    texts = [example for example in chosen if example.text is not None]
    ensemble = f" (scored by the mean of {num_prompts} prompts for each class)" if num_prompts > 1 else None
    return join(
        [
            tag("p", "Prompt: ", tag("q", entry.prompt), ensemble, class_="prompt"),
            tag("ul", *map(_picture, pictures), class_="pictures") if pictures else None,
            tag("ul", *map(_text, texts), class_="texts") if texts else None,
        ]
    )


def _picture(example: Sample) -> Markup:
    label = tag("span", example.label, class_="label")
    if example.image is None:
        return tag("li", tag("span", "(picture missing)"), label)
    if len(example.image) > _MAX_PICTURE_BYTES:
        return tag("li", tag("span", "(picture too large)"), label)
    kind = "png" if example.image.startswith(b"\x89PNG") else "jpeg"
    source = f"data:image/{kind};base64,{b64encode(example.image).decode()}"
    return tag(
        "li",
        tag("img", src=source, alt=f"an example of {example.label}", width=72, height=72),
        label,
    )


def _text(example: Sample) -> Markup:
    return tag(
        "li", tag("span", example.text, class_="quoted"), " ", tag("span", example.label, class_="label")
    )
