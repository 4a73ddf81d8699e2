"""A table as text, CSV, Markdown or LaTeX.

Numbers for people have one digit after the point, two where a standard deviation stands beside them; CSV has all.
Nothing is set in bold: whether a difference is more than chance is not for a table to say.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from string import ascii_lowercase

from rich.box import Box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from codyra import markdown
from codyra.errors import visible
from codyra.report.table import Cell, Column, Table

NOT_THE_BENCHMARK = "Not the benchmark"
_WIDEST = 10_000
"""Columns of a text that no terminal has, so that nothing is cut: a terminal that is too narrow wraps whole lines."""
_RULES = Box("    \n    \n -- \n    \n -- \n -- \n    \n    \n")
"""A line below the head and between sections, nothing else."""
_CSV_HEAD = (
    "table", "title", "block", "metric", "data_set", "method", "kind", "n", "value", "std", "standard_error",
    "note", "marks", "source",
)  # fmt: skip


def written(cell: Cell, column: Column, missing: str) -> str:
    """A cell as `63.2`, `63.21 ± 0.04`, `+1.2`, `98,304`, `4.4 M`, its words, or `missing`."""
    if cell.words is not None:
        return cell.words
    if cell.value is None:
        return missing
    if column.digits is None:
        return f"{cell.value / 1e6:.1f} M" if cell.value >= 1e6 else f"{cell.value:,.0f}"
    digits = column.digits if cell.std is None else max(2, column.digits)
    value = round(cell.value, digits) + 0.0  # + 0.0 turns -0.0 into 0.0
    sign = "+" if column.signed and value > 0 else ""
    error = "" if cell.std is None else f" \N{PLUS-MINUS SIGN} {cell.std:.{digits}f}"
    return f"{sign}{value:.{digits}f}{error}"


def letters(notes: Sequence[str]) -> dict[str, str]:
    """The letter of every footnote: a, b, ... z, aa, bb."""
    return {note: ascii_lowercase[i % 26] * (i // 26 + 1) for i, note in enumerate(notes)}


# --- text ---


def as_text(tables: Sequence[Table]) -> str:
    """Aligned columns; a line between measured and published rows."""
    return "\n\n".join(_text(table) for table in tables) + "\n"


def _text(table: Table) -> str:
    letter = letters(table.notes)

    def noted(words: str, notes: Sequence[str]) -> Text:
        return Text(words + "".join(f" [{letter[note]}]" for note in notes))

    paper = io.StringIO()
    console = Console(file=paper, width=_WIDEST, color_system=None, highlight=False, emoji=False)
    for block in table.blocks:
        grid = Grid(box=_RULES, padding=(0, 1, 0, 0))
        grid.add_column(Text(block.title), vertical="bottom")
        grid.add_column("")
        for column in block.columns:
            grid.add_column(Text("\n".join(_words(column.heading))), justify="right", vertical="bottom")
        for row, following in zip(block.rows, [*block.rows[1:], None], strict=True):
            cells = [
                noted(visible(written(cell, c, "-")), cell.notes)
                for cell, c in zip(row.cells, block.columns, strict=True)
            ]
            between = following is not None and following.kind != row.kind
            grid.add_row(noted(visible(row.label), row.notes), row.origin, *cells, end_section=between)
        console.print(grid)
    lines = [visible(table.title), *(f"{NOT_THE_BENCHMARK}: {visible(mark)}" for mark in table.marks)]
    lines += [line.rstrip() for line in paper.getvalue().splitlines()]
    lines += map(visible, table.remarks)
    lines += [f"Published rows: {table.source}."] if table.source else []
    lines += [f"[{letter[note]}] {visible(note)}" for note in table.notes]
    return "\n".join(lines)


def _words(heading: str) -> list[str]:
    """Lines of a heading: it breaks at spaces and after underscores."""
    return visible(heading).replace("_", "_ ").split()


# --- CSV ---


def as_csv(tables: Sequence[Table]) -> str:
    """One line per cell, full precision; `data_set` is empty for means and for figures of the whole stream."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(_CSV_HEAD)
    for number, table in enumerate(tables, start=1):
        marks = "; ".join(map(visible, table.marks))
        for block in table.blocks:
            for row in block.rows:
                # Marks are of the measured rows, a source is that of the published ones.
                where = ("", table.source) if row.kind == "published" else (marks, None)
                for column, cell in zip(block.columns, row.cells, strict=True):
                    names = map(
                        visible, (table.title, block.title, column.metric, column.data_set or "", row.label)
                    )
                    notes = "; ".join(map(visible, (*row.notes, *cell.notes)))
                    value = cell.value
                    if column.digits is None and value is not None:
                        value = round(value)
                    shown = visible(cell.words) if cell.words is not None else value
                    errors = (None, cell.std) if block.of_means else (cell.std, None)
                    lines.writerow([number, *names, row.kind, row.num_runs, shown, *errors, notes, *where])
    return text.getvalue()


# --- Markdown ---


def as_markdown(tables: Sequence[Table]) -> str:
    """Tables as GitHub renders them."""
    return "\n\n".join(_markdown(table) for table in tables) + "\n"


