"""Step edit: what a task leaves behind is the mean of the weights along its way (ZSCL, arXiv 2303.06628).

theta_bar <- (n * theta_bar + theta) / (n + 1) after every `average_every` steps, where n begins at 1 and theta_bar with
the values at the start of the task: the mean of the start and of every snapshot. Training itself does not see it.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from codyra.methods.base import Piece
from codyra.methods.context import TaskContext


class RunningAverage(Piece):
    """Averages everything trained; of factors, where these are trained, not their product."""

    average_every: int | None = Field(
        None,
        ge=0,
        description="steps between two snapshots; null: a tenth of the steps of a task; 0: no average",
    )

    def optimizer_ready(self, ctx: TaskContext) -> None:
        if self.average_every == 0:
            return
        if self._interval(ctx) > ctx.total_steps:
            raise ValueError(
                f"average_every: {self.average_every} steps are never taken, the task has {ctx.total_steps}, and would "
                "leave the weights as they were; lower it, or null for a tenth of the steps"
            )
        ctx.state["average"] = {name: weight.detach().clone() for name, weight in ctx.trained().items()}
        ctx.state["averaged"] = 1

    def after_step(self, ctx: TaskContext) -> None:
        if self.average_every == 0 or (ctx.step + 1) % self._interval(ctx):
            return
        ctx.state["averaged"] += 1
        for name, weight in ctx.trained().items():
            average = ctx.state["average"][name]
            average += (weight.detach() - average) / ctx.state["averaged"]

    def save_state(self, ctx: TaskContext) -> dict[str, Tensor | int | float]:
        return {"averaged": ctx.state["averaged"], **ctx.state["average"]} if self.average_every != 0 else {}

    def load_state(self, ctx: TaskContext, state: Mapping[str, Tensor | int | float]) -> None:
        if self.average_every != 0:
            ctx.state["averaged"] = state["averaged"]
            for name, average in ctx.state["average"].items():
                average.copy_(state[name])

    @torch.no_grad()
    def end_training(self, ctx: TaskContext) -> None:
        if self.average_every != 0:
            for name, weight in ctx.trained().items():
                weight.copy_(ctx.state["average"][name])

    def _interval(self, ctx: TaskContext) -> int:
        return self.average_every or max(1, ctx.total_steps // 10)
