"""Step-edit slot, the proximal step of CoDyRA: it hangs on the optimizer and shrinks the gates."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from codyra.methods.base import Piece
from codyra.methods.context import TaskContext
from codyra.tuner import ProximalStep
from codyra.tuner.prox import KAPPA_MAX, KAPPA_TOTAL, LEVELS


class Prox(Piece):
    """The kappa schedule of a task; see `codyra.tuner.prox` for the rule itself."""

    sharded: ClassVar[bool] = True
    quantized: ClassVar[bool] = True

    schedule: Literal["linear", "official"] = Field(
        "linear", description="ramp of kappa: linear, or the released staircase"
    )
    operator: Literal["soft", "official"] = Field(
        "soft", description="soft threshold, or the released three masks"
    )
    dense_fraction: float = Field(
        0.5, ge=0, lt=1, description="share of the steps before the first proximal one"
    )
    kappa_total: float | None = Field(
        None,
        gt=0,
        description="schedule linear: sum of all thresholds of a task; 0.65 (the paper's) unless given",
    )
    kappa_max: float | None = Field(
        None, gt=0, description="schedule official: the last threshold; 0.005 (the paper's) unless given"
    )
    levels: int | None = Field(
        None, ge=2, description="schedule official: steps of the staircase; 50 unless given"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_schedule(cls, options: dict[str, Any]) -> dict[str, Any]:
        given = {option: value for option, value in options.items() if value is not None}
        official = given.get("schedule", "linear") == "official"
        foreign = ("kappa_total",) if official else ("kappa_max", "levels")
        for option in foreign:
            if option in given:
                home = "linear" if official else "official"
                raise ValueError(f"{option} belongs to schedule: {home}; remove it or change the schedule")
        defaults = {"kappa_max": KAPPA_MAX, "levels": LEVELS} if official else {"kappa_total": KAPPA_TOTAL}
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
            f"the thresholds of schedule: official sum to {total:.3g} in {ctx.total_steps} steps, those of the CoDyRA "
            f"paper to {KAPPA_TOTAL:g}; method.kappa_max={equal:.3g} would prune as much"
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
