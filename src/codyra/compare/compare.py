"""`compare`: several methods on one stream with one budget, as many seeds as asked for, one table and one page."""

from collections.abc import Sequence
from pathlib import Path

from codyra import files
from codyra.compare.measured import Measured, measure
from codyra.compare.page import render
from codyra.compare.plan import CSV, MARKDOWN, PAGE, Comparison, Job, plan_comparison
from codyra.compare.runs import check_and_estimate, run_all
from codyra.compare.table import build_table
from codyra.engine.lock import only_writer
from codyra.engine.progress import Narrator
from codyra.errors import UserError
from codyra.report.charts import NUM_STYLES
from codyra.report.runs import comparable_groups
from codyra.report.table import Table
from codyra.report.table_formats import as_csv, as_markdown


class Results:
    """The finished runs of a comparison, each read once, and the files made of them."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self._measured: dict[tuple[str, int], Measured] = {}
        for job in comparison.jobs:
            if job.finished:
                self.read(job)

    def read(self, job: Job) -> None:
        """Take in a run that came to its end.

        Raises:
            UserError: it is damaged, or was made with other data or another base model than the first.
        """
        style = self.comparison.labels.index(job.label) % NUM_STYLES
        found = measure(job, style)
        for earlier in self._measured.values():
            self._check_same(job, earlier, found)
        self._measured[job.label, job.seed] = found

    def _check_same(self, job: Job, first: Measured, found: Measured) -> None:
        before, now = (measured.run.view.manifest for measured in (first, found))
        if (before.base.sha256, before.base.files) != (now.base.sha256, now.base.files):
            what, changed = "started from another base model", "the model"
        elif before.reference and now.reference and before.reference != now.reference:
            what, changed = "was given other reference data", "the reference data"
        elif len(comparable_groups([first.run, found.run])) > 1:
            what, changed = "learnt other data", "the data"
        else:
            return
        raise UserError(
            f"{job.folder}: {what} than {first.label}, seed {first.seed}; {changed} changed in between: restore it and "
            "delete that run's folder, or choose another --out"
        )

    def table(self) -> Table | None:
        """The table of what is finished; None where nothing is."""
        return (
            build_table(self._rows(), self.comparison.stored.reference, self.missing)
            if self._measured
            else None
        )

    @property
    def missing(self) -> list[str]:
        """Names of the runs that are not finished."""
        return [job.name for job in self.comparison.jobs if (job.label, job.seed) not in self._measured]

    def write(self) -> Table | None:
        """table.md, table.csv and compare.html of what is finished; the table."""
        table = self.table()
        if table is not None:
            page = render(table, self._rows(), self.comparison.stored.reference, self.missing)
            for name, text in (
                (MARKDOWN, as_markdown([table])),
                (CSV, as_csv([table])),
                (PAGE, page),
            ):
                files.write_text(self.comparison.folder / name, text)
        return table

    def _rows(self) -> dict[str, list[Measured]]:
        """The finished runs by label, in the order of the methods and the seeds."""
        rows: dict[str, list[Measured]] = {}
        for label in self.comparison.labels:
            runs = [self._measured.get((label, seed)) for seed in self.comparison.stored.seeds]
            if known := [run for run in runs if run is not None]:
                rows[label] = known
        return rows


def compare(
    source: str,
    methods: str | None = None,
    seeds: Sequence[int] = (),
    out: Path | None = None,
    *,
    overrides: Sequence[str] = (),
    reference: str | None = None,
    at_once: int = 1,
    dry_run: bool = False,
    narrator: Narrator | None = None,
) -> tuple[Results, dict[str, str]]:
    """Run what is not finished, then write table and page; a comparison that is there is continued or extended.

    Args:
        source, methods, seeds, out, overrides, reference: as for `plan_comparison`.
        at_once: processes that run at the same time.
        dry_run: check and estimate, write nothing.
        narrator: who tells what is going on; prints by default.

    Returns:
        What is finished, and the error line of every run that failed, by its name.

    Raises:
        UserError: anything the caller must change, found before the first run starts; finished runs are kept.
    """
    narrator = narrator or Narrator()
    comparison = plan_comparison(source, methods, seeds, out, overrides=overrides, reference=reference)
    if dry_run:
        check_and_estimate(comparison, at_once, narrator)
        narrator.say("dry run: every method passed every check, nothing was written")
        return Results(comparison), {}
    with only_writer(comparison.folder):
        check_and_estimate(comparison, at_once, narrator)
        comparison.write()
        results = Results(comparison)

        def on_finished(job: Job) -> None:
            results.read(job)
            results.write()

        failed = run_all(comparison.jobs, at_once, narrator, on_finished)
        results.write()
    return results, failed
