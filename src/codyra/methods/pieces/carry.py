"""Merge slot, carry: merge and start a fresh adapter, or train one adapter through the whole stream.

- merge: W <- W + merge_scale * dW after every task; the next adapter starts anew (dW = 0) on these weights.
- continue: A and B go on from where they stopped, on the base weights, and W = W_0 + dW after every task.
"""

from typing import Literal

from pydantic import Field, model_validator

from codyra.methods.pieces.add import Add


class Carry(Add):
    """`merge` is CoDyRA's convention, `continue` that of TRACE: the two are different methods."""

    carry: Literal["merge", "continue"] = Field(
        "merge", description="fresh adapter per task, or one through all tasks"
    )

    @model_validator(mode="after")
    def _one_meaning(self) -> "Carry":
        if self.carry == "continue" and self.merge_scale != 1.0:
            raise ValueError("merge_scale needs carry: merge; an adapter that is trained on is never merged")
        return self

    def update_kind(self) -> Literal["low_rank", "cumulative"]:
        return "cumulative" if self.carry == "continue" else "low_rank"
