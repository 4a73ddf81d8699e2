"""SARI: golden values, and a count by loops over every n-gram."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codyra.text_metrics import sari

SPECIES = "About 95 species are currently accepted ."
GOLDEN = [
    (
        SPECIES,
        "About 95 you now get in .",
        [
            "About 95 species are currently known .",
            "About 95 species are now accepted .",
            "95 species are now accepted .",
        ],
        26.953601953601954,
    ),
    (SPECIES, SPECIES, ["About 95 species are now accepted ."], 55.78754578754579),
    ("a b c d e", "a b c", ["a b c"], 100.0),
    ("A b, c.", "a B , C .", ["a b , c ."], 100.0),
]


@pytest.mark.parametrize(("source", "prediction", "references", "score"), GOLDEN)
def test_golden(source, prediction, references, score):
    assert sari(source, prediction, references) == pytest.approx(score, abs=1e-9)


def grams(text: str, n: int) -> list[str]:
    words = text.split()
    return [" ".join(words[start : start + n]) for start in range(len(words) - n + 1)]


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def f_score(p: float, r: float) -> float:
    return 2 * p * r / (p + r) if p + r else 0.0


def reference(source: str, prediction: str, references: list[str]) -> float:
    total = 0.0
    for n in range(1, 5):
        s, c = (grams(text, n) * len(references) for text in (source, prediction))
        q = [gram for text in references for gram in grams(text, n)]
        every = sorted({*s, *c, *q})
        keep = {g: min(s.count(g), c.count(g)) for g in every}
        good = {g: min(keep[g], q.count(g)) for g in every}
        possible = sum(min(s.count(g), q.count(g)) for g in every)
        num_kept = sum(count > 0 for count in keep.values())
        share = sum(good[g] / keep[g] for g in every if keep[g])
        total += f_score(ratio(share, num_kept), ratio(sum(good.values()), possible))

        gone = {g: max(s.count(g) - c.count(g), 0) for g in every}
        share = sum(max(gone[g] - q.count(g), 0) / gone[g] for g in every if gone[g])
        total += ratio(share, sum(count > 0 for count in gone.values()))

        new = set(c) - set(s)
        hits = len(new & set(q))
        total += f_score(ratio(hits, len(new)), ratio(hits, len(set(q) - set(s))))
    return 100 * total / 12


sentences = st.lists(st.sampled_from("abcd"), max_size=8).map(" ".join)


@given(sentences, sentences, st.lists(sentences, min_size=1, max_size=3))
def test_equals_the_count(source, prediction, references):
    score = sari(source, prediction, references)
    assert score == pytest.approx(reference(source, prediction, references), abs=1e-9)
    assert 0 <= score <= 100


def test_no_reference_is_refused():
    with pytest.raises(ValueError, match="at least one reference"):
        sari("a", "a", [])
