"""TRACE: eight instruction tasks that a language model learns in a row and answers.

Either in the 500-record form, which published comparisons use, or in the original one of 5,000 records per task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codyra.errors import UserError
from codyra.streams.answers import AnswerRecords, answer_records
from codyra.streams.benchmarks.definition import Benchmark, DataSet, Split
from codyra.streams.tables import open_table

FILES: dict[Split, str] = {"train": "train.json", "val": "eval.json", "test": "test.json"}
ORDER = ("C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten")

_MATH = "Solve the following math problem.\nQuestion:\n{}\nAnswer:"
_TEMPLATES = {
    "C-STANCE": "判断以下文本对指定对象的态度，选择一项：A.支持，B.反对，C.中立。输出A，B或者C。\n"  # noqa: RUF001
    "文本：\n{}\n态度：",  # noqa: RUF001
    "FOMC": "What is the monetary policy stance for the following text? A. dovish, B. hawkish, C. neutral. "
    "Choose one from A, B and C.\nText:\n{}\nStance:",
    "MeetingBank": "Write a summary of the following meeting transcripts.\nMeeting transcripts:\n{}\nSummary:",
    "Py150": "<s> {} <EOL>",
    "ScienceQA": "Choose an answer for the following question and give your reasons.\n\nQuestion:\n{}\n\nAnswer:",
    "NumGLUE-cm": _MATH,
    "NumGLUE-ds": _MATH,
    "20Minuten": "Provide a simplified version of the following paragraph in German.\n\n"
    "Paragraph:\n{}\n\nSimplification:",
}
_METRICS = {
    "MeetingBank": "rouge_l",
    "Py150": "similarity",
    "ScienceQA": "letter_accuracy",
    "20Minuten": "sari",
}
"""Of the tasks that are not scored by accuracy."""
_CHOICES = {"C-STANCE": ["A", "B", "C"], "FOMC": ["A", "B", "C"], "ScienceQA": ["A", "B", "C", "D"]}
_KEPT = ("MeetingBank",)
"""Tasks whose prompts are cut inside, not from the left: their transcripts are longer than any window."""


@dataclass(frozen=True, kw_only=True)
class AnswerSet(DataSet):
    """One data set of prompts and answers; the files hold finished prompts.

    Attributes:
        template: what every prompt of it begins and ends with, around one {}.
    """

    template: str

    def read(self, folder: Path, split: Split) -> AnswerRecords:
        """One split of the data set in `folder`.

        Raises:
            UserError: its file is missing or damaged, or none of its prompts is one of this data set.
        """
        file = folder / FILES[split]
        if not file.is_file():
            raise UserError(f"{folder} has no {file.name}; get {self.download}")
        records = answer_records(open_table(file), ("prompt", "answer"))
        if records.prompts and len(self._strangers(records)) == len(records.prompts):
            raise UserError(
                f"{file}: no prompt begins and ends as those of {self.key} do; put the right file there"
            )
        return records

    def faults(self, records: AnswerRecords, split: Split) -> list[str]:
        """What is wrong with a split that can be used nevertheless, one line each; a run on it is marked."""
        odd = self._strangers(records)
        if not odd:
            return []
        return [
            f"prompts in {split} that are not worded as published: {len(odd):,}, such as record {odd[0] + 1}"
        ]

    def _strangers(self, records: AnswerRecords) -> list[int]:
        """Positions of the prompts that do not begin and end as this data set's do."""
        head, tail = self.template.split("{}")
        return [
            position
            for position, prompt in enumerate(records.prompts)
            if not (isinstance(prompt, str) and prompt.startswith(head) and prompt.endswith(tail))
        ]


@dataclass(frozen=True, kw_only=True)
class AnswerBenchmark(Benchmark):
    """A benchmark of prompts that are answered."""

    data_sets: Mapping[str, AnswerSet]

    def task_keys(self, section: Mapping[str, Any], key: str) -> dict[str, Any]:
        if section["prompts"] != "default":
            raise ValueError(f"prompts: {self.title} has default, not {section['prompts']}")
        return {
            "shots": section["shots"],
            "allow_fewer": True,
            "test_examples": section.get("test_examples"),
            "metric": _METRICS.get(key, "accuracy"),
            "choices": _CHOICES.get(key) if section.get("generation") == "likelihood" else None,
            "frame": _TEMPLATES[key] if key in _KEPT else None,
        }


def _trace(
    name: str, compilation: str, origin: str, sizes: Mapping[str, dict[Split, int]]
) -> AnswerBenchmark:
    def data_set(key: str) -> AnswerSet:
        return AnswerSet(
            key=key,
            sizes=sizes[key],
            # Where both compilations lie in one folder, the name of theirs tells them apart.
            folders=(f"{compilation}/{key}", key),
            holds=tuple(FILES.values()),
            download=f"{compilation}/{key} of TRACE ({origin})",
            template=_TEMPLATES[key],
        )

    return AnswerBenchmark(
        name=name,
        title="TRACE",
        data_sets={key: data_set(key) for key in ORDER},
        defaults={"variant": 500, "order": 1, "shots": None, "prompts": "default"},
        published=_PUBLISHED,
        orders={1: ORDER},
    )


_PUBLISHED: Mapping[str, Sequence[Any]] = {
    "shots": (None,),
    "test_examples": (None,),
    # What the released code behind most published rows does, or what mends it (docs/benchmarks.md).
    "truncation": ("keep_instruction", "treelora"),
    "generation": ("greedy", "treelora"),
    "chat_template": (False,),
    "max_prompt_tokens": (1024,),
    "max_answer_tokens": (512,),
}
_SIZES_500: dict[str, dict[Split, int]] = {
    **{key: {"train": 500, "val": 100, "test": 100} for key in ORDER},
    "NumGLUE-cm": {"train": 500, "val": 41, "test": 81},
}
_SIZES_5000: dict[str, dict[Split, int]] = {key: {"train": 5000, "test": 2000} for key in ORDER}

TRACE = _trace("trace", "LLM-CL-Benchmark_500", "Artificer-AI-Lab/MoRAM, below TRACE/data", _SIZES_500)
TRACE_5000 = _trace("trace-5000", "LLM-CL-Benchmark_5000", "BeyonderXX/TRACE", _SIZES_5000)
