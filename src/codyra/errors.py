"""The one exception for a mistake that the user, and nobody else, can mend."""


class UserError(ValueError):
    """One clear line: what is wrong, where, and how to mend it. The command prints it and exits with code 2."""
