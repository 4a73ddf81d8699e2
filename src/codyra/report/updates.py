"""What each task changed: ranks and norms per module, size of the updates, distance from the start."""

from collections.abc import Callable, Sequence

from codyra.engine.folder_reader import HeadInfo, ModuleUpdate, RankTable, TaskView
from codyra.report.charts import Series, line_chart, y_range
from codyra.report.markup import Markup, folded, join, scroll_box, tag
from codyra.report.modules import ModuleGrid, arrange
from codyra.report.numbers import DASH, count, short
from codyra.report.runs import LabelledRun, legend
from codyra.report.scores import HEAT_LEVELS

_CHANCE_AUC = 0.95


def module_maps(run: LabelledRun) -> Markup:
    """Ranks (where the method has any) and norms of one run: module kind by layer, one map per task."""
    tasks = [(task, task.ranks) for task in run.view.tasks if task.ranks is not None]
    if not tasks:
        return tag("p", "No task is finished yet.", class_="note")
    if all(ranks.kind == "none" for _, ranks in tasks):
        return tag("p", "This method changes nothing: it has no updates, hence no ranks.", class_="note")
    heads = [(task, ranks.head) for task, ranks in tasks if ranks.head is not None]
    if len(heads) == len(tasks):
        return _heads(heads)
    with_ranks = [(task, ranks) for task, ranks in tasks if any(entry.r for entry in ranks.modules.values())]
    parts: list[Markup | None] = [_survival(tasks)]
    if not with_ranks:
        kinds = ", ".join(dict.fromkeys(ranks.kind for _, ranks in tasks))
        parts.append(tag("p", f"Its updates ({kinds}) have a size but no ranks.", class_="note"))
    elif whole := _whole_rank(with_ranks):
        parts.append(
            tag("p", f"Fixed rank: all {whole} ranks of every module, in every task.", class_="note")
        )
    else:
        parts.append(_maps(with_ranks, _rank_cell, _rank_caption, f"Surviving ranks of {run.label}"))
    largest = max((entry.norm or 0 for _, ranks in tasks for entry in ranks.modules.values()), default=0)
    if largest > 0:
        maps = _maps(tasks, _norm_cell(largest), _norm_caption, f"Update norms of {run.label}")
        note = "Frobenius norm |ΔW| of each module's update; all tasks of this run share one colour scale."
        parts.append(folded("Size of the update of each module", tag("p", note, class_="note"), maps))
    return join(parts)


def _heads(heads: Sequence[tuple[TaskView, HeadInfo]]) -> Markup:
    """What stands beside a network that no task changed."""
    rows = [
        tag(
            "tr",
            tag("th", tag("span", str(task.number), class_="index"), " ", task.name, scope="row"),
            tag("td", count(head.classes), class_="number"),
            tag("td", count(head.parameters), class_="number"),
        )
        for task, head in heads
    ]
    names = tag("tr", *(tag("th", name, scope="col") for name in ("After task", "Classes", "Parameters")))
    note = "This method changes no weight, hence no ranks: it scores with a head beside the network."
    table = tag("table", tag("thead", names), tag("tbody", *rows), class_="plain")
    return join([tag("p", note, class_="note"), scroll_box(table, "The head after each task")])


def _whole_rank(tasks: Sequence[tuple[TaskView, RankTable]]) -> int | None:
    """The one rank of all modules when every rank was kept everywhere, else None."""
    entries = [entry for _, ranks in tasks for entry in ranks.modules.values()]
    whole = entries[0].r
    return whole if all(entry.kept == entry.r == whole for entry in entries) else None


def _survival(tasks: Sequence[tuple[TaskView, RankTable]]) -> Markup | None:
    """docs/method.md in plain words, with the measured numbers."""
    measured = [(task, ranks.survival_auc) for task, ranks in tasks if ranks.survival_auc is not None]
    if not measured:
        return None
    lowest, highest = (f"{choose(auc for _, auc in measured):.4f}" for choose in (min, max))
    verdict = (
        "In this run they were, in every task: chance chose the ranks, not the data."
        if float(lowest) >= _CHANCE_AUC
        else "In this run the start does not fully explain which ranks stayed; training had a say."
    )
    return tag(
        "p",
        tag("b", "Survival AUC ", lowest if lowest == highest else f"{lowest} to {highest}", ". "),
        "It says how well the random starting weight of a rank foretells whether the rank survives: near 1, "
        "the ranks were chosen by the initial draw, not by the data; at 0.5 the draw had no say. ",
        verdict,
        class_="honest",
    )


