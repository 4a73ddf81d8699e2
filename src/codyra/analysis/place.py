"""Where an analysis of a run goes: beside the run folder, never into it."""

from pathlib import Path

from codyra.errors import UserError


def beside(run: Path, what: str, out: Path | None) -> Path:
    """`out`, or <run>-<what> by default.

    Raises:
        UserError: `out` lies in the run folder.
    """
    whole = run.resolve()
    if out is None:
        named = run if run.name not in ("", "..") else whole
        return named.with_name(f"{named.name}-{what}")
    if out.resolve().is_relative_to(whole):
        raise UserError(
            f"--out {out}: lies in the run folder, which holds the run alone; choose another --out"
        )
    return out
