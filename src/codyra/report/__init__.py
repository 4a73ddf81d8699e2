"""The report: one self-contained HTML page from finished or unfinished run folders."""

from codyra.report.page import render

__all__ = ["render"]
