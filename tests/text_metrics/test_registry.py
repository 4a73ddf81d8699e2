"""The metrics by the names a config gives them, and what happens without the extra."""

import subprocess
import sys

import pytest

from codyra import text_metrics
from codyra.errors import UserError
from codyra.text_metrics import METRICS


def test_every_function_has_its_name():
    assert set(METRICS) == {
        "accuracy",
        "accuracy_prefix",
        "letter_accuracy",
        "rouge_l",
        "rouge_l_standard",
        "similarity",
        "sari",
    }
    assert all(metric.name == name for name, metric in METRICS.items())
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"sari"}))
def test_only_sari_looks_at_the_prompt(name):
    score = getattr(text_metrics, name)("a b", "a b. c")
    assert METRICS[name].score("any prompt", "a b", "a b. c") == score


def test_sari_compares_with_the_prompt():
    assert METRICS["sari"].score("a b c d e", "a b c", "a b c") == 100
    assert METRICS["sari"].score("f", "a b c", "a b c") == text_metrics.sari("f", "a b c", ["a b c"])


@pytest.mark.parametrize("name", METRICS)
def test_without_the_extra(name, monkeypatch):
    for package in ("rouge_score.rouge_scorer", "sacrebleu.tokenizers.tokenizer_13a"):
        monkeypatch.setitem(sys.modules, package, None)
    if name in ("rouge_l_standard", "sari"):
        for use in (METRICS[name].check, lambda: METRICS[name].score("a", "a", "a")):
            with pytest.raises(UserError, match=r'pip install "codyra\[llm\]"'):
                use()
    else:
        METRICS[name].check()
        METRICS[name].score("a", "a", "a")


def test_importing_imports_no_package_of_the_extra():
    code = (
        "import sys, codyra.text_metrics; assert not {'torch', 'sacrebleu', 'rouge_score'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
