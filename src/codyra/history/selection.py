"""Which state of a run a model is in, and what is to be known about that state."""

from collections.abc import Sequence
from dataclasses import dataclass

from codyra.engine.folder_reader import RunView
from codyra.markdown import numbered


@dataclass(frozen=True)
class Selection:
    """Which state of a run a model is in.

    Attributes:
        merged: numbers, from 1, of the tasks whose updates are in the model.
        contained: numbers of the tasks that the model has learnt; more than `merged` for a cumulative adapter,
            which holds all tasks before its own.
        unchanged: none of the tasks left anything behind.
        after: the state's row in accuracy.csv (0: zero-shot); None for a state that the run never was in.
    """

    merged: tuple[int, ...]
    contained: tuple[int, ...]
    after: int | None
    unchanged: bool

    @classmethod
    def of(cls, view: RunView, numbers: Sequence[int]) -> "Selection":
        last = numbers[-1] if numbers else 0
        first = tuple(range(1, last + 1))
        contained = first if _is_cumulative(view, last) else tuple(numbers)
        tables = [task.ranks for task in view.tasks if task.number in numbers]
        unchanged = all(ranks is not None and ranks.no_change for ranks in tables)
        # Of one adapter that was trained on and on, only the last state is in the model.
        merged = tuple(numbers[-1:]) if _is_cumulative(view, last) else tuple(numbers)
        return cls(merged, contained, last if contained == first else None, unchanged)

    def notes(self) -> list[str]:
        """What whoever asked for these tasks should know, one sentence each."""
        if self.unchanged and self.merged:
            return ["None of these tasks left anything behind: this is the base model."]
        if self.contained != self.merged:
            last = self.merged[-1]
            return [
                f"One adapter was trained through the whole stream: that of task {last} holds tasks 1 to {last}, "
                f"so this is the model after task {last}."
            ]
        if self.after is None:
            return [
                f"The update of every task was trained on top of all tasks before it; this sum of "
                f"{numbered(self.merged)} leaves some of them out, and the run never scored it."
            ]
        return []


def _is_cumulative(view: RunView, number: int) -> bool:
    return any(
        task.number == number and task.ranks is not None and task.ranks.kind == "cumulative"
        for task in view.tasks
    )
