"""Methods on one stream with one budget: their runs, one table, one page (docs/compare.md)."""
