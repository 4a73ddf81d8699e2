"""The four ways to write a table: complete, aligned, escaped, readable by what they are for."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from codyra.engine.folder_reader import read_run
from codyra.report.table import Block, Cell, Column, Row, Table, build_tables
from codyra.report.table_formats import WRITERS, as_csv, as_latex, as_markdown, as_text, letters, written
from report.benchmarks import VIT_B16, XTAIL, xtail

NewRun = Callable[..., Path]
HOSTILE = "a|b & c_d\n\x1b[31m%$#{}~^\\ <b>`*[x] \u202e"
MARK = "dtd: rebuilt split, seed 1"


@pytest.fixture
def tables(new_run: NewRun) -> list[Table]:
    """An X-TAIL run with a mark in two seeds, and a stream of one's own."""
    options = {"steps": 2, "num_layers": 1, "images_per_task": 0}
    runs = [
        new_run(
            f"codyra-{seed}",
            tasks=XTAIL,
            benchmark=xtail(marks=[MARK]),
            parameters=VIT_B16,
            seed=seed,
            **options,
        )
        for seed in (1, 2)
    ]
    return build_tables([read_run(run) for run in [*runs, new_run("own", tasks=("a", "b_c"), **options)]])


def hostile() -> Table:
    """Every text of a table as an enemy would write it."""
    columns = (Column("last", HOSTILE, HOSTILE), Column("last", "mean"))
    cells = (Cell(-1.25, notes=(HOSTILE,)), Cell(2.0, 0.5))
    rows = (Row(HOSTILE, "measured", cells, 2, (f"{HOSTILE} 2",)), Row("x", "published", cells))
    return Table(HOSTILE, (HOSTILE,), (HOSTILE,), (Block("Last", columns, rows),), "source")


def unescaped(line: str, signs: str) -> list[str]:
    return re.findall(rf"(?<!\\)[{signs}]", line)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_shows_marks_published_rows_and_ends_with_one_newline(
    name: str, tables: list[Table]
) -> None:
    text = WRITERS[name](tables)
    for words in (MARK, "MoRAM", "published", "measured", "suspect"):
        assert words in text
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert text == WRITERS[name](tables)
    if name != "csv":
        assert text.index(MARK) < text.index("measured")
        assert "Not the benchmark" in text


@pytest.mark.parametrize("name", WRITERS)
def test_names_are_text_and_nothing_else(name: str) -> None:
    text = WRITERS[name]([hostile()])
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "c_d\n" not in text


# --- numbers ---


@pytest.mark.parametrize(
    ("cell", "digits", "expected"),
    [
        (Cell(), 1, "?"),
        (Cell(63.24), 1, "63.2"),
        (Cell(-0.04), 1, "0.0"),
        (Cell(-1.26), 1, "-1.3"),
        (Cell(63.214, 0.036), 1, "63.21 ± 0.04"),
        (Cell(-0.001, 0.0), 1, "0.00 ± 0.00"),
        (Cell(1.875), 2, "1.88"),
        (Cell(98_304), None, "98,304"),
        (Cell(4_425_984, 0.0), None, "4.4 M"),
        (Cell(0.0), 1, "0.0"),
    ],
)
def test_numbers(cell: Cell, digits: int | None, expected: str) -> None:
    assert written(cell, Column("last", "mean", digits=digits), "?") == expected


def test_letters_go_on_after_z() -> None:
    found = letters([str(number) for number in range(28)])
    assert list(found.values())[24:] == ["y", "z", "aa", "bb"]


# --- text ---


def test_text_is_aligned(tables: list[Table]) -> None:
    own = as_text(tables[1:]).splitlines()
    start = next(index for index, line in enumerate(own) if line.startswith(" Last"))
    rows = own[start + 2 : start + 4]
    assert own[start + 1].strip(" -") == ""
    assert own[start].split() == ["Last", "a", "c", "mean"]  # b_c breaks behind its underscore
    assert [line.split()[:2] for line in rows] == [["zero-shot", "measured"], ["codyra", "measured"]]
    assert len({len(line) for line in [own[start], *rows]}) == 1


def test_a_rule_divides_measured_from_published(tables: list[Table]) -> None:
    lines = as_text(tables[:1]).splitlines()
    for index, line in enumerate(lines):
        if line.startswith(" CLIP zero-shot"):
            assert set(lines[index - 1].strip()) == {"-"}


