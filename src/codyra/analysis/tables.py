"""Tables for other programs: CSV with a header, numbers in full precision, an empty cell for what is not known."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from codyra import files

Cell = str | int | float | None


def write_csv(file: Path, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Write one table.

    Raises:
        UserError: it cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(
            ["" if cell is None else repr(cell) if isinstance(cell, float) else cell for cell in row]
        )
    files.write_text(file, buffer.getvalue())
