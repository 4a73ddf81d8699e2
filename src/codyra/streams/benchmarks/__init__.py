"""X-TAIL, MTIL and TRACE: which data sets, in which order, under which names and prompts (docs/benchmarks.md)."""

from codyra.streams.benchmarks.definition import Benchmark, DataSet
from codyra.streams.benchmarks.image_sets import ImageBenchmark, Listing
from codyra.streams.benchmarks.mtil import MTIL
from codyra.streams.benchmarks.source import read_answer_set, read_image_set
from codyra.streams.benchmarks.trace import TRACE, TRACE_5000, AnswerBenchmark
from codyra.streams.benchmarks.xtail import XTAIL

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (XTAIL, MTIL, TRACE, TRACE_5000)
}
"""By the name that `data:` calls their data sets by."""

__all__ = [
    "BENCHMARKS",
    "AnswerBenchmark",
    "Benchmark",
    "DataSet",
    "ImageBenchmark",
    "Listing",
    "read_answer_set",
    "read_image_set",
]
