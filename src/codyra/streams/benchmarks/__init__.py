"""X-TAIL and MTIL: which data sets, in which order, under which names and prompts (docs/benchmarks.md)."""

from codyra.streams.benchmarks.definition import Benchmark, DataSet, Listing
from codyra.streams.benchmarks.mtil import MTIL
from codyra.streams.benchmarks.source import read_data_set
from codyra.streams.benchmarks.xtail import XTAIL

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in (XTAIL, MTIL)}

__all__ = ["BENCHMARKS", "Benchmark", "DataSet", "Listing", "read_data_set"]
