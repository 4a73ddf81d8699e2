"""What the command tells a user in one line."""

import unicodedata

MAX_MESSAGE = 2000


def visible(text: str, odd_spaces: bool = True) -> str:
    """`text` with every character that a terminal or a file would obey or refuse (line ends, escape sequences,
    marks that turn the direction of writing, halves of surrogate pairs) written as a backslash escape.

    Args:
        odd_spaces: leave spaces that are no plain blank, as French and Japanese names have them.
    """
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or (odd_spaces and unicodedata.category(char) == "Zs")
        else char.encode("unicode_escape").decode()
        for char in text
    )


class UserError(ValueError):
    """One clear line: what is wrong, where, and how to mend it. The command prints it and exits with code 2.

    Messages quote file names and contents, so the line is made sure of here, for all of them.
    """

    def __init__(self, message: str) -> None:
        line = visible(message, odd_spaces=False)  # a key that has one looks like the key that it is not
        if len(line) > MAX_MESSAGE:
            # What is wrong stands at the beginning, how to mend it at the end.
            line = f"{line[: MAX_MESSAGE // 2]} [...] {line[-MAX_MESSAGE // 2 :]}"
        super().__init__(line)


class GuardRefused(UserError):
    """A guard found that an update costs more than is tolerated. The command exits with code 3."""
