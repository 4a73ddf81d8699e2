"""The figures of a benchmark run beside the published ones, as a part of the page."""

from collections.abc import Sequence

from codyra.report.markup import Markup, breakable, join, scroll_box, tag
from codyra.report.numbers import DASH, MINUS
from codyra.report.runs import LabelledRun
from codyra.report.table import Block, build_table
from codyra.report.table_formats import NOT_THE_BENCHMARK, letters, written


def beside_published(group: Sequence[LabelledRun]) -> Markup:
    """The table that `codyra table` prints for these runs."""
    table = build_table(group)
    letter = letters(table.notes)
    return join(
        [
            tag("p", table.title, ".", class_="note"),
            tag("p", f"{NOT_THE_BENCHMARK}: {'; '.join(table.marks)}.", class_="warning")
            if table.marks
            else None,
            *(
                scroll_box(block_table(block, letter), f"{table.title}: {block.title}")
                for block in table.blocks
            ),
            *(tag("p", remark, class_="note") for remark in table.remarks),
            tag("p", f"Published rows: {table.source}.", class_="note") if table.source else None,
            *(tag("p", tag("sup", letter[note]), " ", note, class_="note") for note in table.notes),
        ]
    )


def block_table(block: Block, letter: dict[str, str], captioned: bool = True) -> Markup:
    """One block as a table; `letter` has the sign of every footnote. A heading may stand in for its caption."""

    def signs(notes: Sequence[str]) -> Markup | None:
        return tag("sup", ", ".join(letter[note] for note in notes)) if notes else None

    head = (tag("th", breakable(column.heading), scope="col") for column in block.columns)
    rows = []
    for previous, row in zip([None, *block.rows], block.rows, strict=False):
        first = previous is not None and previous.kind != row.kind
        cells = (
            tag("td", written(cell, column, DASH).replace("-", MINUS), signs(cell.notes))
            for cell, column in zip(row.cells, block.columns, strict=True)
        )
        label = tag("th", row.label, signs(row.notes), scope="row")
        rows.append(tag("tr", label, tag("td", row.origin), *cells, class_="first" if first else None))
    return tag(
        "table",
        tag("caption", block.title, class_=None if captioned else "hidden"),
        tag("thead", tag("tr", tag("td"), tag("td"), *head)),
        tag("tbody", *rows),
        class_="plain beside",
    )
