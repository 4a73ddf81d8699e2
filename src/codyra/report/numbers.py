"""How numbers are written for people. What is missing is a dash everywhere."""

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def percent(value: float | None) -> str:
    """A score with one decimal."""
    if value is None:
        return DASH
    return f"{round(value, 1) + 0.0:.1f}".replace("-", MINUS)  # + 0.0 turns -0.0 into 0.0


def signed(value: float | None) -> str:
    """A difference of scores with its sign; what rounds to nothing is 0.0 without one."""
    if value is None:
        return DASH
    if abs(value) < 0.05:
        return "0.0"
    return f"{value:+.1f}".replace("-", MINUS)


def short(value: float | None) -> str:
    """Three significant digits."""
    return DASH if value is None else f"{value:.3g}"


def count(value: int | None) -> str:
    """A whole number with thousands separated."""
    return DASH if value is None else f"{value:,}"


def duration(seconds: float | None) -> str:
    """Wall-clock time: 0.08 s, 11.2 s, 2 min 11 s, 3 h 05 min."""
    if seconds is None:
        return DASH
    if seconds < 59.95:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def memory(num_bytes: int | None) -> str:
    """Bytes in MiB or GiB."""
    if num_bytes is None:
        return DASH
    mib = num_bytes / 2**20
    return f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def yes_no(value: object) -> str:
    """A declared property: yes, no, or the words the method used."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
