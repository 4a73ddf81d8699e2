"""Placement removal: a run's model with the updates of one kind of module, or of one layer, taken out of it.

Such a model has the base model's weights in these modules and the run's in all others; nothing is trained.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from codyra import files
from codyra.analysis.accuracy import accuracy
from codyra.analysis.bars import Bars, bar_chart
from codyra.analysis.ledger import Ledger
from codyra.analysis.place import beside
from codyra.analysis.tables import write_csv
from codyra.engine.folder import RunFolder, comparable
from codyra.engine.folder_reader import Figure, RunView, Size, read_run
from codyra.engine.lock import only_writer
from codyra.engine.manifest import continued, new_manifest
from codyra.engine.models import read_updates, select_tasks
from codyra.engine.plan import Plan, make_plan, scoring_cost
from codyra.engine.progress import Narrator, duration
from codyra.errors import UserError
from codyra.report.modules import arrange
from codyra.report.numbers import signed
from codyra.update import compose, distance

By = Literal["kind", "layer", "both"]
COLUMNS = (
    "by", "removed", "modules", "update_norm", "adaptation", "adaptation_change",
    "retention", "retention_change", "held_out", "held_out_change",
)  # fmt: skip


@dataclass(frozen=True)
class State:
    """The scores without one unit, percent: of every task, and of the guard's held-out set where there is one.

    `update_norm` is the Frobenius norm of what was taken out.
    """

    update_norm: Size
    accuracy: dict[str, Figure]
    held_out: Figure | None


@dataclass(frozen=True)
class Unit:
    """Modules whose updates are taken out together; `parameters` are theirs in the plain network."""

    by: Literal["kind", "layer", "model"]
    name: str
    num_modules: int
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Ablation:
    """The model after its first `after` tasks, and what it scores without each unit.

    The last unit is everything: the base model is left.
    """

    after: int
    whole: State
    without: tuple[tuple[Unit, State], ...]

    def adaptation(self, state: State) -> float:
        """Mean accuracy of the tasks that are learnt, percent."""
        learnt = list(state.accuracy.values())[: self.after]
        return sum(learnt) / len(learnt)

    def retention(self, state: State) -> float | None:
        """Mean accuracy of the tasks that are not learnt yet, percent; None where there is none."""
        unseen = list(state.accuracy.values())[self.after :]
        return sum(unseen) / len(unseen) if unseen else None

    def scores(self, state: State) -> tuple[float | None, float | None, float | None]:
        """Adaptation, retention, and the held-out set; percent."""
        return self.adaptation(state), self.retention(state), state.held_out

    def changes(self, state: State) -> tuple[float | None, float | None, float | None]:
        """By how much the `scores` differ from those of the whole model, points."""
        adaptation, retention, held_out = (
            None if now is None or before is None else now - before
            for now, before in zip(self.scores(state), self.scores(self.whole), strict=True)
        )
        return adaptation, retention, held_out


def ablate(
    run: Path,
    out: Path | None = None,
    *,
    after: int | None = None,
    by: By = "both",
    narrator: Narrator | None = None,
) -> tuple[Ablation, Path]:
    """Score a model of a run without the update of each unit; write ablate.csv and ablate.svg.

    Args:
        run: run folder; nothing in it is written.
        out: default <run>-ablation, or <run>-ablation-after-N. An interrupted ablation goes on there.
        after: the model after this many tasks; default all that are learnt.
        by: units are the modules of one kind in one tower, those of one layer of one tower, or both in turn.

    Returns:
        The ablation and its folder.

    Raises:
        UserError: no task changed the model, model or data are not those of the run, or a file of the run is
            missing or damaged.
    """
    narrator = narrator or Narrator()
    view, folder = read_run(run), RunFolder(run)
    numbers = select_tasks(folder, view.accuracy.tasks, after)
    if not numbers:
        raise UserError(f"{run}: the model after 0 tasks has no updates to take out; finish a task first")
    if not any(_changed_something(view, number) for number in numbers):
        raise UserError(
            f"{run}: its first {len(numbers)} tasks changed nothing in the network, so nothing can be taken out"
        )
    place = beside(run, "ablation" if after is None else f"ablation-after-{after}", out)
    ledger, settings = Ledger(place, State, view.accuracy.tasks), _settings(folder, view, len(numbers))
    ledger.check(settings)
    with only_writer(place):
        plan = _plan(folder, narrator)
        ledger.start(settings)
        weights = compose(plan.family.net, plan.base, read_updates(folder, plan.task_names, numbers))
        plan.family.write_weights(weights)
        units = units_of(plan.base, by)
        _say_estimate(plan, units, ledger, narrator)
        whole = _state(plan, weights, None, ledger, narrator)
        _compare(view, len(numbers), whole, narrator)
        found = Ablation(len(numbers), whole, ())
        for unit in units:
            state = _state(plan, weights, unit, ledger, narrator, whole)
            found = replace(found, without=(*found.without, (unit, state)))
        _write(found, place)
    return found, place


def units_of(parameters: Iterable[str], by: By) -> list[Unit]:
    """What is taken out together, in the order of the network; the last one is everything.

    Args:
        parameters: names of all that an update of the run may have changed.
    """
    of_module: dict[str, list[str]] = {}
    for name in parameters:
        of_module.setdefault(name.rpartition(".")[0] or name, []).append(name)
    grid = arrange(of_module)
    kinds: dict[str, list[str]] = {}
    layers: dict[tuple[int, int], tuple[str, list[str]]] = {}
    towers = list(dict.fromkeys(grid.towers.values()))
    for (kind, layer), module in grid.cells.items():
        kinds.setdefault(kind, []).append(module)
        if layer is not None:
            tower = grid.towers[kind]
            name = f"{tower} layer {layer}".strip()
            layers.setdefault((towers.index(tower), layer), (name, []))[1].append(module)

    def unit(part: Literal["kind", "layer", "model"], name: str, modules: Sequence[str]) -> Unit:
        names = tuple(name for module in modules for name in of_module[module])
        return Unit(part, name, len(modules), names)

    of_kinds = [unit("kind", name, modules) for name, modules in kinds.items()] if by != "layer" else []
    of_layers = [unit("layer", *layers[key]) for key in sorted(layers)] if by != "kind" else []
    return [*of_kinds, *of_layers, unit("model", "all updates", list(of_module))]


def _changed_something(view: RunView, number: int) -> bool:
    ranks = view.tasks[number - 1].ranks
    return ranks is not None and not ranks.no_change and ranks.head is None


def _settings(folder: RunFolder, view: RunView, after: int) -> dict[str, Any]:
    """What two states of one ablation have in common."""
    row = folder.row_file(after, view.accuracy.tasks)
    return {
        "analysis": "ablation",
        "after": after,
        "weights": folder.read_json(row).get("weights_sha256"),
        "data": {entry.task: entry.fingerprint for entry in view.manifest.data},
        **comparable(folder.stored_config()),
    }


def _plan(folder: RunFolder, narrator: Narrator) -> Plan:
    """The run's model and data, known to be what they were."""
    plan = make_plan(folder.stored_config(), {}, narrator)
    if plan.accelerator.num_processes > 1:
        raise UserError("ablate: runs in one process; start it without accelerate launch")
    continued(folder.read_json("manifest.json"), new_manifest(plan), folder.path)
    return plan


