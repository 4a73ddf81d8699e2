"""Tasks of prompts and answers, small enough to write down."""

from dataclasses import dataclass
from pathlib import Path

from codyra.families import AnswerSettings, ModelSpec, load_family
from codyra.families.causal_lm import CausalLM
from codyra.families.family import Prompt


@dataclass(frozen=True)
class Split:
    inputs: tuple[Prompt, ...]
    answers: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        return repr((self.inputs, self.answers))

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Task:
    train: Split
    test: Split
    name: str = "quiz"
    modality: str = "answers"
    metric: str = "accuracy"
    choices: tuple[str, ...] = ()
    max_new_tokens: int = 6
    frame: tuple[str, str] = ("", "")


PROMPTS = (
    "Question: what colour is the sky? Answer:",
    "Choose A, B, C or D.",
    "Translate the words: the house by the river, the river is cold and the house is old. The house:",
    "one two three",
    "Question: which animal sleeps on the warm stove at the door, and which one barks? Answer:",
)
ANSWERS = (" blue", "B", " old", " four five. yes", " a cat, a dog")


def quiz(prompts: tuple[Prompt, ...] = PROMPTS, answers: tuple[str, ...] = ANSWERS, **options) -> Task:
    """A task whose training and test records are the same."""
    split = Split(prompts, answers)
    return Task(split, split, **options)


def load(directory: Path, dtype: str = "float32", **settings) -> CausalLM:
    family = load_family(ModelSpec(name=str(directory), dtype=dtype), AnswerSettings(**settings))
    assert isinstance(family, CausalLM)
    return family
