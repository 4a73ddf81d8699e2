"""What follows from the scores and updates in a run folder: the accuracy tables, metrics.json, report.html."""

from collections.abc import Sequence
from typing import Any

from codyra.engine import results
from codyra.engine.folder import DERIVED, Row, RunFolder
from codyra.engine.folder_reader import read_run
from codyra.engine.results import LabelSpace
from codyra.reading import damaged
from codyra.report import render


def read_rows(folder: RunFolder, names: Sequence[str], among: Sequence[str]) -> tuple[Row, list[Row]]:
    """The zero-shot row, and those of the tasks up to the first that was not scored among these tasks' classes."""
    zero_shot = folder.read_row(folder.row_file(0, names), names, among)
    if zero_shot is None:
        damaged(folder.path / "zero_shot.json", "it is missing or of other tasks")
    rows: list[Row] = []
    while len(rows) < len(names) and (
        row := folder.read_row(folder.row_file(len(rows) + 1, names), names, among)
    ):
        rows.append(row)
    return zero_shot, rows


def write_matrices(
    folder: RunFolder, names: Sequence[str], among: Sequence[str], label_space: LabelSpace
) -> None:
    """accuracy.csv and accuracy_task.csv, as far as there are scores."""
    zero_shot, rows = read_rows(folder, names, among)
    named = [("zero-shot", zero_shot), *zip(names, rows, strict=False)]
    for file, space in results.matrix_files(zero_shot, label_space).items():
        folder.write_matrix(file, names, [(after, results.cells(row, space)) for after, row in named])


def write_summary(
    folder: RunFolder, names: Sequence[str], label_space: LabelSpace, manifest: dict[str, Any]
) -> None:
    """Everything that is written when all tasks are learnt and scored; the manifest, now finished, comes last."""
    among = manifest["scored_among"]
    folder.write_manifest(manifest, before=DERIVED)
    write_matrices(folder, names, among, label_space)
    zero_shot, rows = read_rows(folder, names, among)
    figures = results.summarise(
        names,
        zero_shot,
        rows,
        label_space,
        [folder.read_update(index, name) for index, name in enumerate(names)],
        [folder.read_figure(folder.row_file(number, names), "drift") for number in range(1, len(names) + 1)],
        manifest["method"]["trainable_parameters"],
        folder.memory_bytes(names),
        manifest.get("benchmark"),
    )
    folder.write_json("metrics.json", figures)
    folder.write_text("report.html", render([read_run(folder.path)], times=False))
    manifest["status"] = "finished"
    folder.write_manifest(manifest)


def rewrite_report(folder: RunFolder) -> None:
    """report.html anew, of a run that may be unfinished; its page has no times, as no two runs share them."""
    page = render([read_run(folder.path)], times=False)
    manifest = folder.read_json("manifest.json")
    folder.write_manifest(manifest, before=["report.html"])
    folder.write_text("report.html", page)
    folder.write_manifest(manifest)
