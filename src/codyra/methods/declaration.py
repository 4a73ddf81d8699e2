"""What a method's YAML file says: its pieces, its defaults, and what it keeps, needs and costs."""

from functools import cache
from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from codyra.methods.memory import Stores

FOLDER = resources.files("codyra.methods")
"""Where the YAML files are, one per method."""
Choice = str | dict[str, dict[str, Any]]
"""The name of a piece, or that name with the options that are not left to the user."""


class Declaration(BaseModel):
    """One YAML file of this folder; the card of a method (docs/methods/) is made of nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field(description="the method's name in the literature")
    summary: str = Field(description="one sentence: what it does")
    source: str = Field(description="where it was published")
    code: str | None = Field(None, description="the released code that it was compared with, if any")
    trains: str = Field(description="what is trainable")
    keeps: str = Field(description="what outlives a task, beside the updates")
    costs: str = Field(description="what a step and the end of a task cost beyond plain LoRA")
    deviations: tuple[str, ...] = Field((), description="from the paper or its released code, and why")

    adapter: str | tuple[str, ...] = Field(description="several: the user chooses, the first is the default")
    init: Choice | None = None
    penalties: tuple[Choice, ...] = ()
    grad_edit: Choice | None = None
    step_edit: Choice | None = None
    rank_rule: Choice | None = None
    merge: Choice
    head: Choice | None = None
    defaults: dict[str, Any] = Field(
        default_factory=dict, description="of options, where they are not the piece's"
    )

    stores: Stores
    needs_reference_data: bool = False
    needs_number_of_tasks: bool = False
    task_id_at_test: bool = False
    extra_inference: bool = False

    @property
    def adapters(self) -> tuple[str, ...]:
        return (self.adapter,) if isinstance(self.adapter, str) else self.adapter

    def slots(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(slot, piece, its fixed options) in the order in which hooks are called; every adapter to choose from."""
        chosen: list[tuple[str, Choice | None]] = [
            *(("adapter", adapter) for adapter in self.adapters),
            ("init", self.init),
            *(("penalty", penalty) for penalty in self.penalties),
            ("gradient edit", self.grad_edit),
            ("step edit", self.step_edit),
            ("rank rule", self.rank_rule),
            ("merge", self.merge),
            ("head", self.head),
        ]
        named: list[tuple[str, str, dict[str, Any]]] = []
        for slot, choice in chosen:
            if isinstance(choice, str):
                named.append((slot, choice, {}))
            elif choice is not None:
                named += [(slot, piece, fixed) for piece, fixed in choice.items()]
        return named

    def choices(self) -> list[tuple[str, dict[str, Any]]]:
        """(piece, its fixed options) of every slot but the adapter's."""
        return [(piece, fixed) for slot, piece, fixed in self.slots() if slot != "adapter"]


@cache
def read_declaration(name: str) -> Declaration:
    """The declaration of a method that exists."""
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    return Declaration.model_validate(yaml.safe_load(text))


@cache
def method_names() -> tuple[str, ...]:
    """The methods that exist, sorted."""
    return tuple(
        sorted(file.name.removesuffix(".yaml") for file in FOLDER.iterdir() if file.name.endswith(".yaml"))
    )