def _markdown(table: Table) -> str:
    letter = letters(table.notes)

    def noted(words: str, notes: Sequence[str]) -> str:
        signs = ", ".join(letter[note] for note in notes)
        return f"{words} <sup>{signs}</sup>" if signs else words

    parts = [f"### {markdown.text(table.title)}"]
    parts += [f"> **{NOT_THE_BENCHMARK}:** {markdown.text(mark)}" for mark in table.marks]
    for block in table.blocks:
        head = [f"**{block.title}**", "", *(markdown.text(column.heading) for column in block.columns)]
        rows = [
            [
                noted(markdown.text(row.label), row.notes),
                f"*{row.origin}*" if row.kind == "published" else row.origin,
                *(
                    noted(_markdown_cell(cell, column), cell.notes)
                    for column, cell in zip(block.columns, row.cells, strict=True)
                ),
            ]
            for row in block.rows
        ]
        parts.append(markdown.table(head, rows, numbers=len(block.columns)))
    below = [markdown.text(remark) for remark in table.remarks]
    below += [f"Published rows: {markdown.text(table.source)}."] if table.source else []
    below += [f"<sup>{letter[note]}</sup> {markdown.text(note)}" for note in table.notes]
    return "\n\n".join([*parts, "  \n".join(below)])


def _markdown_cell(cell: Cell, column: Column) -> str:
    return markdown.text(cell.words) if cell.words is not None else written(cell, column, "\N{EN DASH}")


# --- LaTeX ---

_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "[": "{[}", "]": "{]}", "*": "{*}", "±": r"$\pm$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip
"""`[` and `*` behind the end of a row would be read as its options."""


def as_latex(tables: Sequence[Table]) -> str:
    """Tabulars with booktabs rules; title, marks and notes are rows, so that they go where the tabular goes."""
    parts = [_latex(part) for table in tables for part in _by_columns(table)]
    return "% Needs \\usepackage{booktabs}.\n" + "\n\n".join(parts) + "\n"


def _by_columns(table: Table) -> list[Table]:
    """A table for each run of blocks with the same headings, which share one tabular."""
    headings = [[column.heading for column in block.columns] for block in table.blocks]
    starts = [i for i in range(len(headings)) if i == 0 or headings[i] != headings[i - 1]]
    ends = [*starts[1:], len(headings)]
    return [replace(table, blocks=table.blocks[start:end]) for start, end in zip(starts, ends, strict=True)]


def _latex(table: Table) -> str:
    columns = table.blocks[0].columns
    letter = letters(table.notes)
    width = len(columns) + 2

    def noted(words: str, notes: Sequence[str]) -> str:
        return words + (f"$^{{{','.join(letter[note] for note in notes)}}}$" if notes else "")

    body = []
    for block in table.blocks:
        body += [r"\midrule", rf"\multicolumn{{{width}}}{{@{{}}l}}{{\textit{{{block.title}}}}} \\"]
        for previous, row in zip([None, *block.rows], block.rows, strict=False):
            if previous is not None and previous.kind != row.kind:
                body.append(rf"\cmidrule{{1-{width}}}")
            cells = zip(row.cells, columns, strict=True)
            line = [noted(_escaped(row.label), row.notes), _escaped(row.origin)]
            line += [noted(_latex_cell(cell, column), cell.notes) for cell, column in cells]
            body.append(" & ".join(line) + r" \\")

    rows = [row for block in table.blocks for row in block.rows]
    letters_wide = max((len(row.label + row.origin) for row in rows), default=0)
    letters_wide += sum(max(map(len, ["00.00", *_words(column.heading)])) for column in columns)
    # About as wide as the columns: a wider paragraph would stretch the last of them.
    paragraph = rf"\multicolumn{{{width}}}{{@{{}}p{{{round(0.5 * letters_wide + width)}em}}@{{}}}}"

    headings = [_stacked([_escaped(word) for word in _words(column.heading)]) for column in columns]
    above = [rf"\textbf{{{_escaped(table.title)}}}"]
    above += [rf"\textbf{{{NOT_THE_BENCHMARK}:}} {_escaped(mark)}" for mark in table.marks]
    below = [_escaped(remark) for remark in table.remarks]
    below += [f"Published rows: {_escaped(table.source)}."] if table.source else []
    below += [f"$^{{{letter[note]}}}$ {_escaped(note)}" for note in table.notes]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{@{{}}ll{'r' * len(columns)}@{{}}}}",
            *(f"{paragraph}{{{line}}} \\\\" for line in above),
            r"\toprule",
            " & ".join(["", "", *headings]) + r" \\",
            *body,
            r"\bottomrule",
            *(f"{paragraph}{{\\footnotesize {line}}} \\\\" for line in below),
            r"\end{tabular}",
        ]
    )


def _stacked(words: Sequence[str]) -> str:
    lines = r"\\".join(words)
    return lines if len(words) == 1 else rf"\shortstack[r]{{{lines}}}"


def _escaped(words: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in visible(words))


def _latex_cell(cell: Cell, column: Column) -> str:
    """A cell as `written`, in mathematics where it has a sign."""
    if cell.words is not None:
        return _escaped(cell.words)
    words = written(cell, column, "--")
    if "\N{PLUS-MINUS SIGN}" in words:
        return "$" + words.replace("\N{PLUS-MINUS SIGN}", r"\pm") + "$"
    return f"${words}$" if words.startswith(("-", "+")) and words != "--" else words


WRITERS: dict[str, Callable[[Sequence[Table]], str]] = {
    "text": as_text,
    "csv": as_csv,
    "markdown": as_markdown,
    "latex": as_latex,
}
"""Every format by its name."""
