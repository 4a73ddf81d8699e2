"""Adapter slot, AdaLoRA as peft has it: dW = alpha / init_r * P diag(lambda) Q, whose rank falls while it is trained.

Importance of a triplet (column of P, lambda, row of Q): score of lambda + mean score of each vector, where the score
of a parameter is EMA(|theta g|) * EMA(| |theta g| - EMA |), both with beta 0.85. Between steps t_0 and t_1 as many
triplets are left per linear, on average, as

    target_r + (init_r - target_r) * (1 - (t - t_0) / (t_1 - t_0))^3,

and after every step the lambdas of the others are set to zero. To the loss comes orthogonality * mean over all P, Q of
|P^T P - I|_F, |Q Q^T - I|_F (arXiv 2303.10512).

peft: lora_B (O, R) is P, lora_E (R, 1) is lambda, lora_A (R, D) is Q, and scaling / (ranknum + 1e-5) the factor.
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft import AdaLoraConfig, get_peft_model
from peft.tuners.adalora import AdaLoraModel, SVDLinear
from pydantic import Field, model_validator
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from codyra.methods.base import LinearAdapter
from codyra.methods.context import TaskContext
from codyra.tuner.compat import adalora_state, set_adalora_state

BETA = 0.85


class AdaLora(LinearAdapter):
    """P, lambda and Q of every targeted linear; triplets whose lambda is zero at task end are dropped."""

    init_r: int = Field(12, ge=2, le=4096, description="triplets per linear at the start of every task")
    target_r: int = Field(8, ge=1, description="triplets per linear at its end, on average over the linears")
    alpha: float | None = Field(
        None, gt=0, description="the update is scaled by alpha / init_r; null means alpha = init_r"
    )
    targets: str | list[str] = Field("all", description="all, vision, text, attention, mlp, or module names")
    orthogonality: float = Field(
        0.5, ge=0, allow_inf_nan=False, description="weight of |P'P - I| and |QQ' - I| in the loss"
    )
    budget_start: float = Field(
        0.1, ge=0, lt=1, description="share of the steps after which the rank begins to fall"
    )
    budget_end: float = Field(
        0.5, gt=0, le=1, description="share of the steps after which it has fallen to target_r"
    )

    @model_validator(mode="after")
    def _rank_falls(self) -> "AdaLora":
        if self.target_r >= self.init_r:
            raise ValueError(
                f"target_r {self.target_r} must be below init_r {self.init_r}: the rank is to fall"
            )
        if self.budget_end <= self.budget_start:
            raise ValueError(
                f"budget_end {self.budget_end:g} must be above budget_start {self.budget_start:g}"
            )
        return self

    def before_task(self, ctx: TaskContext) -> None:
        steps = ctx.total_steps
        if steps < 2:
            raise ValueError(
                "adalora scores triplets in one step and drops them in another; train for more than one"
            )
        first = int(self.budget_start * steps)
        last = max(first + 1, round(self.budget_end * steps), 2)
        config = AdaLoraConfig(
            init_r=self.init_r,
            target_r=self.target_r,
            lora_alpha=self.init_r if self.alpha is None else self.alpha,
            tinit=first,
            tfinal=steps - last,
            deltaT=1,
            beta1=BETA,
            beta2=BETA,
            total_step=steps,
            orth_reg_weight=0.0,  # `penalty` below: the network is not called through peft's wrapper
            target_modules=ctx.target_modules,
            fan_in_fan_out=any(
                isinstance(ctx.net.get_submodule(name), Conv1D) for name in ctx.target_modules
            ),
        )
        ctx.model = get_peft_model(ctx.net, config)
        ctx.state["adalora"] = {"step": 0, "calls": 0, "allocated": 0, "last": last}

    def penalty(self, ctx: TaskContext) -> Tensor | None:
        if not self.orthogonality:
            return None
        norms = []
        for layer in _layers(ctx).values():
            P_OR, Q_RD = layer.lora_B["default"], layer.lora_A["default"]
            for gram_RR in (P_OR.T @ P_OR, Q_RD @ Q_RD.T):
                identity_RR = torch.eye(len(gram_RR), dtype=gram_RR.dtype, device=gram_RR.device)
                norms.append(torch.linalg.matrix_norm(gram_RR - identity_RR))
        return self.orthogonality * torch.stack(norms).mean()

    def after_backward(self, ctx: TaskContext) -> None:
        ctx.state["adalora"]["step"] += 1

    def after_step(self, ctx: TaskContext) -> None:
        # After the step, which would move a lambda off zero again, and while the gradients are still there.
        counts = ctx.state["adalora"]
        step = counts["step"]
        if step >= counts["last"] and not counts["allocated"]:
            step = counts[
                "last"
            ]  # peft chooses the last survivors at exactly this one, which may have been skipped
            counts["allocated"] = 1
        for weight in ctx.trained().values():
            if weight.grad is None:  # of a linear that took no part; peft multiplies by it
                weight.grad = torch.zeros_like(weight)
        _tuner(ctx).update_and_allocate(step)
        counts["calls"] += 1

    def train_log(self, ctx: TaskContext) -> dict[str, float | Tensor]:
        return {"kept": _num_kept(ctx) / len(_layers(ctx))}

    def save_state(self, ctx: TaskContext) -> dict[str, Tensor | int | float]:
        return {**ctx.state["adalora"], **adalora_state(_tuner(ctx))}

    def load_state(self, ctx: TaskContext, state: Mapping[str, Tensor | int | float]) -> None:
        ctx.state["adalora"] |= {name: value for name, value in state.items() if name in ctx.state["adalora"]}
        set_adalora_state(_tuner(ctx), {key: kept for key, kept in state.items() if isinstance(kept, Tensor)})

    def end_training(self, ctx: TaskContext) -> None:
        counts, layers = ctx.state["adalora"], _layers(ctx)
        trained = next(iter(ctx.trained().values()))
        steps = int(ctx.optimizer.state[trained]["step"]) if trained in ctx.optimizer.state else 0
        if counts["calls"] != steps or not counts["allocated"]:
            raise RuntimeError(
                f"the rank was allocated {counts['calls']} times in {steps} optimizer steps of {ctx.total_steps}; it "
                "has to be after every one, or plain LoRA is trained"
            )
        kept, budget = int(_num_kept(ctx)), self.target_r * len(layers)
        if kept > budget:
            raise RuntimeError(f"{kept} triplets are left, {budget} were to be: the rank did not fall")


def _tuner(ctx: TaskContext) -> AdaLoraModel:
    tuner = ctx.model.base_model
    assert isinstance(tuner, AdaLoraModel)
    return tuner


def _layers(ctx: TaskContext) -> dict[str, Any]:
    return {name: module for name, module in ctx.net.named_modules() if isinstance(module, SVDLinear)}


def _num_kept(ctx: TaskContext) -> Tensor:
    """Triplets that are left, as a scalar that nothing waits for."""
    return torch.stack([layer.lora_E["default"].count_nonzero() for layer in _layers(ctx).values()]).sum()