def _name(unit: Unit | None) -> str:
    return "whole" if unit is None else f"{unit.by}-{unit.name}".replace(" ", "-")


def _say_estimate(plan: Plan, units: Sequence[Unit], ledger: Ledger[State], narrator: Narrator) -> None:
    missing = [unit for unit in (None, *units) if ledger.find(_name(unit)) is None]
    if not missing:
        narrator.say(f"{ledger.folder}: all {len(units)} removals are measured")
        return
    narrator.say(
        f"{len(missing)} models to score on {len(plan.tasks)} tasks, on {plan.accelerator.device}; about "
        f"{duration(len(missing) * scoring_cost(plan))} -> {ledger.folder}"
    )


def _state(
    plan: Plan,
    weights: Mapping[str, Tensor],
    unit: Unit | None,
    ledger: Ledger[State],
    narrator: Narrator,
    whole: State | None = None,
) -> State:
    """Scores without this unit (None: of the whole model), from the ledger where they are there."""
    if (state := ledger.find(_name(unit))) is not None:
        return state
    parameters = unit.parameters if unit is not None else ()
    base, own = ({name: tensors[name] for name in parameters} for tensors in (plan.base, weights))
    norm = distance(own, base)
    if whole is not None and norm == 0:
        state = replace(whole, update_norm=0.0)  # the same model
    else:
        plan.family.write_weights(base)
        label = "whole model" if unit is None else f"without {unit.name}"
        state = State(norm, accuracy(plan, narrator, f"{label}: scoring"), _held_out(plan))
        plan.family.write_weights(own)
    ledger.add(_name(unit), state)
    return state


def _held_out(plan: Plan) -> float | None:
    if plan.guard_task is None:
        return None
    config = plan.config
    score = plan.family.score([plan.guard_task], config.train.eval_batch_size, config.stream.ties)[0]
    return score.percent("task")


def _compare(view: RunView, after: int, whole: State, narrator: Narrator) -> None:
    """Say so when the model does not score what it scored in the run: other rounding, or another label space."""
    stored = view.accuracy.rows[after - 1 : after]  # a run that was stopped may not have written it
    pairs = [pair for row in stored for pair in zip(row, whole.accuracy.values(), strict=True)]
    largest = max((abs(now - before) for before, now in pairs if before is not None), default=0.0)
    if largest > 0:
        narrator.say(
            f"the whole model differs from accuracy.csv of the run by up to {largest:.2f} points: another machine, or "
            "classes that were taken back since; changes below are against what it scores now"
        )


def _write(found: Ablation, folder: Path) -> None:
    rows = [("none", "", 0, found.whole)]
    rows += [(unit.by, unit.name, unit.num_modules, state) for unit, state in found.without]
    write_csv(
        folder / "ablate.csv",
        COLUMNS,
        [
            [
                by,
                name,
                num_modules,
                state.update_norm,
                *(
                    cell
                    for pair in zip(found.scores(state), found.changes(state), strict=True)
                    for cell in pair
                ),
            ]
            for by, name, num_modules, state in rows
        ],
    )
    *units, (_, base) = found.without
    series = (
        "adaptation: mean of the learnt tasks",
        "retention: mean of the tasks not learnt yet",
        "held-out set",
    )
    # The base model's change would dwarf all others as a bar; it is a figure.
    labels = [
        f"{series[place]} (all updates out: {signed(change)})"
        for place, change in enumerate(found.changes(base))
        if change is not None
    ]
    drawn = [
        Bars(unit.by, unit.name, [change for change in found.changes(state) if change is not None])
        for unit, state in units
    ]
    chart = bar_chart(
        drawn,
        labels,
        title=f"Updates taken out of the model after {found.after} task{'s' if found.after > 1 else ''}",
        axis="change against the whole model (points)",
    )
    files.write_text(folder / "ablate.svg", chart)
