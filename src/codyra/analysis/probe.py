"""Rank x placement probe: one task, learnt at several fixed ranks in several parts of the model.

Every point starts from the base model and learns the same task on the same batches, as
`codyra run CONFIG --set method.name=lora --set method.r=RANK --set method.targets=PLACEMENT` does with its first task.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codyra import files
from codyra.analysis.accuracy import accuracy
from codyra.analysis.ledger import Ledger
from codyra.analysis.scatter import Spot, scatter
from codyra.analysis.tables import write_csv
from codyra.engine.config import RunConfig, load_config
from codyra.engine.folder import comparable
from codyra.engine.folder_reader import Count, Figure, Size
from codyra.engine.lock import only_writer
from codyra.engine.plan import Plan, make_plan, peak_memory, scoring_cost, step_cost
from codyra.engine.progress import Narrator, duration, size
from codyra.engine.trainer import learn_task
from codyra.errors import UserError
from codyra.methods import build_method
from codyra.naming import did_you_mean
from codyra.report.numbers import signed
from codyra.update import TaskUpdate, compose

PLACEMENTS = ("attention", "mlp", "vision", "text", "all")
ZERO_SHOT = "zero-shot"
COLUMNS = (
    "placement", "rank", "modules", "trainable_parameters", "update_norm",
    "accuracy", "adaptation", "retention", "retention_change",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """What was measured at one rank and placement; rank 0 is the base model.

    `accuracy` has every task of the stream, percent, in its label space; `update_norm` is |dW|_F.
    """

    placement: str
    rank: Count
    modules: Count
    trainable_parameters: Count
    update_norm: Size
    accuracy: dict[str, Figure]


@dataclass(frozen=True)
class Probe:
    """A whole probe: the base model's point and those of every rank and placement; `task` is the one learnt."""

    task: str
    zero_shot: Point
    points: tuple[Point, ...]

    def adaptation(self, point: Point) -> float:
        """Accuracy gained on the learnt task, points."""
        return point.accuracy[self.task] - self.zero_shot.accuracy[self.task]

    def retention(self, point: Point) -> float:
        """Mean accuracy of all other tasks, percent."""
        others = [score for name, score in point.accuracy.items() if name != self.task]
        return sum(others) / len(others)

    def retention_change(self, point: Point) -> float:
        """Retention against that of the base model, points."""
        return self.retention(point) - self.retention(self.zero_shot)


def probe(
    source: str | Path | Mapping[str, Any] | RunConfig,
    out: Path | None = None,
    *,
    overrides: Iterable[str] = (),
    task: str | None = None,
    ranks: Sequence[int] = (1, 2, 4, 8, 16),
    placements: Sequence[str] = PLACEMENTS,
    narrator: Narrator | None = None,
) -> tuple[Probe, Path]:
    """Measure every point that is not measured yet; write probe.csv and probe.svg.

    Args:
        source: as for `codyra.run`; its method gives way to lora.
        out: folder of the probe; default `default_out`.
        task: the one to learn; the first of the stream by default. The others are unseen.
        ranks: each at least 1.
        placements: of PLACEMENTS; one that the model has not, or that is the same layers as one before it, is left
            out.
        narrator: who tells what is going on; prints by default.

    Returns:
        The probe and its folder.

    Raises:
        UserError: anything the caller must change; what was measured is kept.
    """
    config = _probed(load_config(source, overrides))
    names = _order(config, task)
    for placement in placements:
        if placement not in PLACEMENTS:
            raise UserError(f"--placements: there is no {placement!r}{did_you_mean(placement, PLACEMENTS)}")
    widest = _at(config, max(ranks), "all")
    folder, narrator = out if out is not None else default_out(config), narrator or Narrator()
    ledger, settings = Ledger(folder, Point, names), _settings(config, names[0])
    ledger.check(settings)
    with only_writer(folder):
        plan = make_plan(widest, {}, narrator)
        if plan.accelerator.num_processes > 1:
            raise UserError("probe: runs in one process; start it without accelerate launch")
        plan = replace(plan, tasks=sorted(plan.tasks, key=lambda one: names.index(one.name)))
        plans = [
            _plan_at(plan, _at(config, rank, placement))
            for placement in _available(plan, placements, narrator)
            for rank in sorted(set(ranks))
        ]
        ledger.start({**settings, **_found_there(plan)})
        _say_estimate(plans, ledger, narrator)
        found = Probe(names[0], _zero_shot(plan, ledger, narrator), ())
        for point_plan in plans:
            point = ledger.find(_name(point_plan)) or _measure(point_plan, ledger, found, narrator)
            found = replace(found, points=(*found.points, point))
        _write(found, folder)
    return found, folder


def default_out(config: RunConfig) -> Path:
    """runs/<config name>-probe: the same command goes on there."""
    return Path("runs") / f"{config.name}-probe"


def _probed(config: RunConfig) -> RunConfig:
    """The config with lora in place of its method, and without a guard, which has nothing to keep here."""
    return load_config(config.model_copy(update={"guard": None}), ["method.name=lora"])


def _at(config: RunConfig, rank: int, placement: str) -> RunConfig:
    return load_config(config, [f"method.r={rank}", f"method.targets={placement}"])


def _order(config: RunConfig, task: str | None) -> list[str]:
    """Names of the tasks, the one to learn first: a probe is the beginning of a stream that begins with it."""
    names = [spec.name for spec in config.stream.chosen()]
    if len(names) < 2:
        raise UserError(
            f"the stream has one task, {names[0]}; a probe needs another, which is not learnt, to measure retention"
        )
    if task is not None and task not in names:
        raise UserError(f"--task: the stream has no task {task!r}{did_you_mean(task, names)}")
    return sorted(names, key=lambda name: name != (task or names[0]))


