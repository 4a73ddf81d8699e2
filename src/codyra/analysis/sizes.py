"""What the updates of a run look like: surviving ranks, their size against its bound, the distance from the start."""

# Shapes: D in features, O out features, K kept ranks
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from codyra import files
from codyra.analysis.drift import drift_chart
from codyra.analysis.place import beside
from codyra.analysis.rank_maps import RankMap, rank_maps
from codyra.analysis.tables import write_csv
from codyra.engine.folder import RunFolder
from codyra.engine.folder_reader import read_run
from codyra.engine.models import read_updates, select_tasks
from codyra.errors import UserError
from codyra.report.modules import arrange
from codyra.update import TaskUpdate


@dataclass(frozen=True)
class ModuleSize:
    """The update dW = B A of one module in one task: |dW|_F and what bounds it.

    `kind` and `layer` are its place in the grid of the report; rank and the spectral norms |A|_2 and |B|_2 (gate in
    B) are None for a difference of whole weights, which has no factors.
    """

    module: str
    kind: str
    layer: int | None
    rank: int | None
    full_rank: int | None
    norm: float
    A_norm: float | None
    B_norm: float | None

    @property
    def bound(self) -> float | None:
        """sqrt(rank) |B|_2 |A|_2, which |dW|_F does not exceed."""
        if self.rank is None or self.A_norm is None or self.B_norm is None:
            return None
        return math.sqrt(self.rank) * self.B_norm * self.A_norm


@dataclass(frozen=True)
class TaskSize:
    """One task: its modules, |dW|_F over all of them, and |theta_t - theta_0|_F after it."""

    number: int
    task: str
    modules: tuple[ModuleSize, ...]
    norm: float
    drift: float

    @property
    def mean_rank(self) -> float | None:
        """Of all adapted modules, those without a surviving rank included; None where there are no ranks."""
        ranks = [module.rank for module in self.modules if module.rank is not None]
        return sum(ranks) / len(ranks) if ranks else None

    @property
    def bound(self) -> float | None:
        """Of `norm`: the bounds of all modules, put together as norms are."""
        bounds = [module.bound for module in self.modules]
        known = [bound for bound in bounds if bound is not None]
        return math.sqrt(math.fsum(bound**2 for bound in known)) if len(known) == len(bounds) else None


def analyse(run: Path, out: Path | None = None) -> tuple[list[TaskSize], Path]:
    """Measure every learnt task of a run; write ranks.csv, magnitude.csv, drift.csv and their pictures.

    Args:
        run: run folder, finished or not; nothing in it is written, no model is loaded.
        out: default <run>-analysis.

    Returns:
        The tasks in their order, and the folder. Without ranks there is no ranks.csv and no rank-heatmap.svg.

    Raises:
        UserError: no task is learnt, or a file of the run is missing or damaged.
    """
    view, folder = read_run(run), RunFolder(run)
    place, names = beside(run, "analysis", out), view.accuracy.tasks
    numbers = select_tasks(folder, names)
    if not numbers:
        raise UserError(f"{run}: no task is learnt yet; finish one first")
    tables = [view.tasks[number - 1].ranks for number in numbers]
    if all(ranks is not None and ranks.head is not None for ranks in tables):
        raise UserError(
            f"{run}: its tasks left heads behind, which have neither ranks nor a size in the network; codyra history "
            "shows them"
        )
    tasks = [
        TaskSize(
            number,
            names[number - 1],
            _module_sizes(update),
            norm=update.norm(),
            drift=folder.read_figure(folder.row_file(number, names), "drift"),
        )
        for number, update in zip(numbers, read_updates(folder, names, numbers), strict=True)
    ]
    _write(tasks, place)
    return tasks, place


def _module_sizes(update: TaskUpdate) -> tuple[ModuleSize, ...]:
    cells = arrange(update.norms).cells
    place = {module: (kind, layer) for (kind, layer), module in cells.items()}
    sizes = []
    for module, norm in update.norms.items():
        rank, factors = update.ranks.get(module), update.factors.get(module)
        A_norm, B_norm = map(_spectral, factors) if factors else (None, None)
        if rank == 0:
            A_norm = B_norm = 0.0
        full = update.full_ranks.get(module)
        sizes.append(ModuleSize(module, *place[module], rank, full, norm, A_norm, B_norm))
    return tuple(sizes)


def _spectral(factor: Tensor) -> float:
    return float(torch.linalg.matrix_norm(factor.double(), ord=2))


def _write(tasks: list[TaskSize], folder: Path) -> None:
    every = [(task, module) for task in tasks for module in task.modules]
    with_ranks = any(module.rank is not None for _, module in every)
    if with_ranks:
        write_csv(
            folder / "ranks.csv",
            ("number", "task", "module", "kind", "layer", "rank", "full_rank"),
            [
                [
                    task.number,
                    task.task,
                    module.module,
                    module.kind,
                    module.layer,
                    module.rank,
                    module.full_rank,
                ]
                for task, module in every
            ],
        )
        maps = [
            RankMap(
                f"{task.number} {task.task}",
                {
                    (module.kind, module.layer): (module.rank, module.full_rank)
                    for module in task.modules
                    if module.rank is not None and module.full_rank
                },
            )
            for task in tasks
        ]
        files.write_text(folder / "rank-heatmap.svg", rank_maps(maps))
    write_csv(
        folder / "magnitude.csv",
        ("number", "task", "module", "kind", "layer", "rank", "norm", "bound", "B_norm", "A_norm"),
        [
            [
                task.number,
                task.task,
                module.module,
                module.kind,
                module.layer,
                module.rank,
                module.norm,
                module.bound,
                module.B_norm,
                module.A_norm,
            ]
            for task, module in every
        ],
    )
    write_csv(
        folder / "drift.csv",
        ("number", "task", "mean_rank", "norm", "bound", "drift"),
        [[task.number, task.task, task.mean_rank, task.norm, task.bound, task.drift] for task in tasks],
    )
    files.write_text(
        folder / "drift.svg", drift_chart([(task.number, task.norm, task.drift) for task in tasks])
    )
