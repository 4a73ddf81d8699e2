"""RunConfig: the one schema of config files, presets and --set, and the only source of hyper-parameters.

The sections of a room are described where the room is (`model` in families, `method` in methods, `stream` in
streams); every default stands in exactly one of these places.
"""

import copy
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from codyra.errors import UserError
from codyra.families import ModelSpec
from codyra.methods import SHARED_OPTIONS, MethodOptions, option_names, parse_options
from codyra.naming import did_you_mean, nearest
from codyra.reading import parse_yaml
from codyra.streams import ClassName, Role, StreamSpec, TaskSpec
from codyra.streams.benchmarks import BENCHMARKS

PRESETS = resources.files("codyra") / "presets"
BUILTIN_MODELS = {"builtin:tiny-clip": "demo/tiny_clip"}
"""Models the package carries, and where it carries them."""
MAX_CONFIG_BYTES = 1_000_000
Beta = Annotated[float, Field(ge=0, lt=1)]
Epochs = Annotated[float, Field(gt=0, allow_inf_nan=False)]
OTHERS = "others"
"""In `train.epochs`: every task that is not named."""


class TrainConfig(BaseModel):
    """How one task is trained; the same for every method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int | None = Field(500, ge=1, description="optimizer steps per task; null when epochs is given")
    epochs: Epochs | dict[str, Epochs] | None = Field(
        None,
        description="instead of steps: ceil(epochs * examples / batch_size) steps; by task name, with `others` for the "
        "rest, where tasks differ",
    )
    batch_size: int = Field(64, ge=1, description="examples per optimizer step, over all processes")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="examples computed together on one process; null: its whole share of the batch",
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass, for less memory"
    )
    eval_batch_size: int = Field(
        64, ge=1, description="examples per scoring batch; changes speed, never a score"
    )
    lr: float = Field(5e-4, gt=0, allow_inf_nan=False, description="learning rate of every trained parameter")
    betas: tuple[Beta, Beta] = Field((0.9, 0.9999), description="AdamW betas")
    eps: float = Field(1e-8, gt=0, allow_inf_nan=False, description="AdamW epsilon")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="learning rate over a task; cosine ends at 0"
    )
    warmup_steps: int = Field(0, ge=0, description="linear warm-up at the start of every task")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="autocast of the forward pass")
    clip: float | None = Field(None, gt=0, description="gradient norm to clip at; null for none")
    checkpoint_steps: int | None = Field(
        None, ge=1, description="steps between two checkpoints inside a task; null: about every 2 minutes"
    )

    @field_validator("epochs", mode="before")
    @classmethod
    def _epochs_are_positive(cls, epochs: Any) -> Any:
        values = list(epochs.values()) if isinstance(epochs, Mapping) else [] if epochs is None else [epochs]
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"needs a number above 0, or such numbers by task name; {value!r} is none")
        return epochs

    @model_validator(mode="before")
    @classmethod
    def _one_budget(cls, section: Any) -> Any:
        if not isinstance(section, Mapping):
            return section
        if section.get("epochs") is None:
            if section.get("steps", 1) is None:
                raise ValueError("give steps or epochs; both are null")
            return section
        if section.get("steps") is not None:
            raise ValueError("give steps or epochs, not both (set the other to null)")
        return {**section, "steps": None}


class GuardConfig(BaseModel):
    """What no task may damage: a held-out set, scored (among its own classes) after every task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = Field(
        description="the held-out set, by the grammar of a task's data; only its test split is read"
    )
    prompt: str | None = Field(None, description="template with one {} for the class")
    classes: list[ClassName] | None = Field(None, min_length=1, description="selects and orders classes")
    columns: dict[Role, str] = Field(default_factory=dict, description="as in a task")
    splits: dict[Literal["test"], str] = Field(default_factory=dict, description="as in a task")
    metric: str = Field("accuracy", description="as in a task")
    choices: list[ClassName] | None = Field(None, min_length=2, description="as in a task")
    max_new_tokens: int | None = Field(None, ge=1, description="as in a task")
    test_examples: int | None = Field(None, ge=1, description="as in a task")
    tolerance: float = Field(ge=0, allow_inf_nan=False, description="points of the score that may be lost")
    against: Literal["start", "previous"] = Field(
        "start", description="what the loss is counted from: the base model, or the model before the task"
    )
    on_violation: Literal["refuse", "shrink"] = Field(
        "refuse",
        description="stop the run and keep the candidate aside, or scale the update down until it fits",
    )

    @property
    def task(self) -> TaskSpec:
        """The held-out set as a task whose one split serves as both; a benchmark's data set has its own two."""
        split = self.splits.get("test", "test")
        of_benchmark = self.data.partition(":")[0] in BENCHMARKS
        return TaskSpec(
            name="guard",
            data=self.data,
            prompt=self.prompt,
            classes=self.classes,
            columns=self.columns,
            metric=self.metric,
            choices=self.choices,
            max_new_tokens=self.max_new_tokens,
            test_examples=self.test_examples,
            splits=dict(self.splits) if of_benchmark else {"train": split, "test": split},
        )

    @model_validator(mode="after")
    def _is_a_task(self) -> Self:
        try:
            _ = self.task
        except ValidationError as error:
            raise ValueError(
                error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            ) from None
        return self


