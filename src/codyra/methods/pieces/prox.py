"""Step-edit slot, the proximal step of CoDyRA (arXiv 2412.01004): w <- sign(w) max(|w| - kappa_t, 0) after a step.

kappa_t, not multiplied by the learning rate, is 0 for the first `dense_fraction` of the T steps and then

- linear: rises by the same amount with every step; all thresholds sum to kappa_total,
- official: rises to kappa_max in `levels` by the released code's counter, whose last level is twice as long,
- stages: takes `levels` values from 0 to kappa_max, equally long each (SoRA, arXiv 2311.11696).

Gates that end at 0 are dropped with their rank. `codyra.tuner.prox` computes this for every training loop.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator
from torch import Tensor

from codyra.methods.base import Piece
from codyra.methods.context import TaskContext
from codyra.tuner import ProximalStep
from codyra.tuner.prox import KAPPA_MAX, KAPPA_TOTAL, LEVELS, Operator, Schedule


class Prox(Piece):
    """The kappa schedule of a task."""

    sharded: ClassVar[bool] = True
    quantized: ClassVar[bool] = True

    schedule: Schedule = Field(
        "linear",
        description="ramp of kappa: linear, CoDyRA's released staircase (official), or SoRA's stages",
    )
    operator: Operator = Field("soft", description="soft threshold, or the released three masks")
    dense_fraction: float = Field(
        0.5, ge=0, lt=1, description="share of the steps before the first proximal one"
    )
    kappa_total: float | None = Field(
        None,
        gt=0,
        description="schedule linear: sum of all thresholds of a task; 0.65 (the paper's) unless given",
    )
    kappa_max: float | None = Field(
        None,
        gt=0,
        description="schedule official or stages: the last threshold; 0.005 (the paper's) unless given",
    )
    levels: int | None = Field(
        None, ge=2, description="schedule official or stages: values of kappa; 50 unless given"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_schedule(cls, options: dict[str, Any]) -> dict[str, Any]:
        given = {option: value for option, value in options.items() if value is not None}
        linear = given.get("schedule", "linear") == "linear"
        foreign = ("kappa_max", "levels") if linear else ("kappa_total",)
        for option in foreign:
            if option in given:
                home = "official or stages" if linear else "linear"
                raise ValueError(f"{option} belongs to schedule: {home}; remove it or change the schedule")
        defaults = {"kappa_total": KAPPA_TOTAL} if linear else {"kappa_max": KAPPA_MAX, "levels": LEVELS}
        return defaults | given

    def optimizer_ready(self, ctx: TaskContext) -> None:
        ctx.state["prox"] = ProximalStep(
            ctx.optimizer,
            ctx.model,
            total_steps=ctx.total_steps,
            schedule=self.schedule,
            operator=self.operator,
            dense_fraction=self.dense_fraction,
            kappa_total=self.kappa_total,
            kappa_max=self.kappa_max,
            levels=self.levels,
        )

    def notice(self, ctx: TaskContext) -> str | None:
        total = ctx.state["prox"].total_shrink
        if self.kappa_max is None or abs(total - KAPPA_TOTAL) < 0.01 * KAPPA_TOTAL:
            return None
        equal = self.kappa_max * KAPPA_TOTAL / total
        return (
            f"the thresholds of schedule: {self.schedule} sum to {total:.3g} in {ctx.total_steps} steps, those of the "
            f"CoDyRA paper to {KAPPA_TOTAL:g}; method.kappa_max={equal:.3g} would prune as much"
        )

    def train_log(self, ctx: TaskContext) -> dict[str, float | Tensor]:
        return {"kappa": ctx.state["prox"].kappa}

    def save_state(self, ctx: TaskContext) -> dict[str, Tensor | int | float]:
        state = ctx.state["prox"].state_dict()
        return {"steps": state["steps"], "calls": state["calls"], **state["initial_gates"]}

    def load_state(self, ctx: TaskContext, state: Mapping[str, Tensor | int | float]) -> None:
        prox: ProximalStep = ctx.state["prox"]
        gates = {name: gate for name, gate in state.items() if isinstance(gate, Tensor)}
        # The plan is that of the config, which a continued run was checked to share.
        plan = prox.state_dict()["plan"]
        prox.load_state_dict(
            {"steps": state["steps"], "calls": state["calls"], "plan": plan, "initial_gates": gates}
        )

    def end_training(self, ctx: TaskContext) -> None:
        ctx.state["prox"].check_fired()
