"""What the command tells a user in one line."""


class UserError(ValueError):
    """One clear line: what is wrong, where, and how to mend it. The command prints it and exits with code 2."""


class GuardRefused(UserError):
    """A guard found that an update costs more than is tolerated. The command exits with code 3."""