def num_shown(epochs: float, num_examples: int) -> int:
    """How many times examples are shown in so many epochs; 2.2 epochs of 50 are 110, which floats would make 111."""
    return math.ceil(Fraction(str(epochs)) * num_examples)


class RunConfig(BaseModel):
    """One run: a model, a method, a stream of tasks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        "run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the default run folder"
    )
    data_dir: str | None = Field(None, description="replaces ${data_dir} in the stream's data")
    model: ModelSpec
    method: SerializeAsAny[MethodOptions]
    train: TrainConfig = TrainConfig()
    stream: StreamSpec
    seed: int = Field(
        8, ge=0, description="feeds one private generator per purpose: shots, batches, crops, adapters"
    )
    guard: GuardConfig | None = Field(
        None, description="refuses or shrinks updates that cost too much; null: none"
    )
    track: None = Field(None, description="not available yet; only null")
    root: str = Field(".", description="folder that relative data paths start at: that of the config file")

    @field_validator("track", mode="before")
    @classmethod
    def _not_yet(cls, value: Any) -> None:
        if value is not None:
            raise ValueError("this version has no such feature; remove the key")

    @model_validator(mode="after")
    def _guard_can_shrink(self) -> Self:
        shrinks = self.guard is not None and self.guard.on_violation == "shrink"
        if shrinks and getattr(self.method, "carry", "merge") == "continue":
            raise ValueError(
                "guard.on_violation: shrink scales what a task adds; with method.carry: continue use refuse"
            )
        return self

    @model_validator(mode="after")
    def _every_task_has_epochs(self) -> Self:
        epochs = self.train.epochs
        if isinstance(epochs, dict):
            names = [task.name for task in self.stream.tasks]
            for name in epochs:
                if name not in (*names, OTHERS):
                    raise ValueError(f"train.epochs: no task {name!r}{did_you_mean(name, [*names, OTHERS])}")
            for task in self.stream.chosen():
                if task.name not in epochs and OTHERS not in epochs:
                    raise ValueError(f"train.epochs: nothing for task {task.name!r}; add it, or {OTHERS}:")
        return self

    def num_epochs(self, task_name: str) -> float | None:
        """Epochs of a task; None where the budget is in steps."""
        epochs = self.train.epochs
        return epochs.get(task_name, epochs.get(OTHERS)) if isinstance(epochs, dict) else epochs

    def num_steps(self, task_name: str, num_examples: int) -> int:
        """Optimizer steps of a task with this many training examples."""
        if self.train.steps is not None:
            return self.train.steps
        epochs = self.num_epochs(task_name)
        assert epochs is not None
        return -(-num_shown(epochs, num_examples) // self.train.batch_size)

    def to_yaml(self) -> str:
        """The resolved config; reading it back gives an equal RunConfig."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def preset_names() -> list[str]:
    """Names that `codyra run` accepts in place of a file."""
    return sorted(
        file.name.removesuffix(".yaml") for file in PRESETS.iterdir() if file.name.endswith(".yaml")
    )


def load_config(
    source: str | Path | Mapping[str, Any] | RunConfig, overrides: Iterable[str] = ()
) -> RunConfig:
    """A RunConfig from a file, a preset name, a mapping or a RunConfig, with `a.b=c` overrides applied.

    Raises:
        UserError: no such file or preset, YAML that does not parse, an unknown key (the nearest valid one is
            named), or an illegal value.
    """
    if isinstance(source, RunConfig):
        raw, where, root, name = source.model_dump(mode="json"), "config", source.root, source.name
    elif isinstance(source, Mapping):
        raw, where, root, name = copy.deepcopy(dict(source)), "config", ".", "run"
    else:
        text, where, root, name = _read(str(source))
        raw = _parse_yaml(text, where)
    if not isinstance(raw, dict):
        raise UserError(
            f"{where}: a config is a mapping with model, method and stream; this is {type(raw).__name__}"
        )
    raw = {"name": name, "root": root} | raw
    for override in overrides:
        _apply(raw, override)
    return parse_config(raw, where)