# --- CSV ---


def test_csv_has_every_cell_in_full(tables: list[Table]) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(tables))))
    assert len(lines) == sum(
        len(row.cells) for table in tables for block in table.blocks for row in block.rows
    )
    expected = [
        (column.metric, column.data_set or "", row.label, row.kind, cell.value, cell.std)
        for table in tables
        for block in table.blocks
        for row in block.rows
        for column, cell in zip(block.columns, row.cells, strict=True)
    ]

    def number(text: str) -> float | None:
        return float(text) if text else None

    found = [
        (
            line["metric"],
            line["data_set"],
            line["method"],
            line["kind"],
            number(line["value"]),
            number(line["std"]),
        )
        for line in lines
    ]
    assert found == expected
    marks = {(line["kind"], line["marks"]) for line in lines if line["table"] == "1"}
    assert marks == {("measured", MARK), ("published", "")}
    assert {line["marks"] for line in lines if line["table"] == "2"} == {""}
    assert {line["n"] for line in lines if line["kind"] == "published"} == {""}
    assert {line["n"] for line in lines if line["method"] == "codyra" and line["table"] == "1"} == {"2"}
    doubtful = [line for line in lines if line["method"] == "MoRAM" and "suspect" in line["note"]]
    assert [(line["metric"], line["data_set"]) for line in doubtful] == [
        ("last", "aircraft"),
        ("last", "caltech101"),
    ]
    assert "98304" in {line["value"] for line in lines if line["metric"] == "trainable_parameters"}


def test_hostile_csv_is_read_back() -> None:
    lines = list(csv.reader(io.StringIO(as_csv([hostile()]), newline="")))
    assert {len(line) for line in lines} == {len(lines[0])}
    assert len(lines) == 1 + 4


# --- Markdown ---


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


@pytest.mark.parametrize("enemy", [False, True])
def test_markdown_tables_are_rectangular(enemy: bool, tables: list[Table]) -> None:
    text = as_markdown([hostile()] if enemy else tables)
    blocks = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(blocks) == (1 if enemy else 8)
    for lines in blocks:
        assert set(cells_of(lines[1])) == {"---", "---:"}
        assert len({len(cells_of(line)) for line in lines}) == 1
    assert "<b>" not in text


# --- LaTeX ---


def rows_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.endswith(r"\\")]


@pytest.mark.parametrize("enemy", [False, True])
def test_latex_is_balanced_and_rectangular(enemy: bool, tables: list[Table]) -> None:
    for tabular in as_latex([hostile()] if enemy else tables).split("\n\n"):
        assert tabular.count(r"\begin{tabular}") == tabular.count(r"\end{tabular}") == 1
        assert [tabular.count(rule) for rule in (r"\toprule", r"\bottomrule")] == [1, 1]
        spec = re.search(r"\\begin\{tabular\}\{@\{\}(l+r+)@\{\}\}", tabular)
        assert spec is not None
        for line in rows_of(tabular):
            assert len(unescaped(line, "{")) == len(unescaped(line, "}"))
            assert len(unescaped(line, "$")) % 2 == 0
            assert unescaped(line, "%#") == []
            if r"\multicolumn" not in line:
                assert len(unescaped(line, "&")) == len(spec[1]) - 1, line


def test_latex_escapes_each_sign() -> None:
    row = next(line for line in rows_of(as_latex([hostile()])) if line.startswith("a"))
    assert row.startswith(
        r"a\textbar{}b \& c\_d\textbackslash{}n\textbackslash{}x1b{[}31m\%\$\#\{\}\textasciitilde{}\textasciicircum{}"
        r"\textbackslash{} \textless{}b\textgreater{}`{*}{[}x{]} "
    )
    assert r"$-1.2$$^{b}$" in row
    assert r"$2.00 \pm 0.50$" in row


def test_latex_packs_score_blocks_into_one_tabular(tables: list[Table]) -> None:
    xtail_scores, xtail_figures, *own = as_latex(tables).split("\n\n")
    for title in ("Transfer", "Average", "Last"):
        assert rf"\textit{{{title}}}" in xtail_scores
    assert r"\shortstack[r]{oxford\_\\flowers}" in xtail_scores
    assert MARK in xtail_figures  # it may be taken alone
    assert len(own) == 2
    assert r"\shortstack[r]{b\_\\c}" in own[0]
    assert "published" not in own[0]