def _settings(config: RunConfig, task: str) -> dict[str, Any]:
    """What two points of one probe have in common, as far as the config says it."""
    content = comparable(config)
    for key in ("r", "targets"):
        del content["method"][key]
    return {"analysis": "probe", "task": task, **content}


def _found_there(plan: Plan) -> dict[str, Any]:
    """What else they have in common: the model and the data that the config points to."""
    return {
        "weights": plan.family.fingerprint(),
        "model_files": plan.family.setup,
        "data": {task.name: task.fingerprint for task in plan.tasks},
    }


def _available(plan: Plan, placements: Sequence[str], narrator: Narrator) -> list[str]:
    """The placements that this model has, each set of layers once."""
    found: dict[tuple[str, ...], str] = {}
    for placement in sorted(set(placements), key=PLACEMENTS.index):
        if placement in ("vision", "text") and placement not in plan.family.towers:
            narrator.say(f"{placement} is left out: this model has no {placement} tower")
            continue
        modules = tuple(plan.family.target_modules(placement))
        if modules in found:
            narrator.say(f"{placement} is left out: in this model it is the same layers as {found[modules]}")
            continue
        found[modules] = placement
    if not found:
        raise UserError("--placements: this model has none of these; choose others")
    return list(found.values())


def _plan_at(plan: Plan, config: RunConfig) -> Plan:
    """The plan of one point; model, data and base weights are those of `plan`."""
    method = build_method(config.method)
    assert method.targets is not None
    targets = plan.family.target_modules(method.targets)
    return replace(plan, config=config, method=method, target_modules=targets)


def _placement(plan: Plan) -> tuple[str, int]:
    options = plan.config.method.model_dump()
    return options["targets"], options["r"]


def _name(plan: Plan) -> str:
    placement, rank = _placement(plan)
    return f"{placement}-r{rank}"


def _say_estimate(plans: Sequence[Plan], ledger: Ledger[Point], narrator: Narrator) -> None:
    """Tell what the points that are missing will cost, from one training step per placement."""
    missing = [plan for plan in plans if ledger.find(_name(plan)) is None]
    if not missing:
        narrator.say(f"{ledger.folder}: all {len(plans)} points are measured")
        return
    largest = {_placement(plan)[0]: plan for plan in missing}
    costs = {placement: step_cost(plan, 0) for placement, plan in largest.items()}
    steps = missing[0].num_steps(0)
    seconds = len(missing) * scoring_cost(missing[0])
    seconds += sum(steps * costs[_placement(plan)[0]].seconds for plan in missing)
    moments = 8 * max(cost.num_trainable for cost in costs.values())
    first = missing[0]
    narrator.say(
        f"lora on {first.config.model.name}: {len(missing)} of {len(plans)} points x {steps} steps on "
        f"{first.tasks[0].name}, batch {first.config.train.batch_size}, on {first.accelerator.device}; about "
        f"{duration(seconds)}, {size(peak_memory() + moments)} of memory -> {ledger.folder}"
    )


def _zero_shot(plan: Plan, ledger: Ledger[Point], narrator: Narrator) -> Point:
    point = ledger.find(ZERO_SHOT)
    if point is None:
        point = Point(ZERO_SHOT, 0, 0, 0, 0.0, accuracy(plan, narrator, f"{ZERO_SHOT}: scoring"))
        ledger.add(ZERO_SHOT, point)
    return point


def _measure(plan: Plan, ledger: Ledger[Point], so_far: Probe, narrator: Narrator) -> Point:
    started = time.perf_counter()
    (placement, rank), name = _placement(plan), _name(plan)
    update = _learn(plan, narrator)
    plan.family.write_weights(compose(plan.family.net, plan.base, [update]))
    point = Point(
        placement,
        rank,
        modules=len(plan.target_modules),
        trainable_parameters=plan.num_trainable(),
        update_norm=update.norm(),
        accuracy=accuracy(plan, narrator, f"{name}: scoring"),
    )
    ledger.add(name, point)
    narrator.say(
        f"{placement}, rank {rank}: {signed(so_far.adaptation(point))} points on {so_far.task}, "
        f"{signed(so_far.retention_change(point))} on the others ({duration(time.perf_counter() - started)})"
    )
    return point


def _learn(plan: Plan, narrator: Narrator) -> TaskUpdate:
    placement, rank = _placement(plan)
    label = f"{placement}, rank {rank}"
    plan.family.write_weights(plan.base)
    try:
        return learn_task(plan, plan.context(0), narrator, label, log=[])[0]
    except UserError as error:
        raise UserError(f"{label}: {error}") from error


def _write(found: Probe, folder: Path) -> None:
    write_csv(
        folder / "probe.csv",
        COLUMNS,
        [
            [
                point.placement,
                point.rank,
                point.modules,
                point.trainable_parameters,
                point.update_norm,
                point.accuracy[found.task],
                found.adaptation(point),
                found.retention(point),
                found.retention_change(point),
            ]
            for point in (found.zero_shot, *found.points)
        ],
    )
    spots = [
        Spot(PLACEMENTS.index(point.placement), point.rank, found.adaptation(point), found.retention(point))
        for point in found.points
    ]
    drawing = scatter(
        spots,
        PLACEMENTS,
        start=found.retention(found.zero_shot),
        task=found.task,
        num_others=len(found.zero_shot.accuracy) - 1,
    )
    files.write_text(folder / "probe.svg", drawing)
