"""Adapter slot, rank-weighted LoRA: dW = B diag(w) A, fresh for every task (CoDyRA, SoRA)."""

import warnings
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from peft import get_peft_model
from pydantic import Field
from torch import Tensor
from torch.distributed.tensor import DTensor

from codyra.methods.base import LinearAdapter
from codyra.methods.context import TaskContext
from codyra.tuner import CodyraConfig, named_gates, param_groups
from codyra.update import TaskUpdate


class Gated(LinearAdapter):
    """A, B and gates of every targeted linear; ranks whose gate is zero at task end are dropped."""

    sharded: ClassVar[bool] = True
    quantized: ClassVar[bool] = True

    r: int = Field(16, ge=1, le=4096, description="ranks per linear at the start of every task")
    targets: str | list[str] = Field("all", description="all, vision, text, attention, mlp, or module names")
    gate_lr: float | None = Field(
        None,
        ge=0,
        description="of the rank weights; null: train.lr; 0: only the proximal step moves them",
    )
    gate_init: Literal["normal", "ones"] = Field("normal", description="how the rank weights start")

    def before_task(self, ctx: TaskContext) -> None:
        config = CodyraConfig(r=self.r, target_modules=ctx.target_modules, gate_init=self.gate_init)
        ctx.model = get_peft_model(ctx.net, config)

    def optimizer_ready(self, ctx: TaskContext) -> None:
        ctx.state["gates"] = [gate for _, gate in named_gates(ctx.model)]

    def param_groups(self, ctx: TaskContext, lr: float) -> list[dict[str, Any]]:
        factors, gates = param_groups(ctx.model, lr=lr)
        return [factors, gates if self.gate_lr is None else {**gates, "lr": self.gate_lr}]

    def train_log(self, ctx: TaskContext) -> dict[str, float | Tensor]:
        gates = [gate.weight.detach() for gate in ctx.state["gates"]]
        kept = torch.stack(
            [(gate.to_local() if isinstance(gate, DTensor) else gate).count_nonzero() for gate in gates]
        )
        if isinstance(gates[0], DTensor):
            dist.all_reduce(kept)
        return {"kept": kept.float().mean()}

    def extract(self, ctx: TaskContext, kind: Literal["low_rank", "cumulative"]) -> TaskUpdate:
        prox = ctx.state.get("prox")
        with warnings.catch_warnings():
            if prox is None:  # this method has none, and means to
                warnings.filterwarnings("ignore", message="no ProximalStep was ever attached")
            return TaskUpdate.from_model(ctx.model, prox=prox, kind=kind)
