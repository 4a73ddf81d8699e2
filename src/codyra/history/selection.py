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
        contained: numbers of the tasks that the model has learnt; more than `merged` for a cumulative adapter and a
            head, which hold all tasks before their own.
        unchanged: none of the tasks left anything behind.
        head: what the last task left behind is a head, beside a network that no task changed.
        after: the state's row in accuracy.csv (0: zero-shot); None for a state that the run never was in.
    """

    merged: tuple[int, ...]
    contained: tuple[int, ...]
    after: int | None
    unchanged: bool
    head: bool

    @classmethod
    def of(cls, view: RunView, numbers: Sequence[int]) -> "Selection":
        last = numbers[-1] if numbers else 0
        first = tuple(range(1, last + 1))
        kind = next((task.ranks.kind for task in view.tasks if task.number == last and task.ranks), None)
        holds_all = kind in ("cumulative", "head")
        contained = first if holds_all else tuple(numbers)
        tables = [task.ranks for task in view.tasks if task.number in numbers]
        unchanged = all(ranks is not None and ranks.no_change for ranks in tables)
        # Of one adapter that was trained on and on, and of a head, only the last state is in the model.
        merged = tuple(numbers[-1:]) if holds_all else tuple(numbers)
        return cls(merged, contained, last if contained == first else None, unchanged, kind == "head")

    def notes(self) -> list[str]:
        """What whoever asked for these tasks should know, one sentence each."""
        if self.unchanged and self.merged:
            return ["None of these tasks left anything behind: this is the base model."]
        if self.contained != self.merged:
            last = self.merged[-1]
            if self.head:
                return [
                    f"The head of task {last} knows the classes of tasks 1 to {last} and cannot be split; this is the "
                    f"model after task {last}."
                ]
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
