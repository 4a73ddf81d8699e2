"""Right or wrong: four readings of "the prediction is the target". Case counts in all of them.

Their numbers are not comparable with each other, nor with TRACE's original, which does not strip.
"""


def accuracy(prediction: str, target: str) -> float:
    """100 where both are equal without the white space around them. An empty prediction is wrong."""
    stripped = prediction.strip()
    return 100.0 * (stripped != "" and stripped == target.strip())


def accuracy_prefix(prediction: str, target: str) -> float:
    """100 where the prediction begins with the target (TreeLoRA): `60` passes for `6`, and `Answer: A` for `A`.

    White space around both does not count. An empty prediction is wrong.
    """
    stripped = prediction.strip()
    return 100.0 * (stripped != "" and stripped.startswith(target.strip()))


def letter(text: str) -> str:
    """The letter that an answer to a multiple-choice question begins with; `N/A` when there is none."""
    return text.strip()[:1] or "N/A"


def letter_accuracy(prediction: str, target: str) -> float:
    """100 where both begin with the same letter (ScienceQA); what follows it, the reasons, is not scored."""
    return 100.0 * (letter(prediction) != "N/A" and letter(prediction) == letter(target))
