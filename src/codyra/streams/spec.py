"""The `stream:` section of a config: which tasks, in which order, scored how."""

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from codyra.errors import UserError
from codyra.naming import check_distinct, check_task_name, did_you_mean
from codyra.streams.benchmarks import BENCHMARKS, Benchmark, ImageBenchmark
from codyra.streams.records import Role
from codyra.text_metrics import METRICS

SOURCES = ("imagefolder", "csv", "json", "parquet", "hf", *BENCHMARKS)

BenchmarkName = Literal["xtail", "mtil", "trace"]
ClassName = Annotated[str, Field(coerce_numbers_to_str=True)]


def check_prompt(prompt: str) -> str:
    """Return `prompt`; a UserError unless it has exactly one place for the class name or the record's prompt."""
    if prompt.count("{}") != 1:
        raise UserError(
            f"prompt {prompt!r} must have exactly one {{}}, where the class name or the record's prompt goes"
        )
    return prompt


class TaskSpec(BaseModel):
    """One task of the stream."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        description="Also the name of the task's folder in a run, and of its column in accuracy.csv."
    )
    data: str = Field(
        description="imagefolder:DIR, csv:DIR, json:DIR, parquet:DIR, hf:DIR or hf:org/name@revision; "
        "xtail:DIR/KEY, mtil:DIR/KEY, trace:DIR/KEY and trace-5000:DIR/KEY are data sets of a benchmark; relative "
        "to the config file, ${data_dir} is replaced."
    )
    prompt: str | None = Field(
        None,
        description="Template with one {} for the class, or for a record's prompt; null: the model family's default.",
    )
    ensemble: list[str] | None = Field(
        None,
        min_length=1,
        description="Templates that score together: a class is the mean of its prompts' unit-length features; "
        "null: prompt scores alone. Training uses prompt.",
    )
    underscores: Literal["spaces", "keep"] = Field(
        "spaces", description="What becomes of the underscores of class names in prompts."
    )
    shots: int | None = Field(
        None, ge=1, description="Training examples per class, of a task of answers in all; null: every one."
    )
    allow_fewer: bool = Field(
        False,
        description="Let a class, or a task of answers, with fewer examples than shots contribute all it has.",
    )
    test_examples: int | None = Field(
        None, ge=1, description="Score at most so many test examples, drawn by the seed; null: all."
    )
    classes: list[ClassName] | None = Field(
        None, min_length=1, description="Selects and orders classes; null: all, in the order of the source."
    )
    columns: dict[Role, str] = Field(
        default_factory=dict,
        description="Column of each role, where it is not called text, image or label; prompt, answer or messages.",
    )
    splits: dict[Literal["train", "test", "val"], str] = Field(
        default_factory=dict,
        description="Folder, file stem or Hugging Face split of each role, where it is not called train, "
        "test or val (validation for hf:).",
    )
    metric: str = Field("accuracy", description="How an answer is scored, by a name of codyra.text_metrics.")
    choices: list[Annotated[ClassName, Field(min_length=1)]] | None = Field(
        None,
        min_length=2,
        description="Answers of which the likeliest is given; null: an answer is generated.",
    )
    max_new_tokens: int | None = Field(
        None, ge=1, description="A generated answer ends there; null: the stream's max_answer_tokens."
    )
    frame: str | None = Field(
        None,
        description="What every prompt begins and ends with, around one {}, kept when a long prompt is cut; "
        "null: what prompt puts around it.",
    )
    naming: str | None = Field(
        None,
        description="xtail/KEY or mtil/KEY: classes get the names that this data set of a benchmark has; for hf:.",
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
        if source in BENCHMARKS:
            benchmark, key = BENCHMARKS[source], PurePath(location).name
            if key not in benchmark.data_sets:
                near = did_you_mean(key, benchmark.data_sets)
                raise ValueError(f"data {data!r}: {benchmark.title} has no data set {key!r}{near}")
        return data

    @field_validator("prompt", "frame")
    @classmethod
    def _prompt_has_one_place(cls, prompt: str | None) -> str | None:
        return prompt if prompt is None else check_prompt(prompt)

    @field_validator("metric")
    @classmethod
    def _metric_is_known(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(f"there is no metric {metric!r}{did_you_mean(metric, METRICS)}")
        return metric

    @field_validator("ensemble")
    @classmethod
    def _templates_have_one_place(cls, ensemble: list[str] | None) -> list[str] | None:
        return ensemble and [check_prompt(prompt) for prompt in ensemble]

    @field_validator("naming")
    @classmethod
    def _naming_is_of_a_benchmark(cls, naming: str | None) -> str | None:
        known = [
            f"{name}/{key}"
            for name, benchmark in BENCHMARKS.items()
            if isinstance(benchmark, ImageBenchmark)
            for key in benchmark.data_sets
        ]
        if naming is not None and naming not in known:
            raise ValueError(f"naming {naming!r} is no data set of a benchmark{did_you_mean(naming, known)}")
        return naming

    @field_validator("classes", "choices")
    @classmethod
    def _are_distinct(cls, names: list[str] | None, info: ValidationInfo) -> list[str] | None:
        for name, times in Counter(names or []).items():
            if times > 1:
                raise ValueError(
                    f"{'class' if info.field_name == 'classes' else 'choice'} {name!r} is listed twice"
                )
        return names

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
        foldered = {kind: set[str]() for kind in ("imagefolder", *BENCHMARKS)}
        tabular = {"text", "label", "prompt", "answer", "messages"}
        allowed = {**foldered, "hf": tabular | {"image"}}.get(source, tabular)
        for role in self.columns:
            if role not in allowed:
                raise ValueError(f"columns: {role} has no meaning for {source}:; remove it")
        if "messages" in self.columns and len(self.columns) > 1:
            raise ValueError("columns: messages hold prompt and answer; give no other column beside them")
        if self.choices is not None and self.max_new_tokens is not None:
            raise ValueError(
                "max_new_tokens: nothing is generated where there are choices; remove one of them"
            )
        if self.splits and source in BENCHMARKS:
            raise ValueError(f"splits: has no meaning for {source}:, which knows its own; remove it")
        if self.naming is not None and source != "hf":
            raise ValueError(f"naming: has no meaning for {source}:; remove it")
        return self


class SourceSpec(BaseModel):
    """Where a data set of a benchmark comes from, when not from its original files."""

    model_config = ConfigDict(extra="forbid")

    data: str = Field(description="hf:org/name@revision or hf:DIR")
    columns: dict[Role, str] = Field(default_factory=dict, description="as in a task")
    splits: dict[Literal["train", "test", "val"], str] = Field(
        default_factory=dict, description="as in a task"
    )

    @field_validator("data")
    @classmethod
    def _is_hf(cls, data: str) -> str:
        if not data.startswith("hf:"):
            raise ValueError(
                f"data {data!r} must begin with hf:; other data sets are tasks of a stream of your own"
            )
        return data


class StreamSpec(BaseModel):
    """The ordered tasks and how they are scored.

    With `benchmark` the tasks are those of the benchmark, written out; a list that is there already (in the
    config.yaml of a run) is left as it is, and `deviations` says in what it differs.
    """

    model_config = ConfigDict(extra="forbid")

    benchmark: BenchmarkName | None = Field(
        None,
        description="Learn the data sets of X-TAIL, MTIL or TRACE, which lie below data_dir; null: tasks are given.",
    )
    variant: Literal[500, 5000] | None = Field(
        None, description="Training records per task of trace: 500 (its default) or 5000."
    )
    order: int = Field(1, description="Number of a published order of the benchmark.")
    shots: int | None = Field(
        None, ge=1, description="Of every task of the benchmark (16 for xtail); null: all training examples."
    )
    test_examples: int | None = Field(None, ge=1, description="Of every task of the benchmark; null: all.")
    sources: dict[str, SourceSpec] = Field(
        default_factory=dict,
        description="Data sets of the benchmark that are to be read from elsewhere, by key.",
    )
    label_space: Literal["all", "task"] = Field(
        "all",
        description="Score among the classes of all tasks, or of the task at hand (the default of mtil).",
    )
    ties: Literal["shared", "first"] = Field(
        "shared",
        description="Classes of one prompt: right when the prompt is right, or only for the first of them.",
    )
    prompts: Literal["default", "codyra", "generic", "ensemble", "single"] = Field(
        "default",
        description="Wording of a benchmark's prompts: default, codyra or generic for xtail, ensemble (default) or "
        "single for mtil.",
    )
    only: list[str] | None = Field(
        None, min_length=1, description="Keep these tasks, in the order of the stream."
    )
    score_split: Literal["test", "val"] = Field(
        "test", description="Split that is scored; choose hyper-parameters on val, never on test."
    )
    score: Literal["all", "seen"] = Field(
        "all", description="After a task, score all tasks, or only those learnt so far."
    )
    truncation: Literal["keep_instruction", "treelora"] = Field(
        "keep_instruction",
        description="A prompt that is too long loses the end of what its frame encloses, without a frame its "
        "beginning; treelora: always its beginning.",
    )
    generation: Literal["greedy", "treelora", "likelihood"] = Field(
        "greedy",
        description="Answers are generated greedily, or sampled at temperature 0.1 (treelora); likelihood: trace's "
        "tasks of letters get their choices.",
    )
    accuracy: Literal["exact", "prefix"] = Field(
        "exact",
        description="What the metric accuracy counts: answers that are the target, or (prefix) that begin with it.",
    )
    max_prompt_tokens: int = Field(1024, ge=1, description="Longer prompts are cut, see truncation.")
    max_answer_tokens: int = Field(
        512, ge=1, description="Longer answers are cut in training, and generation ends there."
    )
    chat_template: bool = Field(False, description="Put prompts into the chat template of the tokenizer.")
    tasks: list[TaskSpec] = Field(min_length=1, description="Tasks in the order in which they are learnt.")

    def answer_rules(self) -> dict[str, Any]:
        """The keys that say how prompts become tokens and how they are answered, for all tasks alike."""
        names = ("max_prompt_tokens", "max_answer_tokens", "truncation", "generation", "chat_template")
        return {name: getattr(self, name) for name in names}

    def chosen(self) -> list[TaskSpec]:
        """The tasks that are learnt, in their order: all, or those that `only` names."""
        return [task for task in self.tasks if self.only is None or task.name in self.only]

    @model_validator(mode="before")
    @classmethod
    def _write_out_the_benchmark(cls, section: Any) -> Any:
        if not isinstance(section, Mapping) or section.get("benchmark") not in get_args(BenchmarkName):
            return section
        section = {**BENCHMARKS[section["benchmark"]].defaults, **section}
        return section if section.get("tasks") else {**section, "tasks": benchmark_tasks(section)}

    @model_validator(mode="after")
    def _benchmark_keys_need_a_benchmark(self) -> Self:
        if self.benchmark is None:
            for key in ("variant", "order", "shots", "test_examples", "sources", "prompts"):
                if getattr(self, key) != type(self).model_fields[key].get_default(call_default_factory=True):
                    raise ValueError(
                        f"{key}: has no meaning without benchmark:; give it to each task, or remove it"
                    )
        if (self.benchmark == "trace") != (self.variant is not None):
            raise ValueError("variant: trace has 500 or 5000, no other benchmark has one; mend or remove it")
        return self

    @model_validator(mode="after")
    def _likelihood_has_choices(self) -> Self:
        if self.generation == "likelihood" and not any(task.choices for task in self.tasks):
            raise ValueError(
                "generation: likelihood needs tasks with choices:, the answers to compare; give some"
            )
        return self

    @model_validator(mode="after")
    def _names_are_distinct_and_known(self) -> Self:
        names = [task.name for task in self.tasks]
        check_distinct(names)
        for name in self.only or []:
            if name not in names:
                raise ValueError(f"only: no task {name!r}{did_you_mean(name, names)}")
        return self


def benchmark_of(section: Mapping[str, Any]) -> Benchmark:
    """The benchmark that a `stream:` section with its defaults names, in the variant it names."""
    name = section["benchmark"]
    return BENCHMARKS.get(f"{name}-{section.get('variant')}", BENCHMARKS[name])


def benchmark_tasks(section: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tasks of a benchmark as a config writes them, for a `stream:` section with the benchmark's defaults.

    Raises:
        ValueError: the benchmark has no such order, wording or data set.
    """
    benchmark, order = benchmark_of(section), section["order"]
    if order not in benchmark.orders:
        published = " and ".join(map(str, benchmark.orders))
        raise ValueError(f"order: {benchmark.title} has order {published}, not {order}")
    sources = section.get("sources") or {}
    for key in sources:
        if key not in benchmark.data_sets:
            raise ValueError(
                f"sources: {benchmark.title} has no {key!r}{did_you_mean(key, benchmark.data_sets)}"
            )
    tasks = []
    for key in benchmark.orders[order]:
        place = {"data": f"{benchmark.name}:${{data_dir}}/{key}"}
        if key in sources:
            place = _checked_source(key, sources[key])
            if isinstance(benchmark, ImageBenchmark):
                place["naming"] = f"{benchmark.name}/{key}"
        tasks.append({"name": key, **place, **benchmark.task_keys(section, key)})
    return tasks


def _checked_source(key: str, given: Any) -> dict[str, Any]:
    try:
        return SourceSpec.model_validate(given).model_dump()
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, ("sources", key, *fault["loc"])))
        if fault["type"] == "extra_forbidden":
            near = did_you_mean(str(fault["loc"][-1]), SourceSpec.model_fields)
            raise ValueError(f"{place}: there is no such key{near}") from None
        raise ValueError(f"{place}: {fault['msg'].removeprefix('Value error, ')}") from None
