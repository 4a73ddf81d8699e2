"""Edit similarity of code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codyra.text_metrics import py150_postprocess, similarity

GOLDEN = [
    ("return x", "return y", 88),
    ("abc", "abc", 100),
    ("", "a", 0),
    ("foo ( 0 )", "foo ( 1 , )", 80),
    ("self . x = 0", "self . y = 0", 92),
    ("x = <NUM_LIT>", "x = 0", 100),
    ("<STR_LIT>", "", 0),
    ("x = <STR_LIT:a>", "x = a", 100),
    ("a <EOL>", "a", 25),
    ("", "", 0),
]


@pytest.mark.parametrize(("prediction", "target", "score"), GOLDEN)
def test_golden(prediction, target, score):
    assert similarity(prediction, target) == score


def test_literals_are_written_out():
    before = "x = <NUM_LIT:200> + <NUM_LIT> ; y = '<STR_LIT:a b>' + '<STR_LIT>' + <CHAR_LIT>"
    assert py150_postprocess(before) == "x = 200 + 0 ; y = 'a b' + '' + "
    assert py150_postprocess("<STR_LIT:a\nb> <CHAR_LIT:c> <EOL>") == "a\nb c <EOL>"


@given(st.text(), st.text())
def test_a_whole_number_of_percent(prediction, target):
    score = similarity(prediction, target)
    assert score == int(score)
    assert 0 <= score <= 100
    assert similarity(target, target) == (100 if py150_postprocess(target) else 0)
