"""ROUGE-L in two flavours whose numbers are not comparable: TRACE's over distinct words, and the standard one."""

from codyra.text_metrics.packages import from_extra

ROUGE_SCORE = "rouge_score.rouge_scorer"


def rouge_l(prediction: str, target: str) -> float:
    """TRACE's ROUGE-L of a summary: the summary-level F over distinct words, as the package `rouge` 1.0.1 has it.

    Sentences end at a full stop; words are what white space separates, case and marks included. U holds the words
    of one longest common subsequence for every pair of a predicted and a true sentence, and
    P = |U| / distinct words of the target, R = |U| / distinct words of the prediction, F = 2PR / (P + R + 1e-8).

    A prediction without a line end gets one, as in TRACE: after a closing full stop it becomes a sentence of one
    empty word, which counts, so that a perfect prediction that ends in "." scores below 100 ("a b." has 80).
    An empty text, or one without any sentence, scores 0.
    """
    if not prediction or not target:
        return 0.0
    predicted = _sentences(prediction if "\n" in prediction else prediction + "\n")
    true = _sentences(target)
    if not predicted or not true:
        return 0.0
    shared = {word for x in predicted for y in true for word in _common_subsequence(x, y)}
    precision = len(shared) / len({word for sentence in true for word in sentence})
    recall = len(shared) / len({word for sentence in predicted for word in sentence})
    return 100 * 2 * precision * recall / (precision + recall + 1e-8)


def rouge_l_standard(prediction: str, target: str) -> float:
    """F-measure of the package rouge-score's rougeL, no stemming: one longest common subsequence of both texts.

    Its words are runs of a-z and 0-9 in lower case: a text in another script has none and scores 0.

    Raises:
        UserError: the extra [llm] is not installed.
    """
    scorer = from_extra(ROUGE_SCORE).RougeScorer(["rougeL"])
    return 100.0 * scorer.score(target, prediction)["rougeL"].fmeasure


def _sentences(text: str) -> list[list[str]]:
    """Words of every sentence; one of white space only has the empty word."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _common_subsequence(x: list[str], y: list[str]) -> set[str]:
    """Words of the longest common subsequence of x and y that stepping back in y wherever x need not gives."""
    # The table of lengths L(i, j), one row in the bits of an integer: bit j - 1 of steps[i] is set where
    # L(i, j) = L(i, j - 1) + 1. A row follows from the one before by carries (Hyyrö 2004), len(y) bits at a time.
    places: dict[str, int] = {}
    for j, word in enumerate(y):
        places[word] = places.get(word, 0) | 1 << j
    full = (1 << len(y)) - 1
    steps = [0]
    for word in x:
        level = full ^ steps[-1]
        met = level & places.get(word, 0)
        steps.append(full ^ (((level + met) | (level ^ met)) & full))

    words = set()
    i, j = len(x), len(y)
    while i and j:
        if x[i - 1] == y[j - 1]:
            words.add(x[i - 1])
            i, j = i - 1, j - 1
        elif steps[i] >> (j - 1) & 1:  # L(i, j) is L(i - 1, j), which is above L(i, j - 1)
            i -= 1
        else:
            j -= 1
    return words
