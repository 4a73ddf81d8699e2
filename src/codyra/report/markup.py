"""HTML that is escaped by construction: a plain string becomes text, only `tag` and `join` make markup."""

import re
from collections.abc import Iterable
from html import escape

_VOID = frozenset({"img", "meta", "wbr"})
_SELF_CLOSING = frozenset({"circle", "line", "path", "polyline", "rect"})


class Markup(str):
    """A string that is HTML already."""

    __slots__ = ()


Child = str | int | None
Attribute = str | int | float | bool | None


def join(children: Iterable[Child]) -> Markup:
    """The children one after another; whatever is not Markup is escaped, None is left out."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else escape(str(child))
            for child in children
            if child is not None
        )
    )


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """An element. `class_` stands for class and `aria_label` for aria-label; None and False leave one out."""
    opening = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        opening += f" {key}" if value is True else f' {key}="{escape(str(value))}"'
    if name in _VOID:
        return Markup(f"<{opening}>")
    if name in _SELF_CLOSING and not children:
        return Markup(f"<{opening}/>")
    return Markup(f"<{opening}>{join(children)}</{name}>")


def sentence(words: str) -> str:
    """The words with a capital at the beginning and a full stop; names among them stay as they are."""
    return f"{words[:1].upper()}{words[1:]}."


def breakable(name: str) -> Markup:
    """A name that may be long, with places where a narrow cell breaks it first."""
    first, *rest = re.split("(?<=_)|(?<=[a-z])(?=[A-Z])", name)
    return join([first, *(piece for part in rest for piece in (tag("wbr"), part))])


def scroll_box(table: Markup, label: str) -> Markup:
    """A wide table in a box of its own that scrolls, by keyboard too, so that the page never does."""
    return tag("div", table, class_="scroll", role="region", tabindex=0, aria_label=label)


def folded(summary: str, *content: Child) -> Markup:
    """Content behind a line that opens it."""
    return tag("details", tag("summary", summary), *content)
