"""The nearest legal name for a mistyped one."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Half a sentence to append to an error: the nearest of `names`, or a short list of what there is."""
    names = list(names)
    near = difflib.get_close_matches(word, names, n=1)
    if near:
        return f", did you mean '{near[0]}'?"
    return f" (there are {', '.join(names[:8])}{', ...' if len(names) > 8 else ''})" if names else ""
