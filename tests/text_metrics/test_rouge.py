"""Both ROUGE-L: golden values, and TRACE's against a table filled cell by cell."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codyra.text_metrics import rouge_l, rouge_l_standard

GOLDEN = [
    ("the cat sat on the mat", "the cat is on the mat", 0.8),
    ("a b c d", "a b c d", 1.0),
    ("The cat. A dog ran.", "A dog ran. The cat sat.", 0.833333),
    ("a a a b", "a b", 1.0),
    (".", "a b", 0.0),
    ("a b.", "a b.", 0.8),
    ("A. b c", "a b. C", 0.333333),
    ("", "a b", 0.0),
    ("a b", "", 0.0),
    ("a b", "...", 0.0),
    ("a\nb.", "a b.", 1.0),
    (" ", "a. ", 0.666667),
    ("a a b", "a b a", 1.0),  # these two: which of two longest subsequences is taken
    ("a b a", "a a b", 0.5),
]


@pytest.mark.parametrize(("prediction", "target", "score"), GOLDEN)
def test_golden(prediction, target, score):
    assert rouge_l(prediction, target) == pytest.approx(100 * score, abs=5e-5)


def subsequence(x: list[str], y: list[str]) -> list[str]:
    lengths = [[0] * (len(y) + 1) for _ in range(len(x) + 1)]
    for i in range(len(x)):
        for j in range(len(y)):
            same = x[i] == y[j]
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if same else max(lengths[i][j + 1], lengths[i + 1][j])
    i, j, words = len(x), len(y), []
    while i > 0 and j > 0:
        if x[i - 1] == y[j - 1]:
            i, j, words = i - 1, j - 1, [x[i - 1], *words]
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    assert len(words) == lengths[-1][-1]
    return words


def reference(prediction: str, target: str) -> float:
    if prediction == "" or target == "":
        return 0.0
    if "\n" not in prediction:
        prediction += "\n"
    texts = [
        [" ".join(part.split()).split(" ") for part in text.split(".") if part]
        for text in (prediction, target)
    ]
    if not all(texts):
        return 0.0
    union = {word for x in texts[0] for y in texts[1] for word in subsequence(x, y)}
    n_target, n_prediction = (len({word for part in text for word in part}) for text in texts[::-1])
    precision, recall = len(union) / n_target, len(union) / n_prediction
    return 100 * 2 * precision * recall / (precision + recall + 1e-8)


texts = st.one_of(
    st.text(st.sampled_from("aabé.. \n"), max_size=40),
    st.lists(st.sampled_from("abcdefgh"), max_size=40).map(" ".join),
    st.lists(st.sampled_from([*"abcdef", ". ", "\n"]), max_size=60).map(" ".join),
)


@settings(max_examples=300)
@given(texts, texts)
def test_equals_the_table(prediction, target):
    assert rouge_l(prediction, target) == pytest.approx(reference(prediction, target), abs=1e-9)


def test_long_texts_take_no_time_and_no_stack():
    words = [f"w{number * number % 701}" for number in range(5000)]
    start = time.perf_counter()
    score = rouge_l(" ".join(words), " ".join(words[::-1]))
    assert time.perf_counter() - start < 5
    assert 0 < score < 100
    assert rouge_l(" ".join(words), " ".join(words)) == pytest.approx(100)


@pytest.mark.parametrize(
    ("prediction", "target", "score"),
    [
        ("the cat sat on the mat", "the cat is on the mat", 5 / 6),
        ("The cat!", "the  cat", 1.0),
        ("a a a b", "a b", 2 / 3),
        ("a b.", "a b.", 1.0),
        ("running", "run", 0.0),
        ("", "a", 0.0),
        ("你好", "你好", 0.0),
    ],
)
def test_standard(prediction, target, score):
    assert rouge_l_standard(prediction, target) == pytest.approx(100 * score)
