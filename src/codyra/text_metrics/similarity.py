"""Edit similarity of two pieces of code (Py150)."""

import re
from difflib import SequenceMatcher

_LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)


def py150_postprocess(text: str) -> str:
    """Write out the literals that Py150 abstracts: `<NUM_LIT>` is 0, `<STR_LIT>` and `<CHAR_LIT>` are nothing,
    `<STR_LIT:x>` and its kind are x."""
    text = text.replace("<NUM_LIT>", "0").replace("<STR_LIT>", "").replace("<CHAR_LIT>", "")
    return _LITERAL.sub(r"\1", text)


def similarity(prediction: str, target: str) -> float:
    """100 times difflib's ratio of the two texts with their literals written out, rounded to a whole number.

    This is `fuzz.ratio` of fuzzywuzzy without its optional Levenshtein package, which can give other values.
    Nothing is stripped nor cut at `<EOL>`. An empty side scores 0.
    """
    prediction, target = py150_postprocess(prediction), py150_postprocess(target)
    if not prediction or not target:
        return 0.0
    return float(round(100 * SequenceMatcher(None, prediction, target).ratio()))
