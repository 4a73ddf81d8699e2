"""The `stream:` section of a config: which tasks, in which order, scored how."""

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from codyra.errors import UserError
from codyra.naming import check_distinct, check_task_name, did_you_mean

SOURCES = ("imagefolder", "csv", "json", "parquet", "hf")

Role = Literal["text", "image", "label"]
ClassName = Annotated[str, Field(coerce_numbers_to_str=True)]


def check_prompt(prompt: str) -> str:
    """Return `prompt`; a UserError unless it has exactly one place for the class name."""
    if prompt.count("{}") != 1:
        raise UserError(f"prompt {prompt!r} must have exactly one {{}}, where the class name goes")
    return prompt


class TaskSpec(BaseModel):
    """One task of the stream."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        description="Also the name of the task's folder in a run, and of its column in accuracy.csv."
    )
    data: str = Field(
        description="imagefolder:DIR, csv:DIR, json:DIR, parquet:DIR, hf:DIR or hf:org/name@revision; "
        "relative to the config file, ${data_dir} is replaced."
    )
    prompt: str | None = Field(
        None, description="Template with one {} for the class; null: the model family's default."
    )
    shots: int | None = Field(None, ge=1, description="Training examples per class; null: all.")
    allow_fewer: bool = Field(
        False, description="Let a class with fewer examples than shots contribute all it has."
    )
    classes: list[ClassName] | None = Field(
        None, min_length=1, description="Selects and orders classes; null: all, in the order of the source."
    )
    columns: dict[Role, str] = Field(
        default_factory=dict, description="Column of each role, where it is not called text, image or label."
    )
    splits: dict[Literal["train", "test", "val"], str] = Field(
        default_factory=dict,
        description="Folder, file stem or Hugging Face split of each role, where it is not called train, "
        "test or val (validation for hf:).",
    )

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str) -> str:
        return check_task_name(name)

    @field_validator("data")
    @classmethod
    def _data_has_a_source(cls, data: str) -> str:
        source, _, location = data.partition(":")
        if source not in SOURCES or not location:
            raise ValueError(f"data {data!r} must be SOURCE:PLACE{did_you_mean(source, SOURCES)}")
        return data

    @field_validator("prompt")
    @classmethod
    def _prompt_has_one_place(cls, prompt: str | None) -> str | None:
        return prompt if prompt is None else check_prompt(prompt)

    @field_validator("classes")
    @classmethod
    def _classes_are_distinct(cls, classes: list[str] | None) -> list[str] | None:
        for name, times in Counter(classes or []).items():
            if times > 1:
                raise ValueError(f"class {name!r} is listed twice")
        return classes

    @field_validator("splits")
    @classmethod
    def _splits_stay_in_the_folder(cls, splits: dict[str, str]) -> dict[str, str]:
        for split in splits.values():
            if not split or split[0] == "." or set(split) & set("/\\"):
                raise ValueError(f"split {split!r} must be the plain name of a folder, file or split")
        return splits

    @model_validator(mode="after")
    def _columns_fit_the_source(self) -> Self:
        source = self.data.partition(":")[0]
        allowed = {"imagefolder": set(), "hf": {"text", "image", "label"}}.get(source, {"text", "label"})
        for role in self.columns:
            if role not in allowed:
                raise ValueError(f"columns: {role} has no meaning for {source}:; remove it")
        return self


class StreamSpec(BaseModel):
    """The ordered tasks and how they are scored."""

    model_config = ConfigDict(extra="forbid")

    label_space: Literal["all", "task"] = Field(
        "all", description="Score among the classes of all tasks, or of the task at hand."
    )
    ties: Literal["shared", "first"] = Field(
        "shared",
        description="Classes of one prompt: right when the prompt is right, or only for the first of them.",
    )
    prompts: Literal["default"] = Field(
        "default", description="How class names enter prompts: underscores become spaces."
    )
    only: list[str] | None = Field(
        None, min_length=1, description="Keep these tasks, in the order of the stream."
    )
    score_split: Literal["test", "val"] = Field(
        "test", description="Split that is scored; choose hyper-parameters on val, never on test."
    )
    tasks: list[TaskSpec] = Field(min_length=1, description="Tasks in the order in which they are learnt.")

    def chosen(self) -> list[TaskSpec]:
        """The tasks that are learnt, in their order: all, or those that `only` names."""
        return [task for task in self.tasks if self.only is None or task.name in self.only]

    @model_validator(mode="after")
    def _names_are_distinct_and_known(self) -> Self:
        names = [task.name for task in self.tasks]
        check_distinct(names)
        for name in self.only or []:
            if name not in names:
                raise ValueError(f"only: no task {name!r}{did_you_mean(name, names)}")
        return self