CellMaker = Callable[[ModuleUpdate], Markup]


def _maps(
    tasks: Sequence[tuple[TaskView, RankTable]],
    make_cell: CellMaker,
    make_caption: Callable[[RankTable], list[str]],
    label: str,
) -> Markup:
    maps = []
    for task, ranks in tasks:
        name = tag("span", tag("span", str(task.number), class_="index"), " ", task.name)
        caption = tag("caption", name, *(tag("span", line, class_="meaning") for line in make_caption(ranks)))
        if ranks.modules:
            body = _module_table(arrange(ranks.modules), ranks, caption, make_cell)
            maps.append(scroll_box(body, f"{label}, task {task.number}"))
        else:
            maps.append(tag("p", name, ": no module was changed.", class_="note"))
    return tag("div", *maps, class_="maps")


def _module_table(grid: ModuleGrid, ranks: RankTable, caption: Markup, make_cell: CellMaker) -> Markup:
    head = [tag("th", "layer", scope="col")]
    head += [tag("th", DASH if layer is None else str(layer), scope="col") for layer in grid.layers]
    rows = []
    for kind in grid.kinds:
        cells = [
            make_cell(ranks.modules[grid.cells[kind, layer]]) if (kind, layer) in grid.cells else tag("td")
            for layer in grid.layers
        ]
        rows.append(tag("tr", tag("th", kind, scope="row"), *cells))
    return tag("table", caption, tag("thead", tag("tr", *head)), tag("tbody", *rows), class_="heat modules")


def _level(share: float) -> str:
    return f"h{min(HEAT_LEVELS, max(0, round(share * HEAT_LEVELS)))}"


def _rank_cell(entry: ModuleUpdate) -> Markup:
    if entry.kept is None or not entry.r:
        return tag("td", DASH, class_="none")
    return tag("td", str(entry.kept), class_=_level(entry.kept / entry.r))


def _rank_caption(ranks: RankTable) -> list[str]:
    kept = [entry.kept for entry in ranks.modules.values() if entry.kept is not None]
    starts = sorted({entry.r for entry in ranks.modules.values() if entry.r})
    lines = [f"mean {sum(kept) / len(kept):.1f} of {'/'.join(map(str, starts))}"] if kept else []
    return lines + ([] if ranks.survival_auc is None else [f"survival AUC {ranks.survival_auc:.4f}"])


def _norm_cell(largest: float) -> CellMaker:
    def make(entry: ModuleUpdate) -> Markup:
        if entry.norm is None:
            return tag("td", DASH, class_="none")
        return tag("td", f"{entry.norm:.2g}", class_=_level(entry.norm / largest))

    return make


def _norm_caption(ranks: RankTable) -> list[str]:
    return [f"in all {short(ranks.norm)}"]


def size_charts(group: Sequence[LabelledRun]) -> Markup:
    """|dW| of each task and the drift from the base model, all runs in one chart each."""
    finished = [run for run in group if run.view.metrics is not None]
    if not finished:
        return tag("p", "Drift is measured when a run is finished.", class_="note")
    charts = []
    for title, key in (
        ("Size of each task's update, |ΔW|", "update_norm"),
        ("Distance from the base model", "drift"),
    ):
        lines = [
            Series(run.label, run.style, list(enumerate(getattr(run.view.metrics, key), start=1)))
            for run in finished
        ]
        described = "; ".join(
            f"{line.label}: {', '.join(short(y) for _, y in line.points)}" for line in lines
        )
        chart = line_chart(
            lines,
            title=f"{title}, task by task",
            description=described,
            y_span=y_range(lines, from_zero=True),
            x_ticks=range(1, len(group[0].view.accuracy.tasks) + 1),
        )
        charts.append(tag("figure", tag("figcaption", title), chart))
    return join([legend(finished), tag("div", *charts, class_="multiples")])
