"""How one written answer is scored against the true one, in percent from 0 to 100.

Pure functions of strings. A task's score is the mean over its records, every record counted, an empty prediction
too. The definitions are those of the TRACE benchmark and of the code behind its published rows where they are
named so; what each of them leaves open is decided in its docstring.
"""

from collections.abc import Callable
from dataclasses import dataclass

from codyra.text_metrics.accuracy import accuracy, accuracy_prefix, letter, letter_accuracy
from codyra.text_metrics.packages import from_extra
from codyra.text_metrics.rouge import ROUGE_SCORE, rouge_l, rouge_l_standard
from codyra.text_metrics.sari import SACREBLEU, sari
from codyra.text_metrics.similarity import py150_postprocess, similarity

__all__ = [
    "METRICS",
    "TextMetric",
    "accuracy",
    "accuracy_prefix",
    "letter",
    "letter_accuracy",
    "py150_postprocess",
    "rouge_l",
    "rouge_l_standard",
    "sari",
    "similarity",
]


@dataclass(frozen=True)
class TextMetric:
    """A metric by the name a config gives it.

    Args:
        name: key in METRICS.
        title: what people read; it names the variant.
        function: of (prompt, prediction, target), in percent.
        module: the module of the extra [llm] it is computed with, if any.
    """

    name: str
    title: str
    function: Callable[[str, str, str], float]
    module: str | None = None

    def score(self, prompt: str, prediction: str, target: str) -> float:
        """Percent for one record; only SARI looks at the prompt."""
        return self.function(prompt, prediction, target)

    def check(self) -> None:
        """Make sure that what the metric needs beyond codyra's own dependencies is there.

        Raises:
            UserError: it is not.
        """
        if self.module is not None:
            from_extra(self.module)


def _of_answers(score: Callable[[str, str], float]) -> Callable[[str, str, str], float]:
    return lambda prompt, prediction, target: score(prediction, target)


METRICS: dict[str, TextMetric] = {
    metric.name: metric
    for metric in (
        TextMetric("accuracy", "accuracy (exact match)", _of_answers(accuracy)),
        TextMetric("accuracy_prefix", "accuracy (prefix match)", _of_answers(accuracy_prefix)),
        TextMetric("letter_accuracy", "accuracy (first letter)", _of_answers(letter_accuracy)),
        TextMetric("rouge_l", "ROUGE-L (unique words)", _of_answers(rouge_l)),
        TextMetric("rouge_l_standard", "ROUGE-L (standard)", _of_answers(rouge_l_standard), ROUGE_SCORE),
        TextMetric("similarity", "edit similarity", _of_answers(similarity)),
        TextMetric(
            "sari", "SARI", lambda prompt, prediction, target: sari(prompt, prediction, [target]), SACREBLEU
        ),
    )
}