def parse_config(raw: Mapping[str, Any], where: str) -> RunConfig:
    """Validate a mapping; `where` names it in messages.

    Raises:
        UserError: one line for the first fault found.
    """
    method = raw.get("method")
    if (
        not isinstance(method, Mapping)
        or "name" not in method
        or not all(isinstance(key, str) for key in method)
    ):
        raise UserError(f"{where}: method: needs a mapping with a name, such as {{name: codyra}}")
    try:
        options = parse_options(method)
    except ValidationError as error:
        raise UserError(_explain(error, where, prefix=("method",))) from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    try:
        return RunConfig.model_validate({**raw, "method": options})
    except ValidationError as error:
        raise UserError(_explain(error, where)) from None


def model_path(config: RunConfig) -> ModelSpec:
    """The model with its name resolved: a built-in one, a folder beside the config file, or as it stands."""
    spec = config.model
    if not spec.name.startswith("builtin:"):
        beside = Path(config.root) / spec.name
        return spec.model_copy(update={"name": str(beside)}) if beside.is_dir() else spec
    if spec.name not in BUILTIN_MODELS:
        raise UserError(f"model.name: {spec.name!r} is not built in; there is {', '.join(BUILTIN_MODELS)}")
    return spec.model_copy(update={"name": str(resources.files("codyra") / BUILTIN_MODELS[spec.name])})


def _read(source: str) -> tuple[str, str, str, str]:
    path = Path(source)
    if path.is_file():
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise UserError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; this is no config file")
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read as UTF-8 text ({error}); give a YAML file") from None
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-") or "run"
        return text, str(path), str(path.resolve().parent), name
    if source in preset_names():
        return (PRESETS / f"{source}.yaml").read_text("utf-8"), f"preset {source}", str(Path.cwd()), source
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise UserError(f"{path}: there is no such file; presets are {', '.join(preset_names())}")
    near = nearest(source, preset_names())
    hint = f"did you mean {near}?" if near else f"presets are {', '.join(preset_names())};"
    raise UserError(f"{source}: no such file and no such preset; {hint} a config file ends in .yaml")


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{where}: is not YAML: {error}") from None


def _apply(raw: dict[str, Any], override: str) -> None:
    """Apply one `a.b=c` in place; the value is read as YAML, numbers in a key index lists."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: write key=value, for example --set train.steps=100")
    value = _parse_yaml(text, f"--set {key}")
    if key == "data_dir" and isinstance(value, str):
        # In a file a relative folder starts at the file; typed, it starts where the user is.
        value = str(Path(value).expanduser().resolve())
    parts = key.split(".")
    if parts == ["method", "name"]:
        # What was set for another method is not meant for this one.
        former = raw.get("method") or {}
        kept = former if value == former.get("name", value) else SHARED_OPTIONS
        valid = option_names(str(value))
        raw["method"] = {key: former[key] for key in former if key in kept and key in valid} | {"name": value}
        return
    node: Any = raw
    for part in parts[:-1]:
        if isinstance(node, list):
            node = _item(node, part, override)
        else:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        if not isinstance(node, dict | list):
            raise UserError(f"--set {override}: {part} is a single value, it has nothing inside")
    if isinstance(node, list):
        _item(node, parts[-1], override)
        node[int(parts[-1])] = value
    else:
        node[parts[-1]] = value


def _item(items: list[Any], part: str, override: str) -> Any:
    if not part.isdigit() or int(part) >= len(items):
        raise UserError(f"--set {override}: {part} is no position in a list of {len(items)} (counted from 0)")
    return items[int(part)]


def _explain(error: ValidationError, where: str, prefix: tuple[str, ...] = ()) -> str:
    """The first fault as one line: where, what, and the nearest valid key for an unknown one."""
    fault = error.errors(include_url=False)[0]
    location = (*prefix, *fault["loc"])
    dotted = ".".join(str(part) for part in location)
    if fault["type"] == "extra_forbidden":
        valid = _valid_keys(error, fault["loc"], prefix)
        near = nearest(str(location[-1]), valid)
        hint = f"did you mean {near}?" if near else f"valid keys are {', '.join(valid)}"
        return f"{where}: {dotted}: there is no such key; {hint}"
    message, written = fault["msg"].removeprefix("Value error, "), repr(fault["input"])
    given = (
        ""
        if isinstance(fault["input"], dict | list) or fault["type"] == "missing" or written in message
        else f", got {written}"
    )
    return f"{where}: {dotted + ': ' if dotted else ''}{message}{given}"


def _valid_keys(error: ValidationError, loc: Sequence[Any], prefix: tuple[str, ...]) -> list[str]:
    model: Any = RunConfig
    if prefix:
        # A method's options are validated by a class of their own, named after the method.
        return option_names(error.title)
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        candidates = (annotation, *get_args(annotation))
        model = next(item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel))
    return sorted(model.model_fields)
