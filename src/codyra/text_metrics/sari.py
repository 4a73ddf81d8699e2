"""SARI of a simplified text (20Minuten): what was kept, deleted and added, against what the references did."""

from collections import Counter
from collections.abc import Sequence

from codyra.text_metrics.packages import from_extra

SACREBLEU = "sacrebleu.tokenizers.tokenizer_13a"
MAX_N = 4


def sari(source: str, prediction: str, references: Sequence[str]) -> float:
    """100 (F_keep + P_delete + F_add) / 3, each the mean over the n-grams of n = 1..4.

    Texts are lower-cased and cut into sacrebleu's 13a tokens. On TRACE the source is the full prompt, its
    instruction included. A ratio of nothing to nothing is 1, so an empty prediction can score above 0: it deleted.

    Raises:
        ValueError: there is no reference.
        UserError: the extra [llm] is not installed.
    """
    if not references:
        raise ValueError("SARI needs at least one reference")
    tokenize = from_extra(SACREBLEU).Tokenizer13a()
    texts = [tokenize(text.lower()).split() for text in (source, prediction, *references)]
    total = 0.0
    for n in range(1, MAX_N + 1):
        from_source, predicted, *true = (_n_grams(tokens, n) for tokens in texts)
        total += _keep_delete_add(from_source, predicted, true)
    return 100.0 * total / (3 * MAX_N)


def _n_grams(tokens: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))


def _keep_delete_add(source: Counter, prediction: Counter, references: list[Counter]) -> float:
    """F_keep + P_delete + F_add of the n-grams of one n."""
    wanted: Counter = sum(references, Counter())
    source, prediction = (
        Counter({gram: count * len(references) for gram, count in grams.items()})
        for grams in (source, prediction)
    )

    kept = source & prediction
    rightly_kept = kept & wanted
    keep = _f_score(_mean_share(rightly_kept, kept), _ratio(rightly_kept.total(), (source & wanted).total()))
    deleted = source - prediction
    delete = _mean_share(deleted - wanted, deleted)
    added = prediction.keys() - source.keys()
    rightly_added = added & wanted.keys()
    add = _f_score(
        _ratio(len(rightly_added), len(added)),
        _ratio(len(rightly_added), len(wanted.keys() - source.keys())),
    )
    return keep + delete + add


def _mean_share(good: Counter, every: Counter) -> float:
    """Mean over the n-grams of `every` of the share of their counts that is good."""
    return _ratio(sum(good[gram] / count for gram, count in every.items()), len(every))


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else 1.0


def _f_score(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
